"""Where segments end: by content, so that an edit moves few cuts."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from chunking.boundaries import Boundary
from chunking.errors import CuttingError
from chunking.tokenizer import Ids

Policy: TypeAlias = Literal["content", "sentence", "fixed"]

HASHED: Final = 8  # ids before a boundary that its hash covers
SMALLEST: Final = 32  # tokens; one code point alone can be 18 (U+FDFA)


@dataclass(frozen=True, slots=True)
class Cutting:
    """How tokens become segments.

    Attributes:
        policy: ``content`` cuts where the text's own hash says so: an edit moves few cuts. ``sentence`` packs as many
            whole sentences as fit. ``fixed`` fills every segment.
        max_tokens: tokens that a segment may own.
        min_tokens: tokens that every segment but the last owns at least (under ``content`` and ``sentence``).

    Raises:
        CuttingError: naming the field at fault.
    """

    policy: Policy = "content"
    max_tokens: int = 510
    min_tokens: int = 256

    def __post_init__(self) -> None:
        if self.policy not in get_args(Policy):
            raise CuttingError("policy", f"must be one of {', '.join(get_args(Policy))}")
        if self.max_tokens < SMALLEST:
            raise CuttingError("max_tokens", f"must be at least {SMALLEST}")
        if not 1 <= self.min_tokens <= self.max_tokens:
            raise CuttingError("min_tokens", f"must be between 1 and max_tokens, {self.max_tokens}")


def cuts(ids: Ids, boundaries: NDArray[np.uint8], begin: int, cutting: Cutting, *, final: bool) -> Iterator[int]:
    """Where the segments end that are certain by now.

    Args:
        ids: int32 (n,), the tokens that no segment owns yet, after up to ``HASHED`` that one does.
        boundaries: uint8 (n,), the ``Boundary`` before each.
        begin: the first token without an owner.
        cutting: the rule.
        final: no more tokens will come.

    Yields:
        Indices into ``ids``, ascending: the first token of the segment after.
    """
    while len(ids) - begin > cutting.max_tokens:
        begin = _cut(ids, boundaries, begin, cutting)
        yield begin
    if final and begin < len(ids):
        yield len(ids)


def _cut(ids: Ids, boundaries: NDArray[np.uint8], begin: int, cutting: Cutting) -> int:
    """The end of one segment: the best boundary between the minimum and the maximum, of equals as the policy says."""
    first = begin + (1 if cutting.policy == "fixed" else cutting.min_tokens)
    window = boundaries[first : begin + cutting.max_tokens + 1]
    if cutting.policy == "fixed":
        window = window == Boundary.NONE
    candidates = first + np.flatnonzero(window == window.min())
    if cutting.policy != "content":
        return int(candidates[-1])
    return _least(ids, candidates)


def _least(ids: Ids, candidates: NDArray[np.intp]) -> int:
    """The candidate before which the last ids hash least, as 64-bit BLAKE2b (RFC 7693); of equals the last."""
    raw = ids.astype("<i4").tobytes()
    width = 4 * HASHED
    return int(
        min(
            candidates[::-1],
            key=lambda at: blake2b(raw[max(0, 4 * at - width) : 4 * at], digest_size=8).digest(),
        )
    )
