"""Tools for the API definition: `python proto/contract.py generate | check | lint | breaking`.

generate  writes the Python stubs beside the .proto files, and the descriptors of KServe's
check     fails if these do not match the .proto files, and names them
lint      applies buf's STANDARD rules
breaking  fails if anything that the last released tag published was changed or removed

All tools are pinned and installed in `.venv-proto`, which is created when it is missing or its pins change. Requires
only the standard library, a Python that the old generator has a wheel for, and npm for lint and breaking.
"""

import argparse
import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path(__file__).resolve().parent
ROOT = PROTO.parent
TOOLS = ROOT / ".venv-proto"
PINS = PROTO / "requirements.txt"
BUF = "@bufbuild/buf@1.75.0"
NEWEST_PYTHON = (3, 13)  # grpcio-tools 1.71 has wheels up to here
SOURCES = ("octavo/v1/inference.proto", "octavo/v1/models.proto")
KSERVE = "kserve/inference.proto"
DESCRIPTORS = Path("server/kserve/inference.binpb")


class ContractError(Exception):
    """An error that the user can fix, in one line."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command and return its standard output; on failure, raise with its output."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ContractError((done.stdout + done.stderr).strip() or f"{command[0]} exited with {done.returncode}")
    return done.stdout


def suitable_python() -> str:
    """Return this Python, or the newest on PATH that the generator has a wheel for."""
    if sys.version_info[:2] <= NEWEST_PYTHON:
        return sys.executable
    for minor in range(NEWEST_PYTHON[1], 10, -1):
        if found := shutil.which(f"python3.{minor}"):
            return found
    raise ContractError("the stub generator needs Python 3.11, 3.12 or 3.13 on PATH")


def prepare() -> Path:
    """Create the environment if it is missing or outdated, and return its Python."""
    python = TOOLS / "bin" / "python"
    stamp = TOOLS / "pins"
    pins = hashlib.sha256(PINS.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == pins:
        return python
    run(suitable_python(), "-m", "venv", "--clear", TOOLS)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", PINS)
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    rpc = TOOLS / "googleapis" / "google" / "rpc"
    rpc.mkdir(parents=True)
    for source in sorted((packages / "google" / "rpc").glob("*.proto")):
        shutil.copy(source, rpc)
    stamp.write_text(pins)
    return python


def prepare_buf() -> Path:
    """Install buf, whose npm package contains the binary, if it is missing."""
    prepare()
    folder = TOOLS / BUF.rpartition("@")[2]
    buf = folder / "node_modules" / ".bin" / "buf"
    if not buf.exists():
        if not shutil.which("npm"):
            raise ContractError("buf is installed with npm: install Node.js 18 or newer")
        folder.mkdir(exist_ok=True)
        run("npm", "install", "--loglevel=error", "--no-progress", "--no-audit", "--no-fund", "--prefix", folder, BUF)
    return buf


def describe() -> bytes:
    """The descriptors of KServe's messages, a FileDescriptorSet."""
    with tempfile.NamedTemporaryFile() as file:
        run(prepare(), "-m", "grpc_tools.protoc", f"--proto_path={PROTO}", f"--descriptor_set_out={file.name}", KSERVE)
        return Path(file.name).read_bytes()


def generate(into: Path) -> list[Path]:
    """Write the stubs of all sources to `into`, and return their relative paths."""
    python = prepare()
    plugin = python.with_name("protoc-gen-mypy_grpc")
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    includes = [f"--proto_path={PROTO}", f"--proto_path={TOOLS / 'googleapis'}"]
    run(python, "-m", "grpc_tools.protoc", f"--plugin=protoc-gen-mypy_grpc={plugin}", *includes, *outputs, *SOURCES)
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2*.py*") if path.suffix in {".py", ".pyi"})


def write() -> None:
    """Write all that is generated to its place."""
    generate(PROTO)
    (ROOT / DESCRIPTORS).write_bytes(describe())


def check() -> None:
    """Compare the committed stubs with newly generated ones, in both directions."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path: Path(folder, path).read_bytes() for path in generate(Path(folder))}
    held = {
        path.relative_to(PROTO): path.read_bytes()
        for path in (PROTO / "octavo").rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    stale = sorted(str(path) for path in fresh.keys() | held.keys() if fresh.get(path) != held.get(path))
    if (ROOT / DESCRIPTORS).read_bytes() != describe():
        stale.append(str(DESCRIPTORS))
    if stale:
        raise ContractError(f"stale, run make proto: {', '.join(stale)}")


def lint() -> None:
    """Apply buf's lint rules as configured in buf.yaml."""
    run(prepare_buf(), "lint")


def breaking() -> None:
    """Check that nothing published by the last released tag was changed. Without a release, everything may change."""
    tags = run("git", "tag", "--list", "v*", "--sort=-version:refname", "--merged").split()
    if not tags:
        print("nothing is released yet")
        return
    buf = prepare_buf()
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "released.tar")
        run("git", "archive", f"--output={archive}", tags[0], "proto", "buf.yaml")
        run("tar", "-xf", archive, "-C", folder)
        shutil.copytree(TOOLS / "googleapis", Path(folder, ".venv-proto", "googleapis"))
        run(buf, "breaking", "--against", folder)


def main() -> int:
    """Run one verb; print errors and return 1 if it fails."""
    verbs = {"generate": write, "check": check, "lint": lint, "breaking": breaking}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=verbs)
    verb = verbs[parser.parse_args().verb]
    try:
        with PINS.open() as lock:  # two processes would prepare the same folder
            fcntl.flock(lock, fcntl.LOCK_EX)
            verb()
    except ContractError as fault:
        print(f"contract: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
