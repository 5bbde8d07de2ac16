"""Finds the built library and decides which of its instruction sets can be used."""

import hashlib
import importlib.util
import os
import stat
import sysconfig
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

FOLDER = Path(__file__).parent
MODULE = "octavo_native"

BASE_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
KERNEL_FLAGS = ("-march=x86-64-v4", "-mavx512vnni")
# ATen's thread pool is a header over OpenMP; at run time it uses the OpenMP that PyTorch has loaded.
BINDING_FLAGS = ("-O1", "-fopenmp")
SETS = {
    "vnni": (),
    "bf16": ("-mavx512bf16",),
    "amx": ("-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
    "amx_emulated": ("-mavx512bf16", "-DOCTAVO_EMULATE_AMX"),
}
"""The library's instruction sets and their additional compiler flags. The last is only for tests."""

_NEEDS = (
    ("vnni", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512_vnni", "bmi2", "fma"}),
    ("bf16", {"avx512_bf16"}),
    ("amx", {"amx_tile", "amx_int8", "amx_bf16"}),
)
"""From slowest to fastest: the processor flags that each needs in addition to the previous one."""

# Values of ONEDNN_MAX_CPU_ISA as the number of sets of `_NEEDS` that they allow; values not listed allow all.
_NONE_UNDER_ONEDNN = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE"}
_LIMITS = dict.fromkeys(_NONE_UNDER_ONEDNN, 0) | {"AVX512_CORE_VNNI": 1, "AVX512_CORE_BF16": 2, "AVX512_CORE_FP16": 2}


class NativeUnavailableError(RuntimeError):
    """The native core cannot be used; the message tells the operator why."""


def sources() -> tuple[Path, ...]:
    """All source files, in a fixed order."""
    return tuple(sorted(path for path in FOLDER.iterdir() if path.suffix in {".cpp", ".h"}))


@cache
def key() -> str:
    """Identifies a build: sources, flags, PyTorch and Python. The compiler is recorded separately."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (torch.__version__, sysconfig.get_config_var("SOABI"), BASE_FLAGS, BINDING_FLAGS, KERNEL_FLAGS, SETS):
        digest.update(repr(part).encode())
    for path in sources():
        digest.update(f"\0{path.name}\0".encode() + path.read_bytes())
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
    return build / f"{MODULE}{sysconfig.get_config_var('EXT_SUFFIX')}"


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
    raise NativeUnavailableError("the native core is not built (python -m encoder.native.build)")


def _is_ours(path: Path) -> bool:
    """Whether only this user and root can write to it, since loading it executes code."""
    status = path.stat()
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@cache
def load() -> ModuleType:
    """Load the library as a module.

    Raises:
        NativeUnavailableError: it is not built or cannot be loaded.
    """
    path = library_of(find())
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if spec is None or spec.loader is None:
        raise NativeUnavailableError(f"this Python cannot load {path.name}")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        raise NativeUnavailableError(f"the native core cannot be loaded: {error}") from error
    return module


def compiler() -> str:
    """The compiler that built the library, which affects its results."""
    return (find() / "compiler.txt").read_text(encoding="utf-8").strip()


def processor_flags() -> frozenset[str]:
    """The processor's features by Linux's names; empty if unavailable."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def permitted_sets() -> tuple[str, ...]:
    """Usable instruction sets, fastest first: the processor's, within limits set for PyTorch and oneDNN.

    Raises:
        NativeUnavailableError: there are none.
    """
    limit = _LIMITS.get(os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper(), len(_NEEDS))
    if limit == 0:
        raise NativeUnavailableError("ONEDNN_MAX_CPU_ISA allows no AVX-512 with VNNI")
    if "AVX512" not in torch.backends.cpu.get_cpu_capability():
        raise NativeUnavailableError(f"PyTorch uses {torch.backends.cpu.get_cpu_capability()} here, not AVX-512")
    flags = processor_flags()
    sets: list[str] = []
    for name, needed in _NEEDS[:limit]:
        if not needed <= flags:
            break
        sets.insert(0, name)
    if not sets:
        raise NativeUnavailableError("the processor has no AVX-512 with VNNI")
    return tuple(sets)
