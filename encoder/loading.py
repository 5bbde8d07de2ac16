"""From a model folder to an encoder."""

from pathlib import Path

import torch
from transformers import AutoConfig

from encoder.calibration import calibration_ids
from encoder.errors import DamagedFileError
from encoder.families import Architecture, architecture
from encoder.folder import read_config
from encoder.model import Encoder
from encoder.ops.select import choose
from encoder.quantise import quantise
from encoder.stacks.eight import EightStack
from encoder.stacks.floating import FloatingStack
from encoder.weights import Checkpoint

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def load(folder: Path, *, scheme: str = "auto", device: str = "auto", kernels: str = "auto") -> Encoder:
    """Load a model folder; see `encoder.load`."""
    shape = read_architecture(folder)
    choice = choose(scheme, device, kernels)
    checkpoint = Checkpoint(folder)
    with torch.inference_mode():
        stack: EightStack | FloatingStack
        if choice.operations is not None:
            parts = quantise(checkpoint, shape, calibration_ids(folder, shape))
            stack = EightStack(parts, shape, choice.operations, choice.device)
        else:
            stack = FloatingStack(checkpoint, shape, _DTYPES[choice.scheme], choice.device)
    return Encoder(shape, stack, choice)


def read_architecture(folder: Path) -> Architecture:
    """A folder's architecture; transformers fills in what its configuration leaves out."""
    config = read_config(folder)
    if "model_type" not in config:
        raise DamagedFileError(f"{folder.name}: config.json names no model_type")
    try:
        filled = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True).to_dict()
    except (ValueError, TypeError, OSError) as error:
        architecture(config)  # says what is wrong in our own words, where we can
        raise DamagedFileError(f"{folder.name}: config.json does not make sense to transformers") from error
    return architecture(filled)
