"""Converts positions in a text between code points (used internally) and UTF-16 units or UTF-8 bytes."""

from collections.abc import Sequence
from enum import Enum
from typing import Final

import numpy as np

from chunking.errors import OffsetError
from chunking.regions import code_points, utf8_widths
from chunking.tokenizer import Offsets

_BLOCK: Final = 1 << 16
_LAST_OF_ONE_UTF16_UNIT: Final = 0xFFFF


class Unit(Enum):
    """What a position counts."""

    CODE_POINT = "code_point"
    UTF16 = "utf16"
    UTF8 = "utf8"


class Ruler:
    """Converts ascending positions of one text between code points and another unit.

    It moves through the text once, in blocks of 65,536 code points, and never back, so it needs memory for one block
    and a single pass however many calls are made. Use one ruler per direction.
    """

    def __init__(self, text: str, unit: Unit) -> None:
        self._text = text
        self._unit = unit
        self._same = unit is Unit.CODE_POINT or text.isascii()
        self._point = 0  # start of the current block, in code points and in units
        self._mark = 0
        self._marks = self._measure()

    def units(self, points: Sequence[int] | Offsets) -> Offsets:
        """Units before each code point position, int64.

        Raises:
            OffsetError: a position is outside the text or less than an earlier one.
        """
        return self._walk(np.asarray(points, np.int64), forth=True)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Convert a span's start and end, as `units` does."""
        if self._same and 0 <= start <= end <= len(self._text):  # the common case: saves 15 µs per segment
            return start, end
        first, last = self.units([start, end])
        return int(first), int(last)

    def points(self, units: Sequence[int] | Offsets) -> Offsets:
        """Code points before each position in units, int64.

        Raises:
            OffsetError: a position is outside the text, inside a code point, or less than an earlier one.
        """
        return self._walk(np.asarray(units, np.int64), forth=False)

    def _walk(self, positions: Offsets, *, forth: bool) -> Offsets:
        if np.any(np.diff(positions) < 0):
            raise OffsetError("positions must ascend")
        if self._same:
            if len(positions) and not 0 <= positions[0] <= positions[-1] <= len(self._text):
                raise OffsetError(f"position outside the text of {len(self._text)}")
            return positions.copy()
        converted: Offsets = np.empty_like(positions)
        done = 0
        while done < len(positions):
            begin, end = (self._point, self._point + len(self._marks) - 1) if forth else (self._mark, self._marks[-1])
            if positions[done] < begin:
                raise OffsetError("position before one that was already converted" if begin else "negative position")
            here = positions[done : np.searchsorted(positions, end, side="right")]
            converted[done : done + len(here)] = self._forth(here) if forth else self._back(here)
            done += len(here)
            if done < len(positions):
                self._advance()
        return converted

    def _forth(self, points: Offsets) -> Offsets:
        return self._marks[points - self._point]

    def _back(self, units: Offsets) -> Offsets:
        index = np.searchsorted(self._marks, units)
        if np.any(self._marks[index] != units):
            raise OffsetError(f"position inside a code point, in {self._unit.value}")
        return self._point + index

    def _advance(self) -> None:
        """Move to the next block."""
        self._point += len(self._marks) - 1
        if self._point >= len(self._text):
            raise OffsetError(f"position outside the text of {self._marks[-1]} in {self._unit.value}")
        self._mark = int(self._marks[-1])
        self._marks = self._measure()

    def _measure(self) -> Offsets:
        """Units before each code point of the current block, and at its end."""
        if self._same:
            return np.zeros(1, np.int64)
        block = code_points(self._text[self._point : self._point + _BLOCK], self._point)
        widths = utf8_widths(block) if self._unit is Unit.UTF8 else 1 + (block > _LAST_OF_ONE_UTF16_UNIT)
        return self._mark + np.concatenate([[0], np.cumsum(widths)])
