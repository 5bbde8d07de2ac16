"""Weights to layers to states. `load` gives an `Encoder`; `encoder.folder.describe` reads a folder without torch."""

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
    folder: Path, *, scheme: str = "auto", device: str = "auto", kernels: str = "auto", keep: Path | None = None
) -> "Encoder":
    """Load a model folder: configuration by transformers, weights by safetensors, memory-mapped.

    Args:
        folder: Hugging Face's layout; see `encoder.folder`.
        scheme: 'int8', 'bf16', 'fp32', or 'auto': int8 where a fast form of it is exact, else fp32 (on CUDA bf16).
        device: 'cpu', 'cuda:N', or 'auto': the first CUDA device where there is one, else the CPU.
        kernels: the best form of the 8-bit operations to consider on a CPU, 'native', 'onednn' or 'reference'; 'auto'
            considers all. All are right; they agree within rounding.
        keep: a folder for 8-bit weights: what one load quantised is what all later ones read. None, or where it cannot
            be written: quantised anew each time, in seconds to minutes.

    Raises:
        encoder.errors.FolderError: missing, damaged, of another family, or in need of code of its own.
        encoder.errors.SchemeError: an unknown scheme or form.
        encoder.errors.DeviceError: no such device.
    """
    from encoder import loading  # noqa: PLC0415 (torch takes seconds, and describing a folder does not need it)

    return loading.load(folder, scheme=scheme, device=device, kernels=kernels, keep=keep)


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(_HOMES[name]), name)
