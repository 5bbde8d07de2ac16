"""Tensors on the wire: BYTES that come in, and arrays that go out."""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from server.errors import DocumentTooLarge, InvalidCall
from server.v1.requests import Limits

DATATYPES = {"f4": "FP32", "f2": "FP16", "i1": "INT8", "u1": "UINT8", "i4": "INT32", "i8": "INT64"}
"""By NumPy's type."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output.

    Attributes:
        data: its elements in row-major order, little-endian.
    """

    datatype: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[Any]) -> "Tensor":
        """A tensor of numbers."""
        kind = array.dtype.str[1:]
        return cls(DATATYPES[kind], array.shape, array.astype(f"<{kind}", copy=False).tobytes())

    @classmethod
    def of_texts(cls, texts: Sequence[str], shape: tuple[int, ...]) -> "Tensor":
        """A tensor of BYTES."""
        elements = [text.encode() for text in texts]
        return cls("BYTES", shape, b"".join(_LENGTH.pack(len(element)) + element for element in elements))


def texts_of(request: Any, limits: Limits) -> dict[str, list[str]]:
    """The texts of a ModelInferRequest's inputs, by their names.

    Raises:
        InvalidCall: an input is not a tensor of one text a row.
        DocumentTooLarge: together they are over `max_document_bytes`.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidCall("raw_input_contents", f"{len(raw)} contents for {len(request.inputs)} inputs")
    inputs: dict[str, Sequence[bytes | memoryview]] = {}
    for i, tensor in enumerate(request.inputs):
        field = f"inputs[{i}]"
        if tensor.name in inputs:
            raise InvalidCall(f"{field}.name", "an input is given once")
        count = _rows(tensor, field, limits.max_documents)
        if raw and tensor.HasField("contents"):
            raise InvalidCall(f"{field}.contents", "contents are raw or typed, not both")
        if raw:
            inputs[tensor.name] = _split(raw[i], count, f"raw_input_contents[{i}]")
        else:
            inputs[tensor.name] = _typed(tensor.contents, count, f"{field}.contents")
    size = sum(len(element) for elements in inputs.values() for element in elements)
    if size > limits.max_document_bytes:
        message = f"{size:,} bytes of text; this server takes {limits.max_document_bytes:,} a request"
        raise DocumentTooLarge("inputs", message)
    return {
        name: [_text(element, f"{name}[{row}]") for row, element in enumerate(elements)]
        for name, elements in inputs.items()
    }


def _rows(tensor: Any, field: str, most: int) -> int:
    if tensor.datatype != "BYTES":
        raise InvalidCall(f"{field}.datatype", "inputs are BYTES")
    if unknown := sorted(tensor.parameters):
        shared = any(name.startswith("shared_memory") for name in unknown)
        why = "shared memory is not supported: send the contents" if shared else "inputs take no parameters"
        raise InvalidCall(f"{field}.parameters", why)
    shape: list[int] = list(tensor.shape)
    if len(shape) not in {1, 2} or min(shape) < 0 or shape[1:] not in ([], [1]):
        raise InvalidCall(f"{field}.shape", "the shape is [B] or [B, 1]")
    count = math.prod(shape)
    if not 0 < count <= most:
        raise InvalidCall(f"{field}.shape", f"a request has 1 to {most} texts")
    return count


def _split(data: bytes, count: int, field: str) -> list[memoryview]:
    """The elements of raw BYTES, each preceded by its length."""
    elements, position, view = [], 0, memoryview(data)
    for _ in range(count):
        start = position + _LENGTH.size
        if start > len(data):
            raise InvalidCall(field, f"it ends before its {count} elements")
        (size,) = _LENGTH.unpack_from(data, position)
        position = start + size
        if position > len(data):
            raise InvalidCall(field, "an element's length is more than what follows")
        elements.append(view[start:position])
    if position < len(data):
        raise InvalidCall(field, f"{len(data) - position:,} bytes follow its {count} elements")
    return elements


def _typed(contents: Any, count: int, field: str) -> Sequence[bytes]:
    if others := [each.name for each, _ in contents.ListFields() if each.name != "bytes_contents"]:
        raise InvalidCall(f"{field}.{others[0]}", "BYTES are in bytes_contents")
    if len(contents.bytes_contents) != count:
        raise InvalidCall(field, f"{len(contents.bytes_contents)} elements for a shape of {count}")
    elements: Sequence[bytes] = contents.bytes_contents
    return elements


def _text(element: bytes | memoryview, field: str) -> str:
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError:
        raise InvalidCall(field, "it is not UTF-8") from None
