"""The conversion of Rampart's ONNX file, on a small file that is encoded here by the format's description."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from server.fetch import rampart
from server.fetch.errors import ArchiveError

FLOAT, UINT8 = 1, 2  # ONNX's data types


def varint(number: int) -> bytes:
    """A number in protobuf's variable length."""
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])


def field(number: int, value: int | str | bytes) -> bytes:
    """A field of a message: a number, or a string of bytes with its length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, array: NDArray[np.generic], kind: int) -> bytes:
    """A `TensorProto` with raw data, as an initializer of a graph."""
    dims = b"".join(field(1, size) for size in array.shape)
    return field(5, dims + field(2, kind) + field(8, name) + field(9, array.tobytes()))


def scale(name: str, number: float) -> bytes:
    """A scalar in `float_data`, packed."""
    return field(5, field(2, FLOAT) + field(4, struct.pack("<f", number)) + field(8, name))


def zero_point(name: str, number: int) -> bytes:
    """A scalar in `int32_data`."""
    return field(5, field(2, UINT8) + field(5, varint(number)) + field(8, name))


def matrix_node(name: str, *, rows: int, columns: int, bits: int = 4) -> bytes:
    """A `MatMulNBits` node; its tensors are called q and s."""
    facts = {"K": columns, "N": rows, "bits": bits, "block_size": 32}
    attributes = b"".join(field(5, field(1, key) + field(3, value)) for key, value in facts.items())
    inputs = b"".join(field(1, each) for each in ("before", "q", "s"))
    return field(1, inputs + field(2, "after") + field(3, name) + field(4, "MatMulNBits") + attributes)


PAIRS = np.arange(3 * 2 * 16, dtype=np.uint8).reshape(3, 2, 16) * 37  # wraps: both halves of a byte vary
SCALES = np.linspace(0.1, 0.6, 6, dtype=np.float32)
WORDS = np.arange(12, dtype=np.uint8).reshape(4, 3)
BIAS = np.array([0.5, -1.5, 2.5], np.float32)
TENSORS = [
    tensor("classifier.bias", BIAS, FLOAT),
    tensor("bert.words.weight_quantized", WORDS, UINT8),
    scale("bert.words.weight_scale", 0.25),
    zero_point("bert.words.weight_zero_point", 7),
    tensor("q", PAIRS, UINT8),
    tensor("s", SCALES, FLOAT),
]
NODE = matrix_node("/classifier/MatMul_Q4", rows=3, columns=60)


def model(*parts: bytes) -> bytes:
    """A `ModelProto`; its first field is one that the conversion does not name."""
    return field(1, 8) + field(7, b"".join(parts))


def test_a_file_becomes_weights_under_transformers_names(tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(model(NODE, *TENSORS))
    rampart.convert(tmp_path)
    assert not (tmp_path / "tiny.onnx").exists()
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == {"classifier.bias", "bert.words.weight", "classifier.weight"}
    assert all(each.dtype == np.float32 for each in tensors.values())
    assert np.array_equal(tensors["classifier.bias"], BIAS)
    assert np.array_equal(tensors["bert.words.weight"], (WORDS.astype(np.float32) - 7) * np.float32(0.25))
    weights = tensors["classifier.weight"]
    assert weights.shape == (3, 60)
    for row, column in [(0, 0), (0, 1), (1, 31), (2, 32), (2, 59)]:
        pair = int(PAIRS[row, column // 32, column % 32 // 2])
        nibble = pair >> 4 if column % 2 else pair & 15
        assert weights[row, column] == (nibble - 8) * SCALES[row * 2 + column // 32]
    assert json.loads((tmp_path / "octavo.json").read_text())["licence"] == "CC-BY-4.0"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"GGUF" + bytes(100), id="another format"),
        pytest.param(model(NODE, *TENSORS)[:-20], id="truncated"),
        pytest.param(model(NODE, *TENSORS[:4]), id="no tensors of a matrix"),
        pytest.param(model(matrix_node("/m", rows=3, columns=60, bits=8), *TENSORS), id="8 bits"),
        pytest.param(model(matrix_node("/m", rows=2, columns=60), *TENSORS), id="other rows"),
        pytest.param(model(tensor("bert.x", BIAS, 7)), id="another type"),
        pytest.param(model(field(5, field(1, 1 << 40) + field(2, 1) + field(8, "bert.x"))), id="a huge shape"),
        pytest.param(model(field(5, field(1, 4) + field(2, 1) + field(8, "bert.x") + field(9, b"1234"))), id="short"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"other\.onnx"):
        rampart.convert(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
