"""Interleaving, and contenders that fall out."""

import time

import pytest

from benchmarks.figures import Missing
from benchmarks.race import Race, Run, raced, timed


def recorder(log: list[str], name: str, seconds: float = 1.0) -> Run:
    def run() -> float:
        log.append(name)
        return seconds

    return run


def test_variants_take_turns_after_the_warm_up() -> None:
    log: list[str] = []
    race = Race({name: recorder(log, name) for name in "ABC"})
    race.warm_up()
    assert race.seconds == {}
    race.measure(rounds=2)
    assert "".join(log) == "ABCABCABC"
    assert race.seconds == {name: [1.0, 1.0] for name in "ABC"}


def test_a_variant_that_fails_is_kept_with_its_reason_and_the_others_race_on() -> None:
    log: list[str] = []

    def falls_in_the_second_round() -> float:
        log.append("B")
        if log.count("B") == 2:
            raise RuntimeError("out of breath")
        return 1.0

    race = Race({"A": recorder(log, "A"), "B": falls_in_the_second_round, "C": recorder(log, "C")})
    race.measure(rounds=3)
    assert "".join(log) == "ABCABCAC"
    assert set(race.seconds) == {"A", "C"}, "samples of a part of the rounds cannot be paired"
    assert isinstance(race.missing["B"], Missing)
    assert "out of breath" in race.missing["B"].reason


def test_only_the_fastest_of_each_group_go_on() -> None:
    log: list[str] = []
    variants = {
        name: recorder(log, name, seconds) for name, seconds in {"p/1": 3.0, "p/2": 1.0, "p/3": 2.0, "q/1": 9.0}.items()
    }
    race = Race(variants)
    race.keep_fastest(count=2)
    race.measure(rounds=1)
    assert set(race.seconds) == {"p/2", "p/3", "q/1"}
    assert (race.fastest("p"), race.fastest("q"), race.fastest("r")) == ("p/2", "q/1", None)


def test_no_round_begins_after_the_time_is_spent_but_some_are_always_run() -> None:
    log: list[str] = []
    race = Race({"A": recorder(log, "A")})
    race.measure(rounds=10, at_most=0.0, at_least=3)
    assert race.seconds["A"] == [1.0] * 3


def test_timed_work_reports_its_seconds() -> None:
    start = time.perf_counter()
    seconds = timed(lambda: time.sleep(0.02))()
    assert 0.02 <= seconds <= time.perf_counter() - start


def test_variants_that_must_all_finish_are_told_by_the_first_that_does_not() -> None:
    assert raced({"A": recorder([], "A"), "B": recorder([], "B", 2.0)}, rounds=2) == {"A": [1.0] * 2, "B": [2.0] * 2}
    with pytest.raises(RuntimeError, match="B: ValueError: could not convert"):
        raced({"A": recorder([], "A"), "B": lambda: float("gone")}, rounds=2)
