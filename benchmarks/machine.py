"""Describes the machine and versions of a measurement."""

import os
import platform
import re
import subprocess
from collections.abc import Container, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from encoder.threads import usable_cores

# What decides which kernels can run, of the hundred flags that a CPU has.
_TELLING_FLAGS = (
    "avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "bf16", "i8mm", "sve",
)  # fmt: skip
_PACKAGES = (
    "octavo", "torch", "transformers", "tokenizers", "sentencepiece", "bitsandbytes", "numpy", "grpcio", "protobuf",
)  # fmt: skip
_BUSY_SHARE = 0.25

# Maker, family, models, name: as CPUID tells them and the makers' revision guides list them.
_MICROARCHITECTURES: tuple[tuple[str, int, Container[int], str], ...] = (
    ("AMD", 23, (*range(0x30, 0x40), *range(0x60, 0x80), *range(0x90, 0xA0)), "Zen 2"),
    ("AMD", 25, (*range(0x10), *range(0x20, 0x60)), "Zen 3"),
    ("AMD", 25, (*range(0x10, 0x20), *range(0x60, 0x80), *range(0xA0, 0xB0)), "Zen 4"),
    ("AMD", 26, range(0x80), "Zen 5"),
    ("Intel", 6, (85,), "Skylake or Cascade Lake"),
    ("Intel", 6, (106, 108), "Ice Lake"),
    ("Intel", 6, (143,), "Sapphire Rapids"),
    ("Intel", 6, (207,), "Emerald Rapids"),
    ("Intel", 6, (173, 174), "Granite Rapids"),
)


def describe() -> dict[str, Any]:
    """Describe CPU, cores that we may use, telling ISA flags, memory in bytes, and the load average now."""
    cpu = _cpu_info()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "cpu_family_model": " ".join(cpu[key] for key in ("cpu family", "model", "stepping") if key in cpu),
        "cores": usable_cores(),
        "cores_online": os.cpu_count(),
        "isa": [flag for flag in _TELLING_FLAGS if flag in flags],
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
    }


def processor(described: Mapping[str, Any]) -> str | None:
    """Name the microarchitecture: a virtual machine's own name for its CPU, such as "AMD EPYC", names none.

    None if it is unknown here.
    """
    maker = re.split(r"\W", described.get("cpu", ""))[0]
    family, model, *_ = [*map(int, described.get("cpu_family_model", "").split()), -1, -1]
    for own_maker, own_family, models, name in _MICROARCHITECTURES:
        if (maker, family) == (own_maker, own_family) and model in models:
            return f"{maker} {name}"
    return None


def busy(described: dict[str, Any]) -> str | None:
    """Warn if others were at work within the last minute; None on a quiet machine."""
    load, cores = described["load_average"][0], described["cores"]
    if load <= _BUSY_SHARE * cores:
        return None
    return f"the machine is busy: load average {load:.2f} on {cores} cores; times will not be worth much"


def versions() -> dict[str, str]:
    """Find Python's and the telling packages' versions; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Name the checkout's commit, with '-dirty' if tracked files differ from it; nothing outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_info() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    first = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
