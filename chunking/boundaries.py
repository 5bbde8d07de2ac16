"""Classifies the boundary before each token by how good a place to cut it is."""

from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chunking.regions import code_points
from chunking.tokenizer import Offsets


class Boundary(IntEnum):
    """What ends before a token, best place to cut first."""

    SENTENCE = 0  # a sentence, or a paragraph (a blank line)
    LINE = 1
    WORD = 2
    TOKEN = 3
    NONE = 4  # the token shares a code point with the previous one


def boundaries(before: str, text: str, starts: Offsets, ends: Offsets) -> NDArray[np.uint8]:
    """Classify the `Boundary` before each token of a text.

    A sentence ends with a terminal mark of any script, followed by any closing quotes and brackets. If the mark also
    has other uses, as a full stop has, whitespace must follow. Groups of digits with spaces between them are one word,
    such as the telephone number (312) 555 0142.

    Args:
        before: the end of the preceding text (`regions.CONTEXT` code points are enough).
        text: the text that the offsets refer to.
        starts: int64 (n,), the code points where the tokens start.
        ends: int64 (n,), the code points where they end, exclusive.

    Returns:
        uint8 (n,).
    """
    if not len(starts):
        return np.zeros(0, np.uint8)
    points = code_points(before + text)
    kinds = _KINDS[np.minimum(points, len(_KINDS) - 1)]
    kinds[:-1][(points[:-1] == _CR) & (points[1:] == _LF)] = _SPACE  # CRLF is one line end
    space = kinds == _SPACE
    space |= kinds == _NEWLINE
    position = np.arange(len(kinds), dtype=np.int32)  # half as wide as offsets: half the time
    # The nearest code point that is not space: at or after each position, and before it.
    following = np.append(
        np.minimum.accumulate(np.where(space, np.int32(len(kinds)), position)[::-1])[::-1], len(kinds)
    )
    preceding = np.concatenate([[-1], np.maximum.accumulate(np.where(space, np.int32(-1), position))])
    newlines = np.concatenate([[0], np.cumsum(kinds == _NEWLINE, dtype=np.int32)])
    # The kind of the last code point before any closing quotes and brackets.
    mark = kinds[np.maximum.accumulate(np.where(kinds == _CLOSING, np.int32(0), position))]

    right = following[starts + len(before)]
    left = preceding[right]
    last = np.where(left >= 0, mark[left], _OTHER)
    gap = right - left - 1
    lines = newlines[right] - newlines[left + 1]

    found = np.full(len(starts), Boundary.TOKEN, np.uint8)
    before_space, after_space = kinds[left], np.append(kinds, _OTHER)[right]
    within_number = ((before_space == _DIGIT) | (before_space == _CLOSING)) & (after_space == _DIGIT)
    found[(gap > 0) & ~within_number] = Boundary.WORD
    found[lines > 0] = Boundary.LINE
    found[(lines > 1) | (last == _FULL_STOP) | ((last == _STOP) & (gap > 0))] = Boundary.SENTENCE
    found[1:][_shared(starts, ends)] = Boundary.NONE
    return found


def _shared(starts: Offsets, ends: Offsets) -> NDArray[np.bool_]:
    """Whether each token but the first overlaps an earlier one, or starts no later than one."""
    return (starts[1:] < np.maximum.accumulate(ends)[:-1]) | (starts[1:] <= np.maximum.accumulate(starts)[:-1])


_LF, _CR = 0x0A, 0x0D
_OTHER, _SPACE, _NEWLINE, _STOP, _FULL_STOP, _CLOSING, _DIGIT = range(7)

# Unicode 14's White_Space, Sentence_Terminal, and general categories Pe, Pf and Pi (some languages close quotes with
# Pi). Hard-coded because Python's tables change between versions, and cuts must not.
_SPACES = "0009 000B-000C 0020 00A0 1680 2000-200A 202F 205F 3000"
_DIGITS = "0030-0039 0660-0669 06F0-06F9 0966-096F FF10-FF19"
_NEWLINES = "000A 000D 0085 2028-2029"
_STOPS = "0021 002E 003F 2026 203C-203D 2047-2049"
_FULL_STOPS = """
    0589 061D-061F 06D4 0700-0702 07F9 0837 0839 083D-083E 0964-0965 104A-104B 1362 1367-1368 166E 1735-1736 1803 1809
    1944-1945 1AA8-1AAB 1B5A-1B5B 1B5E-1B5F 1B7D-1B7E 1C3B-1C3C 1C7E-1C7F 2E2E 2E3C 2E53-2E54 3002 A4FF A60E-A60F A6F3
    A6F7 A876-A877 A8CE-A8CF A92F A9C8-A9C9 AA5D-AA5F AAF0-AAF1 ABEB FE52 FE56-FE57 FF01 FF0E FF1F FF61 10A56-10A57
    10F55-10F59 10F86-10F89 11047-11048 110BE-110C1 11141-11143 111C5-111C6 111CD 111DE-111DF 11238-11239 1123B-1123C
    112A9 1144B-1144C 115C2-115C3 115C9-115D7 11641-11642 1173C-1173E 11944 11946 11A42-11A43 11A9B-11A9C 11C41-11C42
    11EF7-11EF8 16A6E-16A6F 16AF5 16B37-16B38 16B44 16E98 1BC9F 1DA88
"""
_CLOSINGS = """
    0022 0027 0029 005D 007D 00AB 00BB 0F3B 0F3D 169C 2018-2019 201B-201D 201F 2039-203A 2046 207E 208E 2309 230B 232A
    2769 276B 276D 276F 2771 2773 2775 27C6 27E7 27E9 27EB 27ED 27EF 2984 2986 2988 298A 298C 298E 2990 2992 2994 2996
    2998 29D9 29DB 29FD 2E02-2E05 2E09-2E0A 2E0C-2E0D 2E1C-2E1D 2E20-2E21 2E23 2E25 2E27 2E29 2E56 2E58 2E5A 2E5C 3009
    300B 300D 300F 3011 3015 3017 3019 301B 301E-301F FD3E FE18 FE36 FE38 FE3A FE3C FE3E FE40 FE42 FE44 FE48 FE5A FE5C
    FE5E FF02 FF07 FF09 FF3D FF5D FF60 FF63
"""


def _table() -> NDArray[np.uint8]:
    table = np.full(0x1E000, _OTHER, np.uint8)
    kinds = {
        _SPACE: _SPACES,
        _NEWLINE: _NEWLINES,
        _STOP: _STOPS,
        _FULL_STOP: _FULL_STOPS,
        _CLOSING: _CLOSINGS,
        _DIGIT: _DIGITS,
    }
    for kind, ranges in kinds.items():
        for item in ranges.split():
            first, _, last = item.partition("-")
            table[int(first, 16) : int(last or first, 16) + 1] = kind
    return table


_KINDS: Final = _table()
