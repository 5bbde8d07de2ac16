"""What ends before a token, in many scripts."""

import numpy as np
import pytest

from chunking.boundaries import Boundary, boundaries


def kinds(left: str, right: str, before: str = "") -> Boundary:
    """What ends between a token at the end of ``left`` (whitespace aside) and one at the start of ``right``."""
    ends = len(left.rstrip())
    starts = np.array([0, len(left)])
    return Boundary(boundaries(before, left + right, starts, np.array([ends, len(left + right)]))[1])


@pytest.mark.parametrize(
    "left",
    [
        "It ends. ",
        "Does it? ",
        'He said: "So be it." ',
        "(As it was.) ",
        "So it goes…» ",
        "終わりです。",
        "本当？",
        "彼は「はい。」",
        "结束了！",
        "终了｡",
        "कहानी समाप्त। ",
        "انتهى الأمر؟ ",
        "ختم ہوا۔ ",
        "վերջ։ ",
        "ပြီးပြီ။",
        "A heading\n\n",
        "A heading\n \n",
        "Really?! ",
    ],
)
def test_sentences_end(left: str) -> None:
    assert kinds(left, "X") is Boundary.SENTENCE


@pytest.mark.parametrize(
    ("left", "right", "kind"),
    [
        ("3.", "14", Boundary.TOKEN),
        ("example.", "org", Boundary.TOKEN),
        ("one line\n", "X", Boundary.LINE),
        ("one line\r\n", "X", Boundary.LINE),
        ("word ", "X", Boundary.WORD),
        ("word\u3000", "X", Boundary.WORD),
        ("comma, ", "X", Boundary.WORD),
        ("+1 ", "415", Boundary.TOKEN),
        ("(312) ", "555", Boundary.TOKEN),
        ("٣ ", "٤", Boundary.TOKEN),
        ("a line of 1\n", "2", Boundary.LINE),
        ("of 3 ", "ships", Boundary.WORD),
        ("of ", "3", Boundary.WORD),
        ("In 1999. ", "2000", Boundary.SENTENCE),
        ("漢", "字", Boundary.TOKEN),
        ("par", "t", Boundary.TOKEN),
    ],
)
def test_lesser_boundaries(left: str, right: str, kind: Boundary) -> None:
    assert kinds(left, right) is kind


def test_the_space_may_belong_to_the_next_token() -> None:
    found = boundaries("", "It ends. And begins", np.array([0, 2, 7, 8, 12]), np.array([2, 7, 8, 12, 19]))
    assert found[1:].tolist() == [Boundary.WORD, Boundary.TOKEN, Boundary.SENTENCE, Boundary.WORD]


def test_what_ended_before_the_region_counts() -> None:
    first = np.array([0]), np.array([3])
    assert boundaries("It ends. ", "And", *first)[0] == Boundary.SENTENCE
    assert boundaries("It ends.", " And", np.array([1]), np.array([4]))[0] == Boundary.SENTENCE
    assert boundaries("a line\n", "And", *first)[0] == Boundary.LINE
    assert boundaries("unbrok", "en", *first)[0] == Boundary.TOKEN


def test_no_cut_between_tokens_that_share_a_code_point() -> None:
    # Three tokens of one Hangul syllable; an empty token before another; one that reaches over the next.
    starts, ends = np.array([0, 0, 0, 1, 2, 2, 3, 4]), np.array([1, 1, 1, 2, 2, 3, 5, 5])
    none = (boundaries("", "각 abc", starts, ends) == Boundary.NONE).tolist()
    assert none == [False, True, True, False, False, True, False, True]


def test_no_tokens_no_boundaries() -> None:
    assert len(boundaries("a", " ", np.zeros(0, np.int64), np.zeros(0, np.int64))) == 0
