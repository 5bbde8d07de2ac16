"""Regions: bounded, cut by content, and nothing lost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking import TextError, regions
from chunking.regions import LARGEST, SMALLEST, _length

CHARACTERS = st.characters(exclude_categories=["Cs"])


def words(seed: int, count: int) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=draw.randint(1, 9))) for _ in range(count))


@given(st.lists(st.tuples(st.text(CHARACTERS, min_size=1, max_size=30), st.integers(1, 3000)), max_size=4))
def test_regions_tile_any_text_and_are_of_8_to_16_kib(parts: list[tuple[str, int]]) -> None:
    text = "".join(part * times for part, times in parts)
    found = list(regions(text))
    assert "".join(region.text for region in found) == text
    start = 0
    for region in found:
        assert region.start == start
        start += len(region.text)
        assert len(region.text.encode()) <= LARGEST
    assert all(len(region.text.encode()) >= SMALLEST for region in found[:-1])


def test_a_text_that_fits_is_one_region_and_the_empty_text_has_none() -> None:
    assert [len(region.text) for region in regions("a" * LARGEST)] == [LARGEST]
    assert len(list(regions("a" * (LARGEST + 1)))) == 2
    assert list(regions("")) == []


def test_regions_end_after_a_line_else_before_whitespace_else_anywhere() -> None:
    lines = "\n".join(words(seed, 12) for seed in range(2000))
    assert all(region.text.endswith("\n") for region in list(regions(lines))[:-1])
    for space in (" ", "\t", "\r", "\u00a0", "\u3000", "\u2003"):
        found = list(regions(words(1, 10_000).replace(" ", space)))
        assert len(found) > 2
        assert all(region.text.startswith(space) for region in found[1:])
    assert len(list(regions("漢字" * 10_000))) > 2


def test_a_region_ends_where_the_64_bytes_before_hash_least() -> None:
    text = words(2, 20_000)
    first = next(iter(regions(text)))
    end = len(first.text)

    def hash_before(at: int) -> int:
        # The definition, in Python's integers.
        found, window = 0, text[at - 64 : at].encode()
        for word in range(0, 64, 8):
            found = (found + int.from_bytes(window[word : word + 8], "little")) * 0x9E3779B97F4A7C15 % 2**64
            found ^= found >> 32
        return found

    spaces = [at for at in range(SMALLEST, LARGEST + 1) if text[at] == " "]
    assert end == min(reversed(spaces), key=hash_before)


def test_of_equal_hashes_the_last_wins() -> None:
    assert len(next(iter(regions("x" * 40_000))).text) == LARGEST


def test_an_edit_moves_the_ends_near_it_alone() -> None:
    text = words(3, 60_000)
    place = text.index(" ", len(text) // 2)
    before = {region.text for region in regions(text)}
    after = [region.text for region in regions(text[:place] + " and some words more" + text[place:])]
    assert len(after) > 20
    assert sum(region not in before for region in after) <= 3


def test_a_lone_surrogate_is_refused_with_its_place_and_without_text() -> None:
    with pytest.raises(TextError, match="code point 20000") as caught:
        list(regions("secret" + "a" * 19_994 + "\ud800"))
    assert caught.value.position == 20_000
    assert "secret" not in str(caught.value)


class Wide(str):
    """A text that does not say that it is ASCII."""

    __slots__ = ()

    def isascii(self) -> bool:
        return False


@pytest.mark.parametrize("end", ["\n", " ", ""], ids=["lines", "words", "neither"])
def test_ascii_is_cut_where_any_text_would_be(end: str) -> None:
    window = words(7, 9000).replace(" ", end)[: LARGEST + 1]
    assert len(window) > LARGEST
    assert _length(window, 0) == _length(Wide(window), 0) < LARGEST + 1
    assert _length(window[:100], 0) == _length(Wide(window[:100]), 0) == 100
