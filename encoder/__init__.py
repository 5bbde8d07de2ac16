"""Loads and runs transformer encoders. `load` returns an `Encoder`; `encoder.folder.describe` needs no torch."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoder.batch import Batch, numpy_to_state, state_to_numpy
    from encoder.model import Encoder

__all__ = ["Batch", "Encoder", "load", "numpy_to_state", "state_to_numpy"]

_HOMES = {
    "Batch": "encoder.batch",
    "Encoder": "encoder.model",
    "numpy_to_state": "encoder.batch",
    "state_to_numpy": "encoder.batch",
}


def load(
    folder: Path,
    *,
    scheme: str = "auto",
    device: str = "auto",
    isa: str = "auto",
    keep: Path | None = None,
    digest: str | None = None,
) -> "Encoder":
    """Load a model folder: configuration through transformers, weights from memory-mapped safetensors.

    Args:
        folder: a folder in Hugging Face's layout; see `encoder.folder`.
        scheme: 'int8', 'bf16', 'fp32', or 'auto': int8 if a fast implementation is exact here, else fp32 (CUDA: bf16).
        device: 'cpu', 'cuda:N', or 'auto': the first CUDA device if there is one, else the CPU.
        isa: the instruction set of the 8-bit operations on a CPU: a form of the native core ('amx', 'avx512',
            'avx_vnni', 'avx2', 'neon', 'generic'), all with the same bits, or 'reference' for plain PyTorch. 'auto'
            takes the fastest form.
        keep: a folder for quantised weights, so that later loads reuse them. If None or not writable, each load
            quantises again, which takes seconds to minutes.
        digest: the folder's digest from `encoder.folder.describe`, if known; with `keep`, saves computing it.

    Raises:
        encoder.errors.FolderError: the folder is missing, damaged, of an unsupported family, or requires custom code.
        encoder.errors.SchemeError: an unknown scheme, or an instruction set that is unknown or unavailable.
        encoder.errors.DeviceError: no such device.
    """
    from encoder import loading  # noqa: PLC0415 (torch takes seconds, and describing a folder does not need it)

    return loading.load(folder, scheme=scheme, device=device, isa=isa, keep=keep, digest=digest)


def __getattr__(name: str) -> Any:
    """Import names that need torch on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
