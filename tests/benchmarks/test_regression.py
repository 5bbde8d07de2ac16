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
from benchmarks.regression.baseline import MARGIN, NoBaselineError, check, judged, stored, update
from benchmarks.regression.measure import RATIOS, Measured, measure, slowed

KIND = "Some CPU, 2 cores, int8, native"


def ratios(engine: float = 1.5, server: float = 1.4, again: float = 0.5, width: float = 0.02) -> dict[str, Figure]:
    values = {"engine": engine, "server": server, "again": again}
    return {name: Figure(each, "x", each * (1 - width), each * (1 + width), 12) for name, each in values.items()}


@pytest.mark.parametrize(
    ("measured", "slower"),
    [
        ([ratios()], ()),
        ([ratios(engine=1.5 / 1.15)], ("engine",)),
        ([ratios(again=0.5 / 1.15, server=1.4 / 1.2)], ("server", "again")),
        ([ratios(engine=1.5 / 1.05)], ()),  # within the margin
        ([ratios(engine=2.5)], ()),  # faster
        ([ratios(engine=1.5 / 1.15), ratios(), ratios(engine=1.45)], ()),  # one of three is slow
        ([ratios(engine=1.5 / 1.15), ratios(), ratios(engine=1.3)], ("engine",)),  # two are
    ],
)
def test_slower_is_what_the_middle_process_says(measured: list[dict[str, Figure]], slower: tuple[str, ...]) -> None:
    assert judged(ratios(), [Measured(KIND, each) for each in measured], MARGIN).slower == slower


def measuring(monkeypatch: pytest.MonkeyPatch, *runs: dict[str, Figure]) -> list[Mapping[str, float]]:
    """Let the fresh processes measure these."""
    asked: list[Mapping[str, float]] = []
    left = iter(runs)

    def fresh(planted: Mapping[str, float]) -> Measured:
        asked.append(planted)
        return Measured(KIND, next(left))

    monkeypatch.setattr(baseline, "fresh", fresh)
    return asked


def test_what_is_suspect_is_measured_in_two_more_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slow, suspect = ratios(engine=1.5 / 1.15), ratios(engine=1.5 / 1.05)
    steady = ratios(engine=1.5 / 1.04)
    asked = measuring(
        monkeypatch,
        *(ratios(), ratios()),  # the baseline
        steady,
        *(slow, ratios(), ratios()),
        *(suspect, slow, slow),
    )
    update(2, tmp_path)
    quiet = check(folder=tmp_path)
    assert (quiet.slower, quiet.processes) == ((), 1)
    once = check(folder=tmp_path)
    assert (once.slower, once.processes) == ((), 3)
    slowed_down = check({"engine": 0.15}, tmp_path)
    assert (slowed_down.slower, slowed_down.processes) == (("engine",), 3)
    assert asked[-3:] == [{"engine": 0.15}] * 3


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
    measuring(monkeypatch, ratios(), ratios(), ratios(), slow, slow, slow)
    without = CliRunner().invoke(cli.main, ["check"])
    assert without.exit_code == 2
    assert f"no baseline for {KIND}; write one with --update" in without.output
    update(1, tmp_path)
    held = CliRunner().invoke(cli.main, ["check"])
    assert held.exit_code == 0, held.output
    failed = CliRunner().invoke(cli.main, ["check"])
    assert failed.exit_code == 1
    assert "slower than the baseline: again" in failed.output


def test_a_planted_slow_down_takes_the_time_that_it_says() -> None:
    def work() -> float:
        time.sleep(0.1)
        return 0.1

    start = time.perf_counter()
    told = slowed(work, 0.5)()
    assert 0.15 <= told <= time.perf_counter() - start


def test_a_real_measurement_gives_every_ratio() -> None:
    measured = measure({}, rounds=2)
    assert set(measured.figures) == set(RATIOS)
    assert {name: figure.n for name, figure in measured.figures.items()} == {"engine": 2, "server": 2, "again": 40}
    assert all(figure.value > 0 for figure in measured.figures.values())
    assert "cores" in measured.kind
