"""A document as regions: stretches of text that are tokenised each on its own.

A document's tokens are its regions' tokens, laid end to end. That is the definition, and it bounds memory, lets other
requests run in between, and keeps an edit's cost to its region, because regions end where the text says so and not at
a position: at the line end whose preceding 64 bytes hash least, else before such a whitespace, else after such a code
point, between 8 and 16 KiB of UTF-8 from the region's start.
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
CONTEXT: Final = 64  # code points before a region, which may decide how good a place to cut its beginning is

# Space, tab, CR, LF and Unicode's Zs.
_WHITESPACE = np.array([0x20, 0x09, 0x0D, 0x0A, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000])
_LF = 0x0A


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a document.

    Attributes:
        start: its first code point's position in the document.
        before: what precedes it, ``CONTEXT`` code points or all that there are.
    """

    start: int
    before: str
    text: str


def regions(text: str) -> Iterator[Region]:
    """The regions of a text, in order; none for the empty text.

    Raises:
        TextError: the text has a lone surrogate.
    """
    start = 0
    while start < len(text):
        # A code point takes at least a byte, so that this holds a whole region and one code point more.
        window = text[start : start + LARGEST + 1]
        length = _length(window, start)
        yield Region(start, text[max(0, start - CONTEXT) : start], window[:length])
        start += length


def _length(window: str, start: int) -> int:
    """Code points of the region that begins a window."""
    if window.isascii():  # a byte each
        if len(window) <= LARGEST:
            return len(window)
        points: NDArray[np.uint8] | NDArray[np.uint32] = np.frombuffer(window.encode(), np.uint8)
        ends = np.arange(len(window) + 1)
    else:
        wide = points = code_points(window, start)
        ends = np.concatenate([[0], np.cumsum(utf8_widths(wide))])  # bytes that so many code points take
        if ends[-1] <= LARGEST:
            return len(points)
    utf8 = np.frombuffer(window.encode(), np.uint8)
    first, last = np.searchsorted(ends, SMALLEST), np.searchsorted(ends, LARGEST, side="right")
    candidates = first + np.flatnonzero(points[first - 1 : last - 1] == _LF)
    if not len(candidates):
        candidates = first + np.flatnonzero(np.isin(points[first:last], _WHITESPACE))  # slow, and most texts have lines
    if not len(candidates):
        candidates = np.arange(first, last)
    return int(candidates[least(window_hashes(utf8, HASHED, ends[candidates]))])


def utf8_widths(points: NDArray[np.uint32]) -> NDArray[np.int64]:
    """How many bytes of UTF-8 each code point takes."""
    widths = np.ones(len(points), np.int64)
    for wider in (0x80, 0x800, 0x10000):
        widths += points >= wider
    return widths


def code_points(text: str, start: int = 0) -> NDArray[np.uint32]:
    """The text's code points; ``start`` is where it lies in the document, for the error's sake."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise TextError(start + error.start) from None
