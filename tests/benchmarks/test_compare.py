"""Verdicts on two records: what is better, worse, the same, and what the samples do not tell."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks import __main__ as cli
from benchmarks.figures import Figure, Figures, Missing
from benchmarks.reporting.compare import Change, compare, quotient, warnings
from benchmarks.reporting.record import Record, write
from benchmarks.statistics import percentile, ratio, summarise


def record_of(figures: Figures, **fields: Any) -> Record:
    given: dict[str, Any] = {"machine": {"cpu": "one", "cores": 2}, "settings": {"rounds": 5}} | fields
    return Record(
        "engine", versions={}, commit=None, started="2020-01-01", seconds=1.0, figures=figures, **given
    )  # fmt: skip


def change(before: Figure | Missing, after: Figure | Missing, name: str = "some", margin: float = 0.05) -> Change:
    (one,) = compare(record_of({name: before}), record_of({name: after}), margin)
    return one.change


def around(value: float, unit: str = "ms", share: float = 0.01) -> Figure:
    return Figure(value, unit, value * (1 - share), value * (1 + share), 50, value * share)


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        ("some", around(100), around(115), Change.WORSE),
        ("some", around(115), around(100), Change.BETTER),
        ("some", around(100), around(101), Change.SAME),
        ("some", around(100), around(105), Change.UNSURE),  # about the margin
        ("some", around(100, share=0.3), around(100, share=0.3), Change.UNSURE),  # the samples tell nothing
        ("some", around(100, "tokens/s"), around(115, "tokens/s"), Change.BETTER),
        ("some", around(1, "x"), around(2, "x"), Change.UP),  # nobody says which way is better
        ("x_bf16_512", around(2, "x"), around(1.6, "x"), Change.WORSE),
        ("query_p50", around(1, "x"), around(0.8, "x"), Change.BETTER),  # a time over a peer's
        ("some", Figure(3, "calls"), Figure(3, "calls"), Change.SAME),
        ("some", Figure(3, "calls"), Figure(4, "calls"), Change.UNSURE),
        ("some", Figure(0, "calls"), Figure(0, "calls"), Change.SAME),
        ("bytes_model", Figure(0.29, "x"), Figure(0.31, "x"), Change.WORSE),  # no interval, but a broken promise
        ("some", around(1), Missing("gone"), Change.GONE),
        ("some", Missing("not yet"), around(1), Change.NEW),
    ],
)
def test_verdicts(name: str, before: Figure, after: Figure, expected: Change) -> None:
    assert change(before, after, name) is expected


def test_a_figure_that_one_record_lacks_is_told() -> None:
    old, new = record_of({"a": around(1)}), record_of({"b": around(1)})
    assert {each.figure: each.change for each in compare(old, new, 0.05)} == {"a": Change.GONE, "b": Change.NEW}


@pytest.mark.parametrize("rank", [50, 95])
def test_the_ratio_s_interval_covers_the_true_ratio_about_as_often_as_it_says(rank: float) -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(150):
        before, after = generator.lognormal(0, 0.4, (2, 60))  # skewed, as times are; the second is 1.3 times as long
        found = quotient(percentile(before, rank, "ms"), percentile(1.3 * after, rank, "ms"))
        assert found is not None
        covered += (found.lo or 0) <= 1.3 <= (found.hi or 0)
    assert 0.88 <= covered / 150 <= 1.0


def test_what_is_narrow_or_wide_makes_a_narrow_or_wide_ratio() -> None:
    narrow, wide = (quotient(around(1, share=share), around(1, share=share)) for share in (0.01, 0.1))
    assert narrow is not None
    assert wide is not None
    assert math.log(narrow.hi or 0) == pytest.approx(math.sqrt(2) * 0.01, rel=0.01)
    assert (wide.hi or 0) > (narrow.hi or 0) > 1 > (narrow.lo or 0) > (wide.lo or 0)


def test_no_ratio_to_zero() -> None:
    assert quotient(Figure(0, "calls"), Figure(3, "calls")) is None
    assert quotient(Figure(1, "x", -0.5, 2), Figure(1, "x", 0.5, 2)) == Figure(1, "x")


def test_other_machines_and_settings_are_warned_of() -> None:
    one = record_of({})
    assert warnings(one, one) == []
    assert "other machines" in warnings(one, record_of({}, machine={"cpu": "two", "cores": 2}))[0]
    assert "other settings: rounds" in warnings(one, record_of({}, settings={"rounds": 9}))[0]


def run(tmp_path: Path, before: Figures, after: Figures, *options: str) -> Result:
    for name, figures in (("before", before), ("after", after)):
        (tmp_path / name).mkdir(exist_ok=True)
        write(record_of(figures), tmp_path / name / "engine.json")
    return CliRunner().invoke(cli.main, ["compare", str(tmp_path / "before"), str(tmp_path / "after"), *options])


def test_folders_are_compared_and_what_is_worse_fails(tmp_path: Path) -> None:
    slower = run(tmp_path, {"query_ms": around(10)}, {"query_ms": around(12)})
    assert slower.exit_code == 1
    assert slower.output.splitlines()[-2].split()[-1] == "WORSE"
    assert run(tmp_path, {"query_ms": around(10)}, {"query_ms": around(12)}, "--margin", "0.5").exit_code == 0
    assert run(tmp_path, {"query_ms": around(10)}, {"query_ms": around(10)}).exit_code == 0


def test_records_without_a_scenario_in_common_are_wrong_usage(tmp_path: Path) -> None:
    write(record_of({"a": around(1)}), tmp_path / "one.json")
    write(dataclasses.replace(record_of({"a": around(1)}), scenario="load"), tmp_path / "two.json")
    result = CliRunner().invoke(cli.main, ["compare", str(tmp_path / "one.json"), str(tmp_path / "two.json")])
    assert result.exit_code == 2
    assert "no scenario is in both: engine; load" in result.output


def test_a_real_slow_down_is_found_from_samples() -> None:
    generator = np.random.default_rng(3)
    before, after = generator.lognormal(0, 0.1, 80), 1.15 * generator.lognormal(0, 0.1, 80)
    assert change(summarise(before, "ms"), summarise(after, "ms")) is Change.WORSE
    assert change(ratio(list(before), list(after)), ratio(list(before), list(before)), "x_short") is not Change.WORSE
