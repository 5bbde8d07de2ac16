"""Which keys each query reads under a window: the plan that every form of windowed attention follows.

Attention is limited to `window` tokens to either side (Beltagy et al., 2020), and a segment's first and last tokens are
global: they see all and are seen by all, because the models park attention on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

ROWS = 64
"""Queries of a block. Fewer waste less at the window's edges, more keep products large."""


@dataclass(frozen=True, slots=True)
class Block:
    """Queries [first, last) read keys [low, high), and the segment's two ends where those lie outside."""

    first: int
    last: int
    low: int
    high: int
    head: bool
    """Key 0 is read besides [low, high)."""
    tail: bool
    """The last key is read besides [low, high)."""

    @property
    def pairs(self) -> int:
        """Products of a query and a key that the block computes, a head."""
        return (self.last - self.first) * (self.high - self.low + self.head + self.tail)


def plan(length: int, window: int, rows: int = ROWS) -> tuple[Block, ...]:
    """Blocks that cover a segment's queries once, in order. One block where the window hides nothing."""
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
    """Work of a batch: products of a query and a key, a head, under the plan."""
    return sum(block.pairs for length in lengths for block in plan(length, window))
