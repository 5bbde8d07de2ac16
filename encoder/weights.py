"""Reads a checkpoint's tensors by name from memory-mapped safetensors files, never from pickles."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from encoder.errors import DamagedFileError
from encoder.folder import weight_files


class Checkpoint:
    """The tensors of a model folder.

    Tensors are views of the mapped files; pages are read when touched.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.name
        self._holder: dict[str, Any] = {}
        for file in weight_files(folder):
            try:
                holder: Any = safe_open(file, framework="pt", device="cpu")
            except (SafetensorError, OSError) as error:
                raise DamagedFileError(f"{self._folder}: {file.name} is truncated or not safetensors") from error
            self._holder.update(dict.fromkeys(holder.keys(), holder))

    def prefix(self, candidates: Sequence[str], name: str) -> str:
        """The candidate prefix under which a tensor is stored."""
        for candidate in candidates:
            if candidate + name in self._holder:
                return candidate
        raise DamagedFileError(f"{self._folder}: tensor {name} is missing")

    def get(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """A tensor of the given shape, in its stored type. Raises DamagedFileError if it is missing or differs."""
        # Checkpoints converted from TensorFlow call a norm's vectors gamma and beta.
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        stored = name if name in self._holder else old
        if stored not in self._holder:
            raise DamagedFileError(f"{self._folder}: tensor {name} is missing")
        tensor: Tensor = self._holder[stored].get_tensor(stored)
        if tuple(tensor.shape) != shape:
            raise DamagedFileError(
                f"{self._folder}: {name} has shape {tuple(tensor.shape)}, but the configuration requires {shape}"
            )
        if tensor.dtype not in {torch.float32, torch.float16, torch.bfloat16}:
            raise DamagedFileError(f"{self._folder}: {name} has unsupported type {tensor.dtype}")
        return tensor
