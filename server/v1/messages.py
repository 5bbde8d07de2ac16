"""From a frame's bytes to a message, without letting its sender decide what that costs."""

from collections.abc import Callable
from typing import Any

from server.errors import InvalidCall, Malformed

MOST_FIELDS = 20_000
"""Of one message, nested ones included. The largest sensible request has 4,096 spans of three fields each."""

UNCHECKED_BYTES = 2 * MOST_FIELDS  # a field takes two bytes at least

_VARINT_BITS = 70  # ten bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def parse(data: bytes, deserializer: Callable[[bytes], Any] | None) -> Any:
    """Parse a message.

    A million empty documents fit in 2 MB and take a hundred times that once parsed: what has too many fields is refused
    unparsed.

    Raises:
        Malformed: these are not the bytes of such a message.
        InvalidCall: it has too many fields.
    """
    if deserializer is None:
        return data
    kind = getattr(getattr(deserializer, "__self__", None), "DESCRIPTOR", None)
    if kind is not None and len(data) > UNCHECKED_BYTES:
        check_fields(data, kind, MOST_FIELDS)
    try:
        return deserializer(data)
    except Exception as error:
        raise Malformed from error


def check_fields(data: bytes, kind: Any, most: int) -> None:
    """Refuse a message of more than `most` fields; `kind` is its descriptor. Malformed bytes are left to the parser.

    Source: the wire format of Protocol Buffers (protobuf.dev/programming-guides/encoding).

    Raises:
        InvalidCall: it has more.
    """
    left = most
    messages = [(0, len(data), kind)]
    try:
        while messages:
            position, end, kind = messages.pop()
            while position < end:
                left -= 1
                if left < 0:
                    raise InvalidCall("", f"the request has over {most:,} fields: send less at once")
                tag, position = _varint(data, position)
                wire_type = tag & 7
                if wire_type == _VARINT:
                    _, position = _varint(data, position)
                elif wire_type == _BYTES:
                    size, position = _varint(data, position)
                    field = kind.fields_by_number.get(tag >> 3)
                    if field is not None and field.message_type is not None:
                        messages.append((position, min(position + size, end), field.message_type))
                    position += size
                elif wire_type == _FIXED64:
                    position += 8
                elif wire_type == _FIXED32:
                    position += 4
    except IndexError:
        return


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position behind it."""
    byte = data[position]
    position += 1
    if byte < 0x80:  # noqa: PLR2004 - one byte, as most are
        return byte, position
    number, shift = byte & 0x7F, 7
    while shift < _VARINT_BITS:
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte
            return number, position
        shift += 7
    raise IndexError  # no varint: left to the parser, like other malformed bytes
