"""Selects the number scheme and kernels by instruction set and settings, never by timing."""

import os
from dataclasses import dataclass
from typing import Literal

import torch

from encoder.errors import DeviceError, SchemeError
from encoder.native.library import EMULATED, FORMS
from encoder.ops import Operations
from encoder.ops.native import NativeUnavailableError, best, outlook
from encoder.ops.probe import exact
from encoder.ops.reference import Reference

Scheme = Literal["int8", "bf16", "fp32"]
SCHEMES = ("auto", "int8", "bf16", "fp32")
ISAS = ("auto", *dict.fromkeys(form for forms in FORMS.values() for form in forms if form not in EMULATED), "reference")
"""Forms of the native core, and plain PyTorch."""

_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that limit the instruction set."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The selection, and why nothing faster was selected.

    Attributes:
        operations: the operations that an 8-bit model runs on; None for other schemes.
    """

    scheme: Scheme
    device: torch.device
    operations: Operations | None
    kernels: str
    reason: str


def choose(scheme: str, device: str, isa: str = "auto") -> Choice:
    """Select for this machine; see `encoder.load` for the arguments.

    Raises:
        SchemeError: an unknown scheme, or an instruction set that is unknown or unavailable.
        DeviceError: an unknown device.
    """
    if scheme not in SCHEMES:
        raise SchemeError(f"scheme {scheme!r} is not one of {', '.join(SCHEMES)}")
    if isa not in ISAS:
        raise SchemeError(f"isa {isa!r} is not one of {', '.join(ISAS)}")
    where = _device(device)
    refusals: list[str] = []
    if scheme in {"auto", "int8"}:
        fast = _cuda(where, refusals) if where.type == "cuda" else _native(isa, refusals)
        if fast is not None:
            return Choice("int8", where, fast, fast.kernels, "; ".join(refusals))
        if scheme == "int8":
            plain = Reference()
            return Choice("int8", where, plain, plain.name, "; ".join(refusals))
    else:
        refusals = [f"scheme {scheme} was requested"]
    chosen: Scheme = "bf16" if scheme == "bf16" or (scheme == "auto" and where.type == "cuda") else "fp32"
    return Choice(chosen, where, None, f"PyTorch {chosen} on {_hardware(where)}", "; ".join(refusals + _limits(where)))


def _native(isa: str, refusals: list[str]) -> Operations | None:
    """The native operations; appends the reason to `refusals` if they are unavailable.

    Raises:
        SchemeError: the form named is unavailable.
    """
    if isa == "reference":
        refusals.append("isa reference was requested")
        return None
    try:
        native = best(isa)
    except NativeUnavailableError as error:
        refusals.append(str(error))
    else:
        if exact(native):
            slow = outlook(native.form) if isa == "auto" else f"isa {isa} was requested"
            refusals += [slow] if slow else []
            return native
        refusals.append(f"products of {native.kernels} are not exact here")
    if isa != "auto":
        raise SchemeError(refusals[-1])
    return None


def _cuda(device: torch.device, refusals: list[str]) -> Operations | None:
    from encoder.ops.cuda import Cuda  # noqa: PLC0415 (takes seconds to import; not needed on a CPU)

    cuda = Cuda()
    if exact(cuda, str(device)):
        return cuda
    refusals.append(f"bitsandbytes' 8-bit products are not exact on {device}")
    return None


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"device {device!r} is not one of auto, cpu, cuda:N") from error
    if where.type not in {"cpu", "cuda"}:
        raise DeviceError(f"device {device!r} is not one of auto, cpu, cuda:N")
    if where.type == "cuda" and (where.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {device!r} does not exist; CUDA devices here: {torch.cuda.device_count()}")
    return where


def _hardware(device: torch.device) -> str:
    """The instruction set that PyTorch's kernels use, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def _limits(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return []
    return [f"{name}={os.environ[name]} limits the instruction set" for name in _LIMITS if os.environ.get(name)]


def machine(device: torch.device) -> str:
    """Library versions, the instruction set and settings that limit it."""
    limits = ",".join(f"{name}={os.environ.get(name, '')}" for name in _LIMITS)
    return f"torch={torch.__version__}·cuda={torch.version.cuda}·hardware={_hardware(device)}·limits={limits}"
