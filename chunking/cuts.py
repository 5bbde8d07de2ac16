"""Where segments end: by content, so that an edit moves few cuts.

Each boundary between tokens has a key: first what ends there (a sentence, a line, a word, a token), then a hash of the
ids before it. A better boundary has a lesser key.

Of a text too long for one segment the ``content`` policy looks at the next two segments' worth, and shortens that
stretch to its best boundary until it fits. The same boundaries win whoever looks, so that cuts on either side of an
edit stay where they were. Taking the best between minimum and maximum at once, which reads simpler, makes each cut lean
on the one before: an edit then changes up to 4 or 5 segments in one case of 20, where this rule changes 2
(``benchmarks/segmentation.py``).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from chunking.boundaries import Boundary
from chunking.errors import CuttingError
from chunking.hashing import least, window_hashes
from chunking.tokenizer import Ids

Policy: TypeAlias = Literal["content", "sentence", "fixed"]
Keys: TypeAlias = NDArray[np.uint64]

HASHED: Final = 8  # ids before a boundary that its hash covers
SMALLEST: Final = 32  # tokens; one code point alone can be 18 (U+FDFA)
_KIND: Final = np.uint64(56)  # a key's bits above are the boundary's kind


@dataclass(frozen=True, slots=True)
class Cutting:
    """How tokens become segments.

    Attributes:
        policy: ``content`` cuts where the text's own hash says so, which an edit disturbs least. ``sentence`` packs as
            many whole sentences as fit. ``fixed`` fills every segment.
        max_tokens: tokens that a segment may own.
        min_tokens: tokens that every segment but the last owns at least, under ``content`` and ``sentence``.

    Raises:
        CuttingError: naming the field at fault.
    """

    policy: Policy = "content"
    max_tokens: int = 510
    min_tokens: int = 160

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise CuttingError("policy", f"must be one of {', '.join(get_args(Policy))}")
        if self.max_tokens < SMALLEST:
            raise CuttingError("max_tokens", f"must be at least {SMALLEST}")
        if not 1 <= self.min_tokens <= self.max_tokens // 2:
            raise CuttingError("min_tokens", f"must be from 1 to half of max_tokens, {self.max_tokens // 2}")


def keys(ids: Ids, kinds: NDArray[np.uint8]) -> Keys:
    """The keys of boundaries.

    Args:
        ids: int32 (HASHED + n,), the tokens and those before them.
        kinds: uint8 (n,), the ``Boundary`` before each of the n tokens.

    Returns:
        uint64 (n,).
    """
    hashes = window_hashes(ids, HASHED, np.arange(HASHED, len(ids)))
    return kinds.astype(np.uint64) << _KIND | hashes >> np.uint64(64) - _KIND


def cuts(keys: Keys, cutting: Cutting, *, final: bool) -> Iterator[int]:
    """Where the segments end that are certain by now.

    Args:
        keys: uint64 (n,), of the boundary before each token that no segment owns yet.
        cutting: the rule.
        final: no more tokens will come; what remains and fits is the last segment.

    Yields:
        For each segment the index of the token after its last, ascending.
    """
    begin, ahead = 0, 2 * cutting.max_tokens
    while len(keys) - begin > ahead or (final and begin < len(keys)):
        stretch = keys[begin : begin + ahead]
        begin += len(stretch) if len(stretch) <= cutting.max_tokens else _cut(stretch, cutting)
        yield begin


def _cut(stretch: Keys, cutting: Cutting) -> int:
    """How much of a stretch the next segment takes."""
    end = len(stretch)
    shortest, longest = cutting.min_tokens, cutting.max_tokens
    if cutting.policy == "content":
        while end > longest:
            end = shortest + least(stretch[shortest : end - shortest + 1])
        return end
    kinds = stretch[: longest + 1] >> _KIND
    if cutting.policy == "sentence":
        return shortest + least(kinds[shortest:])
    return 1 + least(kinds[1:] == Boundary.NONE)
