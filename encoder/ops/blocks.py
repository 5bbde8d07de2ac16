"""Plans which keys each query reads under windowed attention, for all implementations.

Attention is limited to `window` tokens on either side (Beltagy et al., 2020). A segment's first and last tokens are
global, attending to and attended by all, because the models use them as attention sinks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ROWS = 64
"""Queries per block. Fewer waste less at the window's edges; more keep products large."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [first, last) read keys [low, high), and the segment's ends if those lie outside.

    Attributes:
        head: key 0 is read in addition to [low, high).
        tail: the last key is read in addition to [low, high).
    """

    first: int
    last: int
    low: int
    high: int
    head: bool
    tail: bool

    @property
    def pairs(self) -> int:
        """Query-key products in the block, per head."""
        return (self.last - self.first) * (self.high - self.low + self.head + self.tail)


def plan(length: int, window: int, rows: int = ROWS) -> tuple[Block, ...]:
    """Blocks that cover a segment's queries once, in order; one block if the window hides nothing."""
    if window == 0 or window >= length - 2 or length <= rows:
        return (Block(0, length, 0, length, head=False, tail=False),)
    inner = []
    for first in range(1, length - 1, rows):
        last = min(first + rows, length - 1)
        low, high = max(0, first - window), min(length, last + window)
        inner.append(Block(first, last, low, high, head=low > 0, tail=high < length))
    whole = (0, length, False, False)
    return (Block(0, 1, *whole), *inner, Block(length - 1, length, *whole))


def pairs(lengths: Sequence[int], window: int) -> int:
    """Query-key products in a batch, per head."""
    return sum(block.pairs for length in lengths for block in plan(length, window))
