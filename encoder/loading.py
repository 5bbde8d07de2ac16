"""Builds an encoder from a model folder."""

import contextlib
from pathlib import Path

import torch

from encoder import quantised
from encoder.calibration import calibration_ids
from encoder.configuration import read_architecture
from encoder.errors import SchemeError
from encoder.folder import describe
from encoder.model import Encoder
from encoder.ops.select import choose
from encoder.quantise import quantise
from encoder.stacks.eight import EightStack
from encoder.stacks.floating import FloatingStack
from encoder.weights import Checkpoint

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load(
    folder: Path,
    *,
    scheme: str = "auto",
    device: str = "auto",
    isa: str = "auto",
    keep: Path | None = None,
    digest: str | None = None,
) -> Encoder:
    """Load a model folder; see `encoder.load`."""
    shape = read_architecture(folder)
    eight = quantised.is_quantised(folder)
    if eight and scheme not in {"auto", "int8"}:
        raise SchemeError(f"{folder.name} has only 8-bit weights: scheme {scheme!r} needs the original")
    choice = choose("int8" if eight else scheme, device, isa)
    if choice.operations is not None and not eight and keep is not None:
        with contextlib.suppress(OSError):
            folder, eight = quantised.kept(folder, keep, digest or describe(folder).digest), True
    # Not in inference mode: its tensors cannot be used by code outside it.
    with torch.no_grad():
        stack: EightStack | FloatingStack
        if choice.operations is None:
            stack = FloatingStack(Checkpoint(folder), shape, _DTYPES[choice.scheme], choice.device)
        elif eight:
            stack = EightStack(quantised.read(folder, shape), shape, choice.operations, choice.device)
        else:
            parts = quantise(Checkpoint(folder), shape, calibration_ids(folder, shape))
            stack = EightStack(parts, shape, choice.operations, choice.device)
    return Encoder(shape, stack, choice)
