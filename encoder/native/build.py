"""Builds the native core: `python -m encoder.native.build`.

Does nothing if the current sources are already built by the current compiler. A missing compiler is not an error: the
command reports it, and PyTorch serves.
"""

import argparse
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from encoder.native import library

# GCC 12 warns about the undefined vectors in its own intrinsics headers; Clang does not know the warning.
_QUIET = ("-Wno-unknown-warning-option", "-Wno-uninitialized", "-Wno-maybe-uninitialized")
_ONCE = ("forms.cpp", "threads.cpp")
"""What is compiled once, for any processor of the architecture."""
_ZIG = {"-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod"}
"""Flags that zig spells differently: its -march takes processors."""
GLIBC = "2.17"
"""The oldest GNU C library that wheels are for: that of 2012."""


class BuildError(RuntimeError):
    """The build failed; the message includes the compiler's output."""


def find_compiler() -> str | None:
    """The C++ compiler's command: $CXX, else the system's."""
    named = os.environ.get("CXX")
    if named:
        return named if shutil.which(shlex.split(named)[0]) else None
    return next(filter(None, map(shutil.which, ("g++", "c++"))), None)


def portable_compiler() -> str | None:
    """The command of a C++ compiler for GLIBC and all later ones: zig's, from PyPI's ziglang if that is installed."""
    if sys.platform != "linux" or importlib.util.find_spec("ziglang") is None:
        return None
    target = f"{library.architecture()}-linux-gnu.{GLIBC}"
    return shlex.join((sys.executable, "-m", "ziglang", "c++", "-target", target))


def describe(compiler: str) -> str:
    """The compiler's name and version in one line.

    Raises:
        BuildError: it does not report its version.
    """
    said = subprocess.run([*shlex.split(compiler), "--version"], capture_output=True, text=True, check=False)  # noqa: S603
    if said.returncode or not said.stdout:
        raise BuildError(f"{compiler} does not report its version")
    return said.stdout.splitlines()[0]


def writable_folder() -> Path:
    """The first writable build folder."""
    for folder in library.folders():
        try:
            folder.mkdir(mode=0o755, parents=True, exist_ok=True)
            folder.chmod(0o755)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise BuildError(f"none of {', '.join(map(str, library.folders()))} is writable")


def commands(compiler: str, architecture: str, work: Path, *, emulated: bool = True) -> list[tuple[str, ...]]:
    """One command per object: each kernel file for each form of an architecture, and what all forms share once."""
    flags = (*shlex.split(compiler), *library.BASE_FLAGS, f"-I{library.FOLDER}")
    left_out = library.EMULATED
    if emulated:
        flags, left_out = (*flags, "-DOCTAVO_WITH_EMULATED"), frozenset()
    made: list[tuple[str, ...]] = []
    for path in sorted(library.FOLDER.glob("*.cpp")):
        if path.name in _ONCE:
            made.append((*flags, "-c", str(path), "-o", str(work / f"{path.stem}.o")))
            continue
        for form, extra in library.FORMS[architecture].items():
            if form in left_out:
                continue
            spelled = (_ZIG.get(flag, flag) for flag in extra) if "ziglang" in flags else extra
            named = (*flags, *_QUIET, *spelled, f"-DOCTAVO_FORM={form}")
            made.append((*named, "-c", str(path), "-o", str(work / f"{path.stem}.{form}.o")))
    return made


def _run(command: tuple[str, ...]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr}")
    if done.stderr:
        sys.stderr.write(done.stderr)


def build(compiler: str, folder: Path, *, shipped: bool = False) -> Path:
    """Compile and link into `folder` under the build's key, atomically.

    Args:
        compiler: the command.
        folder: where builds are.
        shipped: for a wheel: without the forms for tests, and without symbols.

    Raises:
        BuildError: the compiler failed.
    """
    target = library.build_of(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as scratch:
        work = Path(scratch)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_run, commands(compiler, library.architecture(), work, emulated=not shipped)))
        ready = work / "ready"
        ready.mkdir()
        objects = sorted(str(path) for path in work.glob("*.o"))
        linker = (*shlex.split(compiler), "-shared", "-pthread", *(_stripped(work) if shipped else ()))
        _run((*linker, *objects, "-o", str(library.library_of(ready))))
        (ready / "compiler.txt").write_text(describe(compiler) + "\n", encoding="utf-8")
        for path in (ready, library.library_of(ready)):
            path.chmod(0o755)  # regardless of umask: a library that others can write is not loaded
        shutil.rmtree(target, ignore_errors=True)
        ready.rename(target)
    return target


def _stripped(work: Path) -> tuple[str, ...]:
    """Flags that keep all but the C interface out of the library's symbols, a static C++ library's among them."""
    if sys.platform != "linux":
        return ()
    exports = work / "exports.map"
    exports.write_text("{ global: octavo_kernels; local: *; };\n", encoding="utf-8")
    return "-s", f"-Wl,--version-script={exports}"


def platform_tag() -> str:
    """The platform of a wheel: any with GLIBC if `portable_compiler()` builds it, else this one alone."""
    if portable_compiler():
        return f"manylinux_{GLIBC.replace('.', '_')}_{library.architecture()}"
    return sysconfig.get_platform().replace("-", "_").replace(".", "_")


def ensure(*, force: bool = False) -> str:
    """Build if necessary and return a one-line summary.

    Raises:
        BuildError: the compiler failed, or no folder is writable.
    """
    if library.architecture() not in library.FORMS:
        return f"native core: not for {library.architecture()}; PyTorch serves"
    compiler = find_compiler()
    try:
        present = library.find()
    except library.NativeUnavailableError:
        present = None
    if compiler is None:
        return "native core: built" if present else "native core: no C++ compiler; PyTorch serves"
    if present and not force and library.compiler() == describe(compiler):
        return f"native core: up to date ({present.name})"
    began = time.monotonic()
    made = build(compiler, writable_folder())
    return f"native core: built {made.name} with {describe(compiler)} in {time.monotonic() - began:.0f} s"


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m encoder.native.build", description=__doc__)
    parser.add_argument("--force", action="store_true", help="rebuild even if nothing changed")
    try:
        print(ensure(force=parser.parse_args().force))
    except BuildError as error:
        print(f"native core: not built; PyTorch serves\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
