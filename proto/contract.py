"""Tools of the published contract: `python proto/contract.py generate | check | lint | breaking`.

generate  writes the Python stubs beside the .proto files
check     fails, naming the files, when the stubs are not what the .proto files generate
lint      buf's STANDARD rules
breaking  compares with the last released tag: what was published is never changed or taken back

Everything is pinned and lives in `.venv-proto`, which is made when it is missing or its pins have changed. Needs the
standard library alone, a Python for which the old generator has a wheel, and, for lint and breaking, npm.
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


class ContractError(Exception):
    """Something that the user can mend, in one line."""


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """The command's standard output; its output and exit code where it fails."""
    arguments = [str(part) for part in command]
    done = subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise ContractError((done.stdout + done.stderr).strip() or f"{command[0]} exited with {done.returncode}")
    return done.stdout


def suitable_python() -> str:
    """This Python, or the newest on PATH that the generator has a wheel for."""
    if sys.version_info[:2] <= NEWEST_PYTHON:
        return sys.executable
    for minor in range(NEWEST_PYTHON[1], 10, -1):
        if found := shutil.which(f"python3.{minor}"):
            return found
    raise ContractError("the stub generator needs Python 3.11, 3.12 or 3.13 on PATH")


def prepare() -> Path:
    """Makes the environment where it is missing or old, and returns its Python."""
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
    """Installs buf where it is missing; its npm package carries the binary."""
    prepare()
    folder = TOOLS / BUF.rpartition("@")[2]
    buf = folder / "node_modules" / ".bin" / "buf"
    if not buf.exists():
        if not shutil.which("npm"):
            raise ContractError("buf comes from npm: install Node.js 18 or newer")
        folder.mkdir(exist_ok=True)
        run("npm", "install", "--loglevel=error", "--no-progress", "--no-audit", "--no-fund", "--prefix", folder, BUF)
    return buf


def generate(into: Path) -> list[Path]:
    """Writes the stubs of all sources below `into`; returns their paths relative to it."""
    python = prepare()
    plugin = python.with_name("protoc-gen-mypy_grpc")
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
    includes = [f"--proto_path={PROTO}", f"--proto_path={TOOLS / 'googleapis'}"]
    run(python, "-m", "grpc_tools.protoc", f"--plugin=protoc-gen-mypy_grpc={plugin}", *includes, *outputs, *SOURCES)
    return sorted(path.relative_to(into) for path in into.rglob("*_pb2*.py*") if path.suffix in {".py", ".pyi"})


def check() -> None:
    """Compares the committed stubs with fresh ones, both ways."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {path: Path(folder, path).read_bytes() for path in generate(Path(folder))}
    held = {
        path.relative_to(PROTO): path.read_bytes()
        for path in (PROTO / "octavo").rglob("*_pb2*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    stale = sorted(str(path) for path in fresh.keys() | held.keys() if fresh.get(path) != held.get(path))
    if stale:
        raise ContractError(f"stale, run make proto: {', '.join(stale)}")


def lint() -> None:
    """Applies buf's lint rules, as buf.yaml says."""
    run(prepare_buf(), "lint")


def breaking() -> None:
    """Nothing that the last released tag published has changed; without a release everything may."""
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
    """Runs one verb; faults are printed and exit with 1."""
    verbs = {"generate": lambda: generate(PROTO), "check": check, "lint": lint, "breaking": breaking}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=verbs)
    verb = verbs[parser.parse_args().verb]
    try:
        with PINS.open() as lock:  # two at once would prepare the same folder
            fcntl.flock(lock, fcntl.LOCK_EX)
            verb()
    except ContractError as fault:
        print(f"contract: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
