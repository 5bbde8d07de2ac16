"""Finds the built library, and the forms that it has for this kind of processor."""

import ctypes
import hashlib
import os
import platform
import stat
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

# No contraction: a compiler that fuses a product and a sum on its own changes the last bit.
BASE_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-pthread", "-Wall", "-Wextra")
# Exactly what forms.cpp looks for, and no more: a hypervisor may hide some of an architecture level's features.
_AVX2 = ("-mavx2", "-mfma", "-DOCTAVO_AVX2")
_AVX512 = ("-mavx2", "-mfma", *(f"-mavx512{part}" for part in ("f", "bw", "cd", "dq", "vl", "vnni")), "-DOCTAVO_AVX512")
FORMS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "amx": (*_AVX512, "-mamx-tile", "-mamx-int8"),
        "avx512": _AVX512,
        "avx_vnni": (*_AVX2, "-DOCTAVO_AVX_VNNI"),
        "avx2": _AVX2,
        "generic": (),
        "amx_emulated": (*_AVX512, "-DOCTAVO_EMULATE_AMX"),
        "avx_vnni_evex": (*_AVX2, "-DOCTAVO_AVX_VNNI", "-DOCTAVO_EVEX"),
    },
    "aarch64": {"neon": ("-march=armv8.2-a+dotprod", "-DOCTAVO_NEON"), "generic": ()},
}
"""For each architecture its forms, fastest first, and their compiler flags."""

EMULATED = frozenset({"amx_emulated", "avx_vnni_evex"})
"""Forms for tests alone."""


class NativeUnavailableError(RuntimeError):
    """The native core cannot be used; the message tells the operator why."""


def architecture() -> str:
    """This processor's architecture, as the compilers name it."""
    machine = platform.machine()
    return {"AMD64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def forms() -> tuple[str, ...]:
    """The forms that may serve on this architecture, fastest first."""
    return tuple(form for form in FORMS.get(architecture(), {}) if form not in EMULATED)


def sources() -> tuple[Path, ...]:
    """All source files, in a fixed order."""
    return tuple(sorted(path for path in FOLDER.rglob("*") if path.suffix in {".cpp", ".h"}))


@cache
def key() -> str:
    """Identifies a build: sources and flags. The compiler is recorded separately."""
    digest = hashlib.blake2b(repr((BASE_FLAGS, FORMS)).encode(), digest_size=12)
    for path in sources():
        digest.update(f"\0{path.relative_to(FOLDER).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def folders() -> tuple[Path, ...]:
    """Build folders: beside the sources, or in the user's cache if that is not writable."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))  # the XDG specification ignores relative paths
    cache_home = named if named.is_absolute() else Path.home() / ".cache"
    return FOLDER / "_build", cache_home / "octavo" / "native"


def build_of(folder: Path) -> Path:
    """The build of the current sources in one of `folders()`, whether or not it exists."""
    return folder / key()


def library_of(build: Path) -> Path:
    """The library file of a build."""
    return build / f"liboctavo{'.dylib' if sys.platform == 'darwin' else '.so'}"


def find() -> Path:
    """Find the build of the current sources.

    Raises:
        NativeUnavailableError: it does not exist, or other users can write to it.
    """
    for build in map(build_of, folders()):
        if library_of(build).is_file():
            if not all(map(_is_ours, (build.parent, build, library_of(build)))):
                raise NativeUnavailableError(f"the native core in {build} could have been replaced by another user")
            return build
    raise NativeUnavailableError(
        "the native core is not built: install Octavo's wheel for this platform, or run "
        "python -m encoder.native.build, which needs a C++ compiler"
    )


def _is_ours(path: Path) -> bool:
    """Whether only this user, root, and who can write these sources can write to it, since loading it executes code."""
    status, sources = path.stat(), FOLDER.stat()
    others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if status.st_gid == sources.st_gid:  # pip installs files that a group can write, if the umask is 002
        others &= ~(sources.st_mode & stat.S_IWGRP)
    return status.st_uid in {0, os.geteuid(), sources.st_uid} and not others


@cache
def load() -> ctypes.CDLL:
    """Load the library.

    Raises:
        NativeUnavailableError: it is not built or cannot be loaded.
    """
    path = library_of(find())
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NativeUnavailableError(f"the native core cannot be loaded: {error}") from error


def compiler() -> str:
    """The compiler that built the library."""
    return (find() / "compiler.txt").read_text(encoding="utf-8").strip()
