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
_INSIDE = 0x80  # the upper two bits of a byte within a code point


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
    utf8 = np.frombuffer(window.encode("utf-8", "surrogatepass"), np.uint8)
    if window.isascii():  # one byte per code point
        points: NDArray[np.uint8] | NDArray[np.uint32] = utf8
        ends = np.arange(len(window) + 1)
    else:
        points = code_points(window, start)
        ends = np.append(np.flatnonzero(utf8 & 0xC0 != _INSIDE), len(utf8))  # bytes before each code point
    if len(utf8) <= LARGEST:
        return len(points)
    first, last = np.searchsorted(ends, SMALLEST), np.searchsorted(ends, LARGEST, side="right")
    candidates = first + np.flatnonzero(points[first - 1 : last - 1] == _LF)
    if not len(candidates):
        candidates = first + np.flatnonzero(_IS_SPACE.take(points[first:last], mode="clip"))
    if not len(candidates):
        candidates = np.arange(first, last)
    return int(candidates[least(window_hashes(utf8, HASHED, ends[candidates] - HASHED))])


def utf8_widths(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Bytes of UTF-8 per code point."""
    widths = np.ones(len(points), np.int64)
    for wider in (0x80, 0x800, 0x10000):
        widths += points >= wider
    return widths


def code_points(text: str, start: int = 0) -> NDArray[np.uint32]:
    """The text's code points; `start` is its position in the document, for the error message."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise TextError(start + error.start) from None
