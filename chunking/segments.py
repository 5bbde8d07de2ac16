"""Reads a text lazily as segments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from chunking.boundaries import boundaries
from chunking.cuts import HASHED, Cutting, Keys, cuts, keys
from chunking.regions import LARGEST, Region, encoded, regions
from chunking.tokenizer import Frame, Ids, Offsets, Tokenizer, Tokens


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The tokens that the model reads together, and the span of text that they represent.

    Attributes:
        index: its number in the document, from 0.
        start: first code point of the span; spans tile the document.
        end: end of the span, exclusive.
        ids: int32 (processed_tokens,), everything the model reads: special tokens, prefix and owned tokens.
        owned: the position of the owned tokens in `ids`.
        token_starts: int64 (tokens,), the code points in the document where the owned tokens start.
        token_ends: int64 (tokens,), the code points where they end, exclusive.
        second: the position in `ids` from which tokens are of type 1; 0 if all are of type 0.
    """

    index: int
    start: int
    end: int
    ids: Ids
    owned: slice
    token_starts: Offsets
    token_ends: Offsets
    second: int = 0

    @property
    def tokens(self) -> int:
        """Number of tokens that this segment owns."""
        return len(self.token_starts)

    @property
    def processed_tokens(self) -> int:
        """Number of tokens that the model reads."""
        return len(self.ids)


@dataclass(frozen=True, slots=True, eq=False)
class RegionTokens:
    """A region's tokens.

    Attributes:
        tokens: the tokens, with offsets in the region.
        kinds: uint8 (n,), the `Boundary` before each token.
    """

    tokens: Tokens
    kinds: NDArray[np.uint8]


class Memory(Protocol):
    """A cache of tokenised regions; one may also be a whole text, longer than any region."""

    def known(self, regions: Sequence[Region]) -> Sequence[RegionTokens | None]:
        """Look up the tokens of each region."""

    def keep(self, region: Region, tokens: RegionTokens) -> None:
        """Store a region's tokens."""


def read(
    text: str, tokenizer: Tokenizer, cutting: Cutting, frame: Frame | None = None, memory: Memory | None = None
) -> Iterator[list[Segment]]:
    """Read a document; each step reads a region and yields the segments that are final, possibly none.

    Segments are in order. A text without tokens, such as whitespace, has no segments. Memory is bounded: a few regions
    and the tokens that no segment owns yet. A text of 16,385 to 65,536 bytes that `memory` knows is one step.

    Args:
        text: the document.
        tokenizer: the model's tokenizer.
        cutting: the rule for where segments end.
        frame: what surrounds each segment's own tokens; None: the tokenizer's special tokens.
        memory: an optional cache of regions' tokens.

    Raises:
        TextError: the text has a lone surrogate.
    """
    reader = _Reader(cutting, frame or tokenizer.frame())
    for region, tokens in _tokenized(text, tokenizer, memory):
        reader.take(region, tokens)
        yield reader.give()
    yield reader.give(end=len(text))


_WHOLE: Final = 1 << 16  # bytes of a text that is looked up at once: 9,500 known tokens take 1.4 ms, not 1.9
_AHEAD: Final = 8  # regions per look-up in the memory: 14 separate look-ups took 3 ms from disk
_TOGETHER: Final = 4  # regions tokenised in parallel: with two threads 32,000 tokens take 33 ms, not 56


def _tokenized(text: str, tokenizer: Tokenizer, memory: Memory | None) -> Iterator[tuple[Region, RegionTokens]]:
    """The tokens of each region; a text of medium length that was read before comes whole.

    It is longer than any region, so that the two never share a key.
    """
    # A text has at least as many bytes as code points: a long one need not be encoded to be told apart.
    if memory is None or len(text) > _WHOLE or not LARGEST < len(encoded(text)) <= _WHOLE:
        yield from _by_region(text, tokenizer, memory)
        return
    whole = Region(0, "", text)
    (known,) = memory.known([whole])
    if known is not None:
        yield whole, known
        return
    read = []
    for each in _by_region(text, tokenizer, memory):
        read.append(each)
        yield each
    memory.keep(whole, _joined(read))


def _joined(read: Sequence[tuple[Region, RegionTokens]]) -> RegionTokens:
    """The tokens of consecutive regions as those of one, which begins with the document."""
    moved = [each.tokens.moved(region.start) for region, each in read]
    return RegionTokens(Tokens.joined(moved), np.concatenate([each.kinds for _, each in read]))


def _by_region(text: str, tokenizer: Tokenizer, memory: Memory | None) -> Iterator[tuple[Region, RegionTokens]]:
    coming = regions(text)
    while group := list(islice(coming, _AHEAD)):
        known = [None] * len(group) if memory is None else memory.known(group)
        unknown = [region for region, tokens in zip(group, known, strict=True) if tokens is None]
        new = _tokenize(unknown, tokenizer)
        for region, tokens in zip(group, known, strict=True):
            if tokens is not None:
                yield region, tokens
                continue
            made = next(new)
            if memory is not None:
                memory.keep(region, made)
            yield region, made


def _tokenize(regions: Sequence[Region], tokenizer: Tokenizer) -> Iterator[RegionTokens]:
    for first in range(0, len(regions), _TOGETHER):
        some = regions[first : first + _TOGETHER]
        for region, tokens in zip(some, tokenizer.encode([region.text for region in some]), strict=True):
            yield RegionTokens(tokens, boundaries(region.before, region.text, tokens.starts, tokens.ends))


_BEGINNING: Final[Ids] = np.full(HASHED, -1, np.int32)  # before the first token; not a valid id


class _Reader:
    """Collects tokens until they form segments."""

    def __init__(self, cutting: Cutting, frame: Frame) -> None:
        self._cutting, self._frame = cutting, frame
        self._index = 0
        self._start = 0  # of the next segment's span
        self._tokens = Tokens(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._keys: Keys = np.zeros(0, np.uint64)

    def take(self, region: Region, read: RegionTokens) -> None:
        """Append a region's tokens."""
        new = read.tokens
        # The ids that a hash covers are always still here: more than a segment's worth of tokens remains.
        preceding = np.concatenate([_BEGINNING, self._tokens.ids])[-HASHED:]
        self._keys = np.concatenate([self._keys, keys(np.concatenate([preceding, new.ids]), read.kinds)])
        self._tokens = Tokens.joined([self._tokens, new.moved(region.start)])

    def give(self, end: int | None = None) -> list[Segment]:
        """Return the segments that are final; all of them if the text ended, at code point `end`."""
        segments = []
        begin = 0
        for cut in cuts(self._keys, self._cutting, final=end is not None):
            stop = end if cut == len(self._tokens) and end is not None else int(self._tokens.starts[cut])
            segments.append(self._segment(self._tokens[begin:cut], stop))
            begin = cut
        self._tokens, self._keys = self._tokens[begin:], self._keys[begin:]
        return segments

    def _segment(self, tokens: Tokens, stop: int) -> Segment:
        first = len(self._frame.head)
        segment = Segment(
            index=self._index,
            start=self._start,
            end=stop,
            ids=self._frame.around(tokens.ids),
            owned=slice(first, first + len(tokens)),
            token_starts=tokens.starts.copy(),  # a view would keep the whole region's array alive
            token_ends=tokens.ends.copy(),
            second=first if self._frame.typed else 0,
        )
        self._index += 1
        self._start = stop
        return segment
