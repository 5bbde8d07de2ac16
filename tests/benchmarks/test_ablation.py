"""The `ablation` scenario: what each row is, and how its times become figures."""

import os
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ablation, levers, texts
from benchmarks.ablation import Reader, Samples
from benchmarks.figures import Bars, Figure
from benchmarks.levers import NONE, Levers
from server.config.schema import Settings


def test_all_levers_are_the_default_configuration_and_a_window() -> None:
    settings, ways = Settings(), levers.rows(64)
    model = settings.models[0]
    assert ways["default"] == Levers(model.scheme, model.segmentation.policy, model.window, settings.cache.enabled)
    assert ways["all"] == replace(ways["default"], window=64)


def test_each_row_pulls_one_lever() -> None:
    ways = levers.rows(64)
    assert ways["server"] == NONE
    for row in ("segments", "window", "int8", "cache"):
        changed = [name for name in Levers.__slots__ if getattr(ways[row], name) != getattr(NONE, name)]
        assert len(changed) == 1, row
    for way in ways.values():
        config = tomllib.loads(way.config(Path("/models/m")))
        (model,) = config["models"]
        assert (
            Levers(model["scheme"], model["segmentation"]["policy"], model["window"], config["cache"]["enabled"]) == way
        )
        Settings.model_validate(config)


def toy(seconds: float, seen: list[str], *, cached: bool) -> Reader:
    """Make a reader that needs a time of its own and, if it is ``cached``, a hundredth for what it has seen."""

    def read(text: str) -> float:
        known = cached and text in seen
        seen.append(text)
        return seconds / (100 if known else 1)

    return Reader(read, os.getpid(), cached)


def test_a_row_without_a_cache_is_timed_once_a_document_and_stands_for_every_state() -> None:
    seen: dict[str, list[str]] = {"naive": [], "default": [], "all": []}
    readers = {
        row: toy(seconds, seen[row], cached=row != "naive") for row, seconds in zip(seen, (8, 2, 1), strict=True)
    }
    samples = {row: Samples() for row in readers}
    ablation._round(readers, samples, "text", ["copy", "other"])
    assert seen["naive"] == ["text"]
    assert seen["all"] == ["text", "copy", "other", "text", "text"]
    assert samples["naive"].seconds == {"cold": [[8.0]], "edited": [[8.0]], "again": [[8.0]]}
    assert samples["all"].seconds == {"cold": [[1.0]], "edited": [[1.0, 1.0]], "again": [[0.01, 0.01]]}
    ratios = ablation._ratios(samples, {})
    found = {name: figure.value for name, figure in ratios.items() if isinstance(figure, Figure)}
    assert found == {
        "ablation_cold_x": 8.0, "ablation_edit_x": 8.0, "ablation_again_x": pytest.approx(800.0),
        "ablation_cold_x.default": 4.0, "ablation_edit_x.default": 4.0,
        "ablation_again_x.default": pytest.approx(400.0),
    }  # fmt: skip
    table = ablation._table(samples, {}, [1_000])
    speed, p99 = table["ablation.all.again.speed"], table["ablation.naive.edited.p99_ms"]
    assert isinstance(speed, Figure)
    assert isinstance(p99, Figure)
    assert speed.value == pytest.approx(100_000)
    assert p99.value == pytest.approx(8_000)
    bars = ablation._drawings(samples)["ablation.cold"]
    assert isinstance(bars, Bars)
    assert bars.names == ("naive", "default", "all")


def test_flips_and_accuracy_are_those_of_the_default_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "default.flips_same_cuts": 2.0, "all.flips_same_cuts": 0.0,
        "default.accuracy": 90.0, "all.accuracy": 95.0, "server.accuracy": 100.0,
    }  # fmt: skip
    found = {f"ablation.{name}": Figure(value, "%") for name, value in values.items()}
    monkeypatch.setattr(ablation, "accuracy", lambda *_: found)
    changes = ablation._changes(Path(), levers.rows(64), 20)
    assert changes["ablation_flips"] == Figure(2.0, "%")
    assert changes["ablation_accuracy_kept"] == Figure(90.0, "%")


def test_decisions_are_held_against_naive_reading_and_against_the_same_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = ["a", "b"] * 10
    sample = [texts.Document(str(i), each, "") for i, each in enumerate(labels)]
    monkeypatch.setattr(levers, "load_tokenizer", lambda folder: folder)
    monkeypatch.setattr(levers, "labelled", lambda *_: {"book_excerpts": sample, "spam_assassin": sample})
    monkeypatch.setattr(levers, "embedder", lambda *way: way)
    clear = np.array([[1.0, 0.1], [-1.0, 0.1]] * 10, np.float32)
    one_wrong = clear.copy()
    one_wrong[0] *= -1
    # Cutting by content turns one document round; 8 bits on top of it change nothing more.
    monkeypatch.setattr(levers, "read_documents", lambda *_: one_wrong if _[-1] == "content" else clear)
    figures = levers.accuracy(Path(), levers.rows(64), documents=20)
    found = {name: figure.value for name, figure in figures.items() if isinstance(figure, Figure)}
    assert found["ablation.server.flips"] == found["ablation.int8.flips"] == 0
    assert found["ablation.all.flips"] == found["ablation.segments.flips"] == pytest.approx(5)
    assert found["ablation.all.flips_same_cuts"] == 0
    assert found["ablation.all.accuracy"] == pytest.approx(95)
    assert found["ablation.all.cosine"] < 1
    assert found["ablation.all.cosine_same_cuts"] == pytest.approx(1)
