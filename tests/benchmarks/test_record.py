"""The record's form, the table, and what counts as a miss."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import __main__ as cli
from benchmarks import machine, registry
from benchmarks.figures import Bars, Curve, Figure, Figures, Missing, attempt
from benchmarks.histograms import distribution
from benchmarks.reporting.record import Record, RecordError, read, read_all, write
from benchmarks.targets import TARGETS, Target, Verdict, judge, of_scenario

HIGHER = Target("s", "x", "", must=2, reach=3)
LOWER = Target("s", "ms", "", must=50, reach=15, lower=True)


@pytest.mark.parametrize(
    ("target", "value", "verdict"),
    [
        (HIGHER, 1.99, Verdict.MISS),
        (HIGHER, 2.0, Verdict.MET),
        (HIGHER, 3.0, Verdict.REACHED),
        (LOWER, 50.1, Verdict.MISS),
        (LOWER, 50.0, Verdict.MET),
        (LOWER, 15.0, Verdict.REACHED),
        (HIGHER, float("nan"), Verdict.MISS),
        (Target("s", "x", "", must=0.28, lower=True), 0.28, Verdict.REACHED),
        (Target("s", "x", ""), 0.0, Verdict.REPORTED),
        (None, 7.0, Verdict.REPORTED),
    ],
)
def test_verdicts(target: Target | None, value: float, verdict: Verdict) -> None:
    assert judge(Figure(value, ""), target) is verdict


def test_ids_are_unique_and_their_thresholds_in_order() -> None:
    assert len({target.id for target in TARGETS}) == len(TARGETS)
    for target in TARGETS:
        if target.must is not None and target.reach is not None:
            assert (target.reach < target.must) == target.lower, target.id


def test_every_scenario_with_a_promise_exists_and_can_be_listed() -> None:
    assert {target.scenario for target in TARGETS} <= set(registry.scenarios())
    assert all(scenario.summary for scenario in registry.scenarios().values())


def test_a_scenario_is_a_module_with_run_and_is_not_imported_to_be_listed(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text('"""Says nothing.\n\nMore.\n"""\nraise SystemExit("imported")\ndef run(): ...\n')
    (tmp_path / "helper.py").write_text('"""No scenario."""\nclass A:\n    def run(self): ...\n')
    assert registry.scenarios(tmp_path) == {"loud": registry.Scenario("loud", "Says nothing.\n\nMore.")}
    assert registry.scenarios(tmp_path)["loud"].summary == "Says nothing."


def invoke(monkeypatch: pytest.MonkeyPatch, figures: Figures, *arguments: str) -> Any:
    def load(_: registry.Scenario) -> tuple[Any, Any]:
        return (lambda: figures), ()

    monkeypatch.setattr(registry.Scenario, "load", load)
    monkeypatch.setattr(cli, "scenarios", lambda: {"document": registry.Scenario("document", "…")})
    return CliRunner().invoke(cli.main, ["document", *arguments])


GOOD = {
    "st_max_diff": Figure(1e-7, ""),
    "memory_1m_mb": Figure(90.0, "MB"),
    "loop_block_ms": Figure(20.0, "ms"),
    "first_segment_share": Figure(0.1, "%", 0.05, 0.15, 5, 0.01),
}


def test_the_record_has_the_documented_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    result = invoke(monkeypatch, GOOD, "--json", str(path))
    assert result.exit_code == 0, result.output
    record = json.loads(path.read_text())
    assert {"scenario", "machine", "versions", "commit", "settings", "figures"} <= set(record)
    assert record["scenario"] == "document"
    assert {"cpu", "cores", "isa", "memory_bytes", "load_average"} <= set(record["machine"])
    assert record["figures"]["first_segment_share"] == {
        "value": 0.1, "unit": "%", "lo": 0.05, "hi": 0.15, "n": 5, "spread": 0.01,
    }  # fmt: skip
    assert record["figures"]["memory_1m_mb"] == {"value": 90.0, "unit": "MB"}
    assert list(tmp_path.iterdir()) == [path], "no draft is left behind"


DRAWINGS = {
    "waits.idle": distribution([0.001, 0.002, 0.5], "A lone caller's wait"),
    "cost.octavo": Curve(
        (1e3, 1e4), (0.1, 0.9), "length / tokens", "time / s", "Cost", log="xy", lo=(0.1, 0.8), hi=(0.2, 1.0)
    ),
    "levers.cold": Bars(("none", "all"), (900.0, 120.0), "P50 / ms", "Levers", log=True),
}


def record_of(figures: Figures) -> Record:
    return Record("document", {"cpu": "one"}, {"python": "3"}, None, {"tokens": 9}, "2020-01-01", 1.5, figures)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = record_of({**GOOD, "again": Missing("gone"), **DRAWINGS})  # type: ignore[dict-item]
    write(record, tmp_path / "one.json")
    assert read(tmp_path / "one.json") == record
    assert read_all(tmp_path) == read_all(tmp_path / "one.json") == [record]
    assert set(record.readings) == {*GOOD, "again"}
    assert set(record.drawings) == set(DRAWINGS)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": {}, "scenario": "s"}', '{"figures": 3}'])
def test_a_file_that_is_no_record_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(RecordError, match=r"odd\.json: not a benchmark's record"):
        read_all(tmp_path)


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no records"):
        read_all(tmp_path)


def test_drawings_of_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal lengths"):
        Curve((1, 2), (1,), "", "", "")
    with pytest.raises(ValueError, match="unequal lengths"):
        Bars(("a",), (1,), "", "", lo=())


def test_the_table_shows_value_thresholds_and_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = {line.split()[0]: line for line in invoke(monkeypatch, GOOD).output.splitlines()}
    assert lines["memory_1m_mb"].split() == ["memory_1m_mb", "90", "MB", "≤", "300", "≤", "100", "reached"]
    assert lines["loop_block_ms"].split()[-1] == "met"


def test_a_missing_peer_is_a_miss_and_the_rest_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    figures = GOOD | {"memory_1m_mb": Missing("the peer would not install")}
    result = invoke(monkeypatch, figures, "--json", str(path))
    assert result.exit_code == 1
    assert "missed: memory_1m_mb" in result.output
    assert "MISSING: the peer would not install" in result.output
    written = json.loads(path.read_text())["figures"]
    assert written["memory_1m_mb"] == {"value": None, "unit": None, "missing": "the peer would not install"}
    assert written["loop_block_ms"]["value"] == 20.0


def test_a_figure_that_is_not_given_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, {name: figure for name, figure in GOOD.items() if name != "loop_block_ms"})
    assert result.exit_code == 1
    assert "missed: loop_block_ms" in result.output


def test_a_broken_promise_is_a_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke(monkeypatch, GOOD | {"loop_block_ms": Figure(51.0, "ms")})
    assert result.exit_code == 1
    assert "missed: loop_block_ms" in result.output


def test_a_scenario_that_fails_misses_all_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def load(_: registry.Scenario) -> tuple[Any, Any]:
        def run() -> Figures:
            raise RuntimeError("no server came up")

        return run, ()

    monkeypatch.setattr(registry.Scenario, "load", load)
    monkeypatch.setattr(cli, "scenarios", lambda: {"document": registry.Scenario("document", "…")})
    path = tmp_path / "record.json"
    result = CliRunner().invoke(cli.main, ["document", "--json", str(path)])
    assert result.exit_code == 1
    figures = json.loads(path.read_text())["figures"]
    assert set(figures) == set(of_scenario("document"))
    assert all("no server came up" in figure["missing"] for figure in figures.values())


def test_a_scenario_without_promises_misses_too_when_it_fails_or_gives_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> Figures:
        raise RuntimeError("no server came up")

    for run, reason in ((fails, "no server came up"), (dict, "gave no figure")):

        def load(_: registry.Scenario, run: Any = run) -> tuple[Any, Any]:
            return run, ()

        monkeypatch.setattr(registry.Scenario, "load", load)
        monkeypatch.setattr(cli, "scenarios", lambda: {"unpromised": registry.Scenario("unpromised", "…")})
        result = CliRunner().invoke(cli.main, ["unpromised"])
        assert result.exit_code == 1
        assert reason in result.output


def test_parts_fail_alone() -> None:
    def breaks() -> Figures:
        raise OSError("gone")

    assert attempt(["a"], lambda: {"a": Figure(1, "")}) == {"a": Figure(1, "")}
    broken = attempt(["b", "c"], breaks)
    assert set(broken) == {"b", "c"}
    assert all(isinstance(outcome, Missing) and "OSError: gone" in outcome.reason for outcome in broken.values())


def test_a_busy_machine_is_warned_of() -> None:
    assert machine.busy({"load_average": [1.9, 1, 1], "cores": 2}) is not None
    assert machine.busy({"load_average": [0.1, 1, 1], "cores": 2}) is None


def test_without_a_scenario_the_list_is_printed() -> None:
    result = CliRunner().invoke(cli.main, [])
    assert result.exit_code == 0
    for name in registry.scenarios():
        assert name in result.output
