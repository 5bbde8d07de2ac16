"""Positions in three units, in both directions, along a text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking import OffsetError, Ruler, TextError, Unit

TEXTS = st.text(st.sampled_from("aé漢😀\0\n") | st.characters(exclude_categories=["Cs"]))


def length(text: str, unit: Unit) -> int:
    return {
        Unit.CODE_POINT: len(text),
        Unit.UTF16: len(text.encode("utf-16-le")) // 2,
        Unit.UTF8: len(text.encode()),
    }[unit]


@pytest.mark.parametrize("unit", Unit)
@given(text=TEXTS, times=st.sampled_from([1, 1, 30_000]), data=st.data())
def test_positions_are_those_of_the_encodings(unit: Unit, text: str, times: int, data: st.DataObject) -> None:
    long = text * min(times, 200_000 // (len(text) or 1))  # beyond a block or two
    points = sorted(data.draw(st.lists(st.integers(0, len(long)), max_size=8)))
    expected = [length(long[:point], unit) for point in points]
    assert Ruler(long, unit).units(points).tolist() == expected
    assert Ruler(long, unit).points(expected).tolist() == points
    step_by_step = Ruler(long, unit)
    assert [int(step_by_step.units([point])[0]) for point in points] == expected
    spans = Ruler(long, unit)
    for start, end, *expected_span in zip(points[:-1], points[1:], expected[:-1], expected[1:], strict=True):
        assert spans.span(start, end) == tuple(expected_span)


@pytest.mark.parametrize("unit", Unit)
@pytest.mark.parametrize("text", ["plain", "na\u00efve 😀"])
def test_what_is_outside_the_text_is_refused(unit: Unit, text: str) -> None:
    for position in (-1, length(text, unit) + 1):
        with pytest.raises(OffsetError):
            Ruler(text, unit).points([position])
    for point in (-1, len(text) + 1):
        with pytest.raises(OffsetError):
            Ruler(text, unit).units([point])
    assert Ruler(text, unit).points([length(text, unit)]).tolist() == [len(text)]


def test_a_position_inside_a_code_point_is_refused() -> None:
    for unit, position in ((Unit.UTF16, 2), (Unit.UTF8, 2), (Unit.UTF8, 3), (Unit.UTF8, 4)):
        with pytest.raises(OffsetError, match="inside a code point"):
            Ruler("a😀", unit).points([position])


def test_a_ruler_goes_forward_alone() -> None:
    with pytest.raises(OffsetError, match="ascend"):
        Ruler("é" * 9, Unit.UTF8).units([3, 2])
    ruler = Ruler("é" * 200_000, Unit.UTF8)
    assert ruler.units([150_000]).tolist() == [300_000]
    with pytest.raises(OffsetError, match="before"):
        ruler.units([3])


def test_no_positions_are_no_positions() -> None:
    assert Ruler("é", Unit.UTF8).units(np.zeros(0, np.int64)).tolist() == []


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(TextError):
        Ruler("é\ud800", Unit.UTF8).units([2])
