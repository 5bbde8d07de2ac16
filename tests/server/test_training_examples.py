"""Labelled documents: what is read, and errors that name the line and tell nothing of the text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chunking import Segment
from server.training.examples import Entity, ExampleError, HeadTask, read_data, token_labels

PRIVATE = "Ada lives in London"
ADA = {"start": 0, "end": 3, "label": "NAME"}
LONDON = {"start": 13, "end": 19, "label": "CITY"}


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_labels_are_sorted_and_empty_lines_ignored(tmp_path: Path) -> None:
    file = written(tmp_path / "d", {"text": "a", "label": "z", "id": 1}, "", {"text": "b", "label": "y"})
    data = read_data(file, "classify")
    assert data.labels == ("y", "z")
    assert not data.multi_label
    assert [(each.text, each.labels) for each in data.documents] == [("a", ("z",)), ("b", ("y",))]
    assert data.documents[1].place == f"{file}, line 3"


def test_any_number_of_labels(tmp_path: Path) -> None:
    data = read_data(written(tmp_path / "d", {"text": "a", "labels": ["x"]}, {"text": "b", "labels": []}), "classify")
    assert data.multi_label
    assert data.labels == ("x",)


def test_entities_become_bio_labels(tmp_path: Path) -> None:
    file = written(tmp_path / "d", {"text": PRIVATE, "entities": [LONDON, ADA]}, {"text": "b", "entities": []})
    data = read_data(file, "tokens")
    assert data.labels == ("O", "B-CITY", "I-CITY", "B-NAME", "I-NAME")
    assert data.documents[0].entities == (Entity(0, 3, "NAME"), Entity(13, 19, "CITY"))


@pytest.mark.parametrize(
    ("line", "task", "message"),
    [
        (PRIVATE, "classify", "not JSON"),
        ([PRIVATE], "classify", "not a JSON object"),
        ({"label": "x"}, "classify", "'text' must be a string"),
        ({"text": "  ", "label": "x"}, "classify", "'text' must be a string"),
        ({"text": f"{PRIVATE}\ud800", "label": "x"}, "classify", "'text' has a lone surrogate"),
        ({"text": PRIVATE}, "classify", "either 'label' or 'labels'"),
        ({"text": PRIVATE, "label": "x", "labels": []}, "classify", "either 'label' or 'labels'"),
        ({"text": PRIVATE, "label": ""}, "classify", "'label': a label must be"),
        ({"text": PRIVATE, "label": 3}, "classify", "'label': a label must be"),
        ({"text": PRIVATE, "labels": ["x"]}, "classify", "some documents have 'label' and some 'labels'"),
        ({"text": PRIVATE, "entities": {}}, "tokens", "'entities' must be a list"),
        ({"text": PRIVATE, "entities": [7]}, "tokens", r"'entities\[0\]' must be an object"),
        ({"text": PRIVATE, "entities": [{**ADA, "end": 20}]}, "tokens", r"'entities\[0\]': start and end .* 19 code"),
        ({"text": PRIVATE, "entities": [ADA, {**ADA, "end": True}]}, "tokens", r"'entities\[1\]': start and end"),
        ({"text": PRIVATE, "entities": [{**ADA, "label": "a\nb"}]}, "tokens", r"'entities\[0\].label': a label"),
        ({"text": PRIVATE, "entities": [ADA, {**ADA, "start": 2, "end": 5}]}, "tokens", "'entities' overlap at 2"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, line: object, task: HeadTask, message: str) -> None:
    good = {"text": "good", "label": "x"} if task == "classify" else {"text": PRIVATE, "entities": [ADA]}
    file = written(tmp_path / "d", good, line)
    with pytest.raises(ExampleError, match=f"{file}, line 2: {message}") as caught:
        read_data(file, task)
    assert PRIVATE not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "task", "message"),
    [
        ([], "classify", "at least 2 documents"),
        ([{"text": "a", "label": "x"}] * 2, "classify", "all documents have the same label"),
        ([{"text": "a", "labels": []}] * 2, "classify", "there are no labels"),
        ([{"text": "a", "entities": []}] * 2, "tokens", "no document has entities"),
    ],
)
def test_data_that_teach_nothing_are_refused(tmp_path: Path, lines: list[Any], task: HeadTask, message: str) -> None:
    with pytest.raises(ExampleError, match=message):
        read_data(written(tmp_path / "d", *lines), task)


def test_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b'{"text": "a", "label": "x"}\n{"text": "\xe9", "label": "y"}\n')
    with pytest.raises(ExampleError, match="line 2: not UTF-8"):
        read_data(tmp_path / "d", "classify")


def segment(start: int, end: int, spans: list[tuple[int, int]]) -> Segment:
    starts, ends = np.array(spans).T
    return Segment(0, start, end, np.zeros(len(spans) + 2, np.int32), slice(1, len(spans) + 1), starts, ends)


def test_tokens_take_the_label_of_the_entity_that_they_share_text_with() -> None:
    labels = ("O", "B-X", "I-X", "B-Y", "I-Y")
    entities = (Entity(4, 9, "X"), Entity(9, 12, "Y"), Entity(20, 30, "X"))
    whole = segment(0, 14, [(0, 3), (3, 5), (6, 9), (9, 12), (12, 14)])
    assert [labels[index] for index in token_labels(whole, entities, labels)] == ["O", "B-X", "I-X", "B-Y", "O"]
    # A segment that an entity runs into goes on with it.
    rest = segment(24, 40, [(24, 27), (28, 33), (34, 40)])
    assert [labels[index] for index in token_labels(rest, entities, labels)] == ["I-X", "I-X", "O"]
