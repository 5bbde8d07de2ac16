"""A document as regions: stretches of text that are tokenised each on its own.

A document's tokens are its regions' tokens, laid end to end. That is the definition, and it bounds memory, lets other
requests run in between, and keeps an edit's cost to its region, because regions end where the text says so and not at
a position: at the line end whose preceding 64 bytes hash least, else before such a whitespace, else after such a code
point, between 8 and 16 KiB of UTF-8 from the region's start.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunking.errors import TextError

SMALLEST = 8 * 1024
LARGEST = 16 * 1024
HASHED = 64

_MIX = np.uint64(0x9E3779B97F4A7C15)
_FOLD = np.uint64(32)
# Space, tab, CR, LF and Unicode's Zs.
_WHITESPACE = np.array([0x20, 0x09, 0x0D, 0x0A, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000])
_LF = 0x0A


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of a document; ``start`` is its first code point's position in the document."""

    start: int
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
        yield Region(start, window[:length])
        start += length


def _length(window: str, start: int) -> int:
    """Code points of the region that begins a window."""
    points = code_points(window, start)
    # ends[k] is the number of bytes that k code points take.
    ends = np.concatenate([[0], np.cumsum(1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000))])
    if ends[-1] <= LARGEST:
        return len(points)
    candidates = np.arange(np.searchsorted(ends, SMALLEST), np.searchsorted(ends, LARGEST, side="right"))
    for kind in (points[candidates - 1] == _LF, np.isin(points[candidates], _WHITESPACE)):
        if kind.any():
            candidates = candidates[kind]
            break
    hashes = _hashes(window[: candidates[-1]].encode(), ends[candidates])
    return int(candidates[len(hashes) - 1 - np.argmin(hashes[::-1])])


def code_points(text: str, start: int = 0) -> NDArray[np.uint32]:
    """The text's code points; ``start`` is where it lies in the document, for the error's sake."""
    try:
        return np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError as error:
        raise TextError(start + error.start) from None


def _hashes(utf8: bytes, ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64-bit hashes of the 64 bytes before each end: eight little-endian words, each added, multiplied and folded.

    No cryptographic hash: a document of one unbroken word has 8,192 candidates a region, and what a writer can reach by
    choosing the hash is the cutting of his own text within the same bounds.
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(utf8, np.uint8), HASHED)
    words = windows[ends - HASHED].view("<u8")
    hashes = np.zeros(len(ends), np.uint64)
    for column in words.T:
        hashes = (hashes + column) * _MIX
        hashes ^= hashes >> _FOLD
    return hashes
