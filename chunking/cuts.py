"""Content-defined cuts between segments, so that an edit moves few of them.

Each boundary between tokens has a key: first what ends there (a sentence, a line, a word, a token), then a hash of the
ids before it. A better boundary has a smaller key.

If a text is too long for one segment, the `content` policy takes the next two segments' worth of tokens and repeatedly
shortens that stretch to its best boundary until it fits. The same boundaries win wherever the stretch starts, so cuts
before and after an edit stay in place. Simply taking the best boundary between minimum and maximum would make each cut
depend on the previous one: an edit would change 4 or 5 segments in one case of 20, where this rule changes 2
(`benchmarks/segmentation.py`).
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

HASHED: Final = 8  # the hash of a boundary covers this many ids before it
SMALLEST: Final = 32  # tokens; a single code point can be 18 (U+FDFA)
_KIND: Final = np.uint64(56)  # bits of a key from here up hold the boundary's kind


@dataclass(frozen=True, slots=True)
class Cutting:
    """How tokens become segments.

    Attributes:
        policy: `content` cuts by a hash of the text, so an edit moves the fewest cuts. `sentence` packs as many whole
            sentences as fit. `fixed` fills every segment.
        max_tokens: maximum tokens that a segment owns.
        min_tokens: minimum tokens that a segment owns, except the last, under `content` and `sentence`.

    Raises:
        CuttingError: a field is invalid.
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
    """Compute the keys of boundaries.

    Args:
        ids: int32 (HASHED + n,), the ids of the n tokens and the `HASHED` before them.
        kinds: uint8 (n,), the `Boundary` before each of the n tokens.

    Returns:
        uint64 (n,).
    """
    hashes = window_hashes(ids, HASHED, slice(len(kinds)))
    return kinds.astype(np.uint64) << _KIND | hashes >> np.uint64(64) - _KIND


def cuts(keys: Keys, cutting: Cutting, *, final: bool) -> Iterator[int]:
    """Find the ends of segments that later tokens cannot change.

    Args:
        keys: uint64 (n,), the key of the boundary before each token that no segment owns yet.
        cutting: the rule.
        final: no more tokens follow, so the remaining tokens are cut too.

    Yields:
        The exclusive end of each segment as a token index, ascending.
    """
    begin, ahead = 0, 2 * cutting.max_tokens
    while len(keys) - begin > ahead or (final and begin < len(keys)):
        stretch = keys[begin : begin + ahead]
        begin += len(stretch) if len(stretch) <= cutting.max_tokens else _cut(stretch, cutting)
        yield begin


def _cut(stretch: Keys, cutting: Cutting) -> int:
    """How many tokens of a stretch the next segment takes."""
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
