"""A text as segments, read lazily."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunking.boundaries import CONTEXT, boundaries
from chunking.cuts import HASHED, Cutting, cuts
from chunking.regions import Region, regions
from chunking.tokenizer import Frame, Ids, Offsets, Tokenizer


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """What the model computes at once, and the stretch of text that it answers for.

    Attributes:
        index: its number in the document, from 0.
        start: first code point of the stretch; stretches tile the document.
        end: the code point after it.
        ids: int32 (processed_tokens,), all that the model reads: specials, prefix and owned tokens.
        owned: where in ``ids`` the owned tokens are.
        token_starts: int64 (tokens,), the owned tokens' first code points in the document.
        token_ends: int64 (tokens,), the code points after them.
    """

    index: int
    start: int
    end: int
    ids: Ids
    owned: slice
    token_starts: Offsets
    token_ends: Offsets

    @property
    def tokens(self) -> int:
        """Number of tokens that this segment owns."""
        return len(self.token_starts)

    @property
    def processed_tokens(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.ids)


def read(text: str, tokenizer: Tokenizer, cutting: Cutting, prefix: str = "") -> Iterator[list[Segment]]:
    """Reads a document: each step tokenises one region and gives the segments that are certain by then, maybe none.

    Segments come in order. A text without a token, such as whitespace, has no segment. A step holds a region and the
    tokens that no segment owns yet, however long the text is.

    Raises:
        TextError: the text has a lone surrogate.
    """
    reader = _Reader(tokenizer, cutting, tokenizer.frame(prefix))
    for region in regions(text):
        reader.take(region, before=text[max(0, region.start - CONTEXT) : region.start])
        yield reader.give()
    yield reader.give(end=len(text))


class _Reader:
    """Tokens that no segment owns yet, and the last few that one does."""

    def __init__(self, tokenizer: Tokenizer, cutting: Cutting, frame: Frame) -> None:
        self._tokenizer, self._cutting, self._frame = tokenizer, cutting, frame
        self._index = 0
        self._start = 0  # of the next segment's stretch
        self._begin = 0  # first token without an owner
        self._ids: Ids = np.zeros(0, np.int32)
        self._starts: Offsets = np.zeros(0, np.int64)
        self._ends: Offsets = np.zeros(0, np.int64)
        self._boundaries: NDArray[np.uint8] = np.zeros(0, np.uint8)

    def take(self, region: Region, before: str) -> None:
        """Appends a region's tokens."""
        (tokens,) = self._tokenizer.encode([region.text])
        found = boundaries(before, region.text, tokens.starts, tokens.ends)
        self._ids = np.concatenate([self._ids, tokens.ids])
        self._starts = np.concatenate([self._starts, region.start + tokens.starts])
        self._ends = np.concatenate([self._ends, region.start + tokens.ends])
        self._boundaries = np.concatenate([self._boundaries, found])

    def give(self, end: int | None = None) -> list[Segment]:
        """The segments that are certain by now; all, if the text has ended at code point ``end``."""
        segments = []
        for cut in cuts(self._ids, self._boundaries, self._begin, self._cutting, final=end is not None):
            stop = int(self._starts[cut]) if cut < len(self._ids) else end
            assert stop is not None  # noqa: S101  a cut after the last token comes with the end alone
            segments.append(self._segment(slice(self._begin, cut), stop))
            self._begin = cut
        self._forget()
        return segments

    def _segment(self, owned: slice, stop: int) -> Segment:
        first = len(self._frame.head)
        segment = Segment(
            index=self._index,
            start=self._start,
            end=stop,
            ids=self._frame.around(self._ids[owned]),
            owned=slice(first, first + owned.stop - owned.start),
            token_starts=self._starts[owned].copy(),
            token_ends=self._ends[owned].copy(),
        )
        self._index += 1
        self._start = stop
        return segment

    def _forget(self) -> None:
        """Drops what has an owner, except the ids that later hashes cover."""
        drop = max(0, self._begin - HASHED)
        self._begin -= drop
        self._ids, self._starts, self._ends, self._boundaries = (
            array[drop:] for array in (self._ids, self._starts, self._ends, self._boundaries)
        )
