"""Reads labelled documents from JSON Lines, one object per line.

A document has `text` and, to classify it, `label` or, for any number of labels, `labels`; to classify its tokens,
`entities`: objects with `label` and with `start` and `end` in code points. Other keys are ignored. Errors name the line
and never contain its text.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from chunking import Segment  # imports tokenizers, which help texts do without

_LEAST: Final = 2  # documents: a head is judged by those that it was not fitted on

HeadTask: TypeAlias = Literal["classify", "tokens"]
OUTSIDE = "O"
"""The label of tokens of no entity."""


class ExampleError(ValueError):
    """The data cannot be used; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled span of a text, in code points."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Example:
    """A labelled document.

    Attributes:
        place: where it was read, for errors.
        labels: the document's.
        entities: in order; they do not overlap.
    """

    place: str
    text: str
    labels: tuple[str, ...] = ()
    entities: tuple[Entity, ...] = ()


@dataclass(frozen=True, slots=True)
class Data:
    """Labelled documents.

    Attributes:
        labels: all labels, sorted; for tokens `O`, then `B-` and `I-` of each kind of entity.
        multi_label: a document may have any number of labels.
    """

    task: HeadTask
    documents: tuple[Example, ...]
    labels: tuple[str, ...]
    multi_label: bool = False


def read_data(path: Path, task: HeadTask) -> Data:
    """Read a file.

    Raises:
        ExampleError: a line is invalid, or there are too few documents or labels.
        OSError: it cannot be read.
    """
    several: set[bool] = set()
    documents = []
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        try:
            example, multi_label = _example(line, task)
        except ExampleError as error:
            raise ExampleError(f"{place}: {error}") from None
        several.add(multi_label)
        if len(several) > 1:
            raise ExampleError(f"{place}: some documents have 'label' and some 'labels': write one of them")
        documents.append(Example(place, *example))
    return data_of(task, documents, multi_label=several == {True}, name=str(path))


def data_of(task: HeadTask, documents: Sequence[Example], *, multi_label: bool, name: str) -> Data:
    """Check that a head can be trained on these documents. Raises ExampleError if not."""
    kinds = {entity.label for example in documents for entity in example.entities}
    named = {label for example in documents for label in example.labels}
    if len(documents) < _LEAST:
        raise ExampleError(f"{name}: at least {_LEAST} documents are needed")
    if task == "tokens" and not kinds:
        raise ExampleError(f"{name}: no document has entities")
    if task == "classify" and len(named) < (1 if multi_label else 2):
        raise ExampleError(f"{name}: all documents have the same label" if named else f"{name}: there are no labels")
    bio = [f"{prefix}-{kind}" for kind in sorted(kinds) for prefix in "BI"]
    return Data(task, tuple(documents), tuple([OUTSIDE, *bio] if task == "tokens" else sorted(named)), multi_label)


def token_labels(segment: "Segment", entities: Iterable[Entity], labels: Sequence[str]) -> NDArray[np.int64]:
    """The index of each owned token's label; a token belongs to the entity whose text it shares."""
    indices = {label: index for index, label in enumerate(labels)}
    found = np.full(segment.tokens, indices[OUTSIDE], np.int64)
    for entity in entities:
        first = int(np.searchsorted(segment.token_ends, entity.start, side="right"))
        last = int(np.searchsorted(segment.token_starts, entity.end, side="left"))
        if first >= last:
            continue
        begins = segment.token_ends[first] > entity.start and segment.start <= entity.start
        found[first:last] = indices[f"I-{entity.label}"]
        if begins:
            found[first] = indices[f"B-{entity.label}"]
    return found


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, with their numbers."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode()
            except UnicodeDecodeError:
                raise ExampleError(f"{path}, line {number}: not UTF-8") from None
            if text.strip():
                yield number, text


def _example(line: str, task: HeadTask) -> tuple[tuple[str, tuple[str, ...], tuple[Entity, ...]], bool]:
    """A line's text, labels and entities, and whether it may have several labels."""
    try:
        value: Any = json.loads(line)
    except ValueError:
        raise ExampleError("not JSON") from None
    if not isinstance(value, dict):
        raise ExampleError("not a JSON object")
    text = _text(value)
    if task == "tokens":
        return (text, (), _entities(value.get("entities"), text)), False
    if ("label" in value) == ("labels" in value):
        raise ExampleError("either 'label' or 'labels' is needed")
    if "label" in value:
        return (text, (_label(value["label"], "label"),), ()), False
    if not isinstance(value["labels"], list):
        raise ExampleError("'labels' must be a list of strings")
    return (text, tuple(dict.fromkeys(_label(each, "labels") for each in value["labels"])), ()), True


def _text(value: dict[str, Any]) -> str:
    text = value.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ExampleError("'text' must be a string that is not empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ExampleError("'text' has a lone surrogate") from None
    return text


def _label(value: Any, field: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ExampleError(f"{field!r}: a label must be a printable string that is not empty")
    return value


def _entities(value: Any, text: str) -> tuple[Entity, ...]:
    if not isinstance(value, list):
        raise ExampleError("'entities' must be a list")
    entities = sorted((_entity(each, index, text) for index, each in enumerate(value)), key=lambda each: each.start)
    for entity, following in pairwise(entities):
        if following.start < entity.end:
            raise ExampleError(f"'entities' overlap at {following.start}")
    return tuple(entities)


def _entity(value: Any, index: int, text: str) -> Entity:
    field = f"entities[{index}]"
    if not isinstance(value, dict):
        raise ExampleError(f"'{field}' must be an object")
    start, end = value.get("start"), value.get("end")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise ExampleError(f"'{field}': start and end must be a span of the text, of {len(text)} code points")
    return Entity(start, end, _label(value.get("label"), f"{field}.label"))
