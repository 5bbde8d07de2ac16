"""Folders of 8-bit models, which load without the original.

The weights are one safetensors file: for each linear map int8 `weight`, float32 `scale`, `bias` and `factor`, int32
`columns` and bfloat16 `outlier_weight`, named like the fields in `encoder.quantise`. Other files are copied from the
original's folder.
"""

import contextlib
import errno
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from encoder.calibration import calibration_ids
from encoder.configuration import read_architecture
from encoder.errors import DamagedFileError, FolderError
from encoder.families import Architecture
from encoder.folder import QUANTISED, describe, weight_files
from encoder.layers import Norm
from encoder.ops import Embeddings8
from encoder.quantise import OUTLIERS, QuantisedLayer, QuantisedLinear, quantise
from encoder.tensors import named
from encoder.weights import Checkpoint

_FORMAT = {"format": "octavo-int8", "version": "3"}
_COPIED = ("*.json", "*/config.json", "*.model", "*.txt", "LICEN[CS]E*", "NOTICE*", "README.md")


def is_quantised(folder: Path) -> bool:
    """Whether a folder has only 8-bit weights."""
    return folder.is_dir() and weight_files(folder) == (folder / QUANTISED,)


def save(folder: Path, out: Path) -> None:
    """Quantise a model folder and write it atomically.

    Raises:
        FolderError: the folder cannot be served, is already 8-bit, or `out` exists.
    """
    if out.exists():
        raise FolderError(f"{out} exists already")
    shape = read_architecture(folder)
    if is_quantised(folder):
        raise FolderError(f"{folder.name} is already in 8 bits")
    with torch.no_grad():
        parts = quantise(Checkpoint(folder), shape, calibration_ids(folder, shape))
        tensors = {
            name: tensor.contiguous() for index, part in enumerate(parts) for name, tensor in _names(index, part)
        }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        made = Path(scratch) / out.name
        made.mkdir()
        for file in {file for pattern in _COPIED for file in folder.glob(pattern)}:
            if not file.name.endswith(".safetensors.index.json"):
                target = made / file.relative_to(folder)
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, target)
        save_file(tensors, made / QUANTISED, metadata=_FORMAT)
        (made / QUANTISED).chmod(0o644)  # as the original's, regardless of safetensors
        try:
            made.rename(out)
        except OSError as error:
            if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:  # another process was faster
                raise FolderError(f"{out} exists already") from None
            raise


def kept(folder: Path, home: Path) -> Path:
    """Return the 8-bit form of a folder in `home`, creating it if necessary.

    Its name is a digest of the original and of the quantising code, so it is recreated if either changes.

    Raises:
        OSError: it cannot be written.
    """
    name = hashlib.blake2b(describe(folder).digest.encode(), digest_size=16)
    for source in ("quantise.py", "quantised.py", "calibration.py", "calibration.txt"):
        name.update(Path(__file__).with_name(source).read_bytes())
    out = home / f"{folder.resolve().name}-{name.hexdigest()}"
    if not out.exists():
        with contextlib.suppress(FolderError):  # another process was faster
            save(folder, out)
        if not out.exists():
            raise OSError(f"{out} could not be created")
    return out


def read(folder: Path, shape: Architecture) -> Iterator[Embeddings8 | QuantisedLayer]:
    """Read a folder's parts, embeddings first; tensors are views of the mapped file.

    Raises:
        DamagedFileError: the file is truncated, has another version, or does not fit the architecture.
    """
    reader = _Reader(folder, shape)
    hidden, wide = shape.hidden, shape.intermediate
    yield Embeddings8(
        words=reader.get("embeddings.words", torch.int8, (shape.vocabulary, hidden)),
        scale=reader.get("embeddings.scale", torch.float32, (shape.vocabulary,)),
        positions=reader.get("embeddings.positions", torch.bfloat16, (shape.types * shape.max_tokens, hidden)),
        norm=reader.norm("embeddings.norm"),
    )
    for index in range(shape.layers):
        prefix = f"layers.{index}"
        yield QuantisedLayer(
            qkv=reader.linear(f"{prefix}.qkv", 3 * hidden, hidden),
            mix=reader.linear(f"{prefix}.mix", hidden, hidden),
            mix_norm=reader.norm(f"{prefix}.mix_norm"),
            up=reader.linear(f"{prefix}.up", wide, hidden),
            down=reader.linear(f"{prefix}.down", hidden, wide),
            down_norm=reader.norm(f"{prefix}.down_norm"),
        )


class _Reader:
    """Reads tensors by name and checks their type and shape, since kernels do not."""

    def __init__(self, folder: Path, shape: Architecture) -> None:
        self._shape, self._where = shape, f"{folder.name}: {QUANTISED}"
        try:
            file: Any = safe_open(folder / QUANTISED, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise DamagedFileError(f"{self._where} is truncated or not safetensors") from error
        self._file = file
        metadata = self._file.metadata()
        if metadata != _FORMAT:
            raise DamagedFileError(f"{self._where} is not version {_FORMAT['version']}: quantise the original again")

    def get(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except SafetensorError as error:
            raise DamagedFileError(f"{self._where} has no {name}") from error
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            raise DamagedFileError(
                f"{self._where}: {name} is {tensor.dtype} {tuple(tensor.shape)}, not {dtype} {shape}"
            )
        return tensor

    def norm(self, name: str) -> Norm:
        size = (self._shape.hidden,)
        weight, bias = (self.get(f"{name}.{part}", torch.float32, size) for part in ("weight", "bias"))
        return Norm(weight, bias, self._shape.eps)

    def linear(self, name: str, outputs: int, inputs: int) -> QuantisedLinear:
        outliers = min(OUTLIERS, inputs)
        columns = self.get(f"{name}.columns", torch.int32, (outliers,))
        steps = columns.diff()
        if columns[0] < 0 or columns[-1] >= inputs or bool((steps <= 0).any()):
            raise DamagedFileError(f"{self._where}: {name}.columns are not ascending from 0 to {inputs - 1}")
        factor = self.get(f"{name}.factor", torch.float32, (inputs,))
        smooth = torch.ones(inputs, dtype=torch.bool)
        smooth[columns] = False
        if not torch.equal(factor > 0, smooth) or not bool(factor.isfinite().all()):
            raise DamagedFileError(f"{self._where}: {name}.factor is not 0 at outlier columns and positive elsewhere")
        return QuantisedLinear(
            weight=self.get(f"{name}.weight", torch.int8, (outputs, inputs)),
            scale=self.get(f"{name}.scale", torch.float32, (outputs,)),
            bias=self.get(f"{name}.bias", torch.float32, (outputs,)),
            columns=columns,
            outlier_weight=self.get(f"{name}.outlier_weight", torch.bfloat16, (outliers, outputs)),
            factor=factor,
        )


def _names(index: int, part: Embeddings8 | QuantisedLayer) -> Iterator[tuple[str, Tensor]]:
    return named(part, "embeddings." if index == 0 else f"layers.{index - 1}.")
