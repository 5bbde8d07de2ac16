"""The check's verdicts: what is slower fails, what is noisy does not, and only this machine's kind counts."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.regression import baseline
from benchmarks.regression.baseline import NoBaselineError, check, judged, stored, update
from benchmarks.regression.measure import RATIOS, Measured, measure, slowed

KIND = "Some CPU, 2 cores, int8, native"


def ratios(engine: float = 1.5, server: float = 1.4, again: float = 0.5, width: float = 0.02) -> dict[str, Figure]:
    values = {"engine": engine, "server": server, "again": again}
    return {name: Figure(each, "x", each * (1 - width), each * (1 + width), 12) for name, each in values.items()}


@pytest.mark.parametrize(
    ("measured", "slower"),
    [
        (ratios(), ()),
        (ratios(engine=1.5 / 1.15), ("engine",)),
        (ratios(again=0.5 / 1.15, server=1.4 / 1.2), ("server", "again")),
        (ratios(engine=1.5 / 1.05), ()),  # within the margin
        (ratios(engine=1.5 / 1.15, width=0.2), ()),  # too noisy to be sure
        (ratios(engine=2.5), ()),  # faster
    ],
)
def test_slower_is_what_is_so_with_its_whole_interval(measured: dict[str, Figure], slower: tuple[str, ...]) -> None:
    assert judged(ratios(), Measured(KIND, measured), twice=False).slower == slower


def measuring(monkeypatch: pytest.MonkeyPatch, *runs: dict[str, Figure]) -> list[Mapping[str, float]]:
    """Let the fresh processes measure these."""
    asked: list[Mapping[str, float]] = []
    left = iter(runs)

    def fresh(planted: Mapping[str, float]) -> Measured:
        asked.append(planted)
        return Measured(KIND, next(left))

    monkeypatch.setattr(baseline, "fresh", fresh)
    return asked


def test_what_seems_slower_is_measured_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow = ratios(engine=1.5 / 1.15)
    measuring(monkeypatch, ratios(), ratios(), ratios(), slow, ratios(), slow, slow)
    update(2, tmp_path)
    assert check(folder=tmp_path).slower == ()
    once = check(folder=tmp_path)
    assert (once.slower, once.twice) == ((), True)
    both = check(folder=tmp_path)
    assert (both.slower, both.twice) == (("engine",), True)


def test_the_baseline_is_the_median_of_several_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measuring(monkeypatch, ratios(engine=1.5), ratios(engine=9.0), ratios(engine=1.6))
    assert update(3, tmp_path).name == "some-cpu-2-cores-int8-native.json"
    assert stored(KIND, tmp_path)["engine"].value == 1.6


def test_another_kind_of_machine_has_no_baseline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measuring(monkeypatch, ratios())
    with pytest.raises(NoBaselineError, match=r"no baseline for Some CPU, 2 cores.*--update"):
        check(folder=tmp_path)


def test_the_command_fails_on_what_is_slower_and_says_when_there_is_nothing_to_hold_it_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "busy", lambda _: None)
    monkeypatch.setattr(baseline, "check", lambda: check(folder=tmp_path))
    slow = ratios(again=0.4)
    measuring(monkeypatch, ratios(), ratios(), ratios(), slow, slow)
    without = CliRunner().invoke(cli.main, ["check"])
    assert without.exit_code == 2
    assert f"no baseline for {KIND}; write one with --update" in without.output
    update(1, tmp_path)
    held = CliRunner().invoke(cli.main, ["check"])
    assert held.exit_code == 0, held.output
    failed = CliRunner().invoke(cli.main, ["check"])
    assert failed.exit_code == 1
    assert "slower than the baseline, twice: again" in failed.output


def test_a_planted_slow_down_takes_the_time_that_it_says() -> None:
    def work() -> float:
        time.sleep(0.1)
        return 0.1

    start = time.perf_counter()
    assert 0.15 <= slowed(work, 0.5)() < 0.3
    assert time.perf_counter() - start >= 0.15


def test_a_real_measurement_gives_every_ratio() -> None:
    measured = measure({}, rounds=2)
    assert set(measured.figures) == set(RATIOS)
    assert all(figure.value > 0 and figure.n == 2 for figure in measured.figures.values())
    assert "cores" in measured.kind
