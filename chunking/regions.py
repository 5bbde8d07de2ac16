"""Splits a document into regions: stretches of text that are tokenised separately.

A document's tokens are, by definition, the concatenated tokens of its regions. This bounds memory, lets other requests
run in between, and confines an edit's cost to its region, because a region's end depends on content, not position. It
lies 8 to 16 KiB of UTF-8 from the region's start, where the preceding 64 bytes have the smallest hash: at a line end,
else before whitespace, else at any code point.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chunking.errors import TextError
from chunking.hashing import least, window_hashes

SMALLEST: Final = 8 * 1024  # bytes
LARGEST: Final = 16 * 1024
HASHED: Final = 64
CONTEXT: Final = 64  # code points before a region, needed to classify the boundary at its start

# Space, tab, CR, LF and Unicode's Zs.
_IS_SPACE = np.zeros(0x3002, np.bool_)  # by code point; the last one stands for all beyond
_IS_SPACE[[0x20, 0x09, 0x0D, 0x0A, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]] = True
_LF = 0x0A
_UPPER, _INSIDE = 0xC0, 0x80  # a byte's upper two bits, and their value inside a code point


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a document.

    Attributes:
        start: position of its first code point in the document.
        before: up to `CONTEXT` code points that precede it.
    """

    start: int
    before: str
    text: str


def regions(text: str) -> Iterator[Region]:
    """Yield the regions of a text, in order; none if it is empty.

    Raises:
        TextError: the text has a lone surrogate.
    """
    start = 0
    while start < len(text):
        # A code point takes at least one byte, so this covers a whole region plus one code point.
        window = text[start : start + LARGEST + 1]
        length = _length(window, start)
        yield Region(start, text[max(0, start - CONTEXT) : start], window[:length])
        start += length


def _length(window: str, start: int) -> int:
    """Length in code points of the region at the start of a window."""
    utf8 = np.frombuffer(encoded(window, start), np.uint8)
    if len(utf8) <= LARGEST:
        return len(window)
    candidates = SMALLEST + np.flatnonzero(utf8[SMALLEST - 1 : LARGEST] == _LF)
    if not len(candidates):
        begins = np.flatnonzero(utf8[: LARGEST + 1] & _UPPER != _INSIDE)
        first = int(np.searchsorted(begins, SMALLEST))
        points = utf8 if window.isascii() else code_points(window)
        spaces = first + np.flatnonzero(_IS_SPACE.take(points[first : len(begins)], mode="clip"))
        candidates = begins[spaces if len(spaces) else slice(first, None)]
    end = int(candidates[least(window_hashes(utf8, HASHED, candidates - HASHED))])
    return end if window.isascii() else int(np.count_nonzero(utf8[:end] & _UPPER != _INSIDE))


def utf8_widths(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Bytes of UTF-8 per code point."""
    widths = np.ones(len(points), np.int64)
    for wider in (0x80, 0x800, 0x10000):
        widths += points >= wider
    return widths


def code_points(text: str, start: int = 0) -> NDArray[np.uint32]:
    """The text's code points; `start` is its position in the document, for the error message."""
    return np.frombuffer(encoded(text, start, "utf-32-le"), np.uint32)


def encoded(text: str, start: int = 0, encoding: str = "utf-8") -> bytes:
    """Encode a text; `start` is its position in the document.

    Raises:
        TextError: the text has a lone surrogate.
    """
    try:
        return text.encode(encoding)
    except UnicodeEncodeError as error:
        raise TextError(start + error.start) from None
