"""Which number scheme and which kernels serve: instruction set and settings choose, never timing."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from encoder.errors import DeviceError, SchemeError
from encoder.ops import Operations
from encoder.ops.onednn import OneDnn
from encoder.ops.probe import exact

Scheme = Literal["int8", "bf16", "fp32"]
SCHEMES = ("auto", "int8", "bf16", "fp32")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and why nothing faster."""

    scheme: Scheme
    device: torch.device
    operations: Operations | None
    """The form that an 8-bit model runs on; None for the others."""
    kernels: str
    reason: str


def choose(scheme: str, device: str) -> Choice:
    """Choose for this machine.

    Args:
        scheme: 'int8', 'bf16', 'fp32', or 'auto': the fastest that is right here.
        device: 'cpu', 'cuda:N', or 'auto': the first CUDA device where there is one, else the CPU.

    Raises:
        SchemeError: an unknown scheme, or one that is asked for by name and is not exact here.
        DeviceError: an unknown device.
    """
    if scheme not in SCHEMES:
        raise SchemeError(f"scheme {scheme!r} is none of {', '.join(SCHEMES)}")
    where = _device(device)
    if scheme in {"auto", "int8"}:
        onednn = OneDnn()
        if exact(onednn):
            return Choice("int8", where, onednn, f"{onednn.name} on {capability()}", "")
        if scheme == "int8":
            raise SchemeError("scheme 'int8' is not exact here")
    chosen: Scheme = "bf16" if scheme == "bf16" else "fp32"
    return Choice(chosen, where, None, f"PyTorch {chosen} on {capability()}", "")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is none of auto, cpu, cuda:N") from error
    if where.type not in {"cpu", "cuda"}:
        raise DeviceError(f"device {device!r} is none of auto, cpu, cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} does not exist; CUDA devices here: {torch.cuda.device_count()}")
    return where


def capability() -> str:
    """The instruction set that PyTorch's own kernels use."""
    return torch.backends.cpu.get_cpu_capability()


def machine() -> str:
    """Library versions and the instruction set in force, settings included."""
    caps = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return f"torch={torch.__version__}·isa={capability()}·onednn={caps or 'all'}"
