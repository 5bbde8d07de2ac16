"""Columns of tasks' results: their names, types and values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from octavo.cli.output import number, numbers
from octavo.client import (
    Classification,
    Embedding,
    EmbedSparse,
    Entities,
    Entity,
    Passage,
    Ranking,
    RedactedEntity,
    Redaction,
    SparseEmbedding,
)
from octavo.client.arguments import Task
from octavo.client.results import SparseVector, TaskResult

VECTOR = "vector"  # its type depends on the model
_PLACE = {"char_start": "int64", "char_end": "int64"}
_ENTITY = {**_PLACE, "label": "string", "score": "float"}
_PASSAGE = {**_PLACE, "score": "float", "segment": "int64"}
_MASKED = {**_ENTITY, "redacted_start": "int64", "redacted_end": "int64"}
_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "embed": {VECTOR: None},
    "classify_tokens": {"entities": [_ENTITY]},
    "redact": {"redacted": "string", "redacted_entities": [_MASKED]},
    "classify": {"labels": ["string"], "scores": ["float"]},
    "embed_sparse": {"indices": ["uint32"], "weights": ["float"], "tokens": ["string"]},
    "rank": {"score": "float", "passages": [_PASSAGE]},
}
"""By kind of task; a list has one element, a mapping has the fields of a struct. Types are pyarrow's names."""


def columns_of(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The columns of a job's tasks, with their types."""
    found = {name: kind for task in tasks for name, kind in _COLUMNS[task].items()}
    if not any(isinstance(task, EmbedSparse) and task.tokens for task in tasks.values()):
        found.pop("tokens", None)
    return found


def arrow_type(kind: Any) -> Any:
    """The pyarrow.DataType of a column's type."""
    import pyarrow as pa  # noqa: PLC0415 - only jobs need it

    match kind:
        case [element]:
            return pa.list_(arrow_type(element))
        case dict():
            return pa.struct([pa.field(name, arrow_type(each)) for name, each in kind.items()])
    return pa.type_for_alias(kind)


def values_of(result: TaskResult) -> dict[str, Any]:
    """The values of a result's columns; arrays are numpy's."""
    match result:
        case Embedding():
            return {VECTOR: result.vector}
        case Entities():
            return {"entities": [_entity(each) for each in result.entities]}
        case Redaction():
            return {"redacted": result.text, "redacted_entities": [_masked(each) for each in result.entities]}
        case Classification():
            scores = np.array([each.score for each in result.labels], np.float32)
            return {"labels": [each.label for each in result.labels], "scores": scores}
        case SparseEmbedding():
            return {} if result.vector is None else _sparse(result.vector)
        case Ranking():
            return {"score": number(result.score), "passages": [_passage(each) for each in result.passages]}


def of_segments(result: TaskResult) -> Sequence[TaskResult]:
    """The results of segments, for a task that returns their vectors."""
    match result:
        case Embedding() if result.segment_vectors is not None:
            return [Embedding(vector) for vector in result.segment_vectors]
        case SparseEmbedding():
            return [SparseEmbedding(vector) for vector in result.segment_vectors]
    return []


def json_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with lists for arrays, whose values have the fewest digits that round-trip."""
    return {name: numbers(value) if isinstance(value, np.ndarray) else value for name, value in row.items()}


def _entity(entity: Entity) -> dict[str, Any]:
    values = asdict(entity)
    return {**{name: values[name] for name in _ENTITY}, "score": number(entity.score)}


def _passage(passage: Passage) -> dict[str, Any]:
    place = {"char_start": passage.char_start, "char_end": passage.char_end}
    return {**place, "score": number(passage.score), "segment": passage.segment_index}


def _masked(masked: RedactedEntity) -> dict[str, Any]:
    place = {"redacted_start": masked.redacted_start, "redacted_end": masked.redacted_end}
    return {**_entity(masked.entity), **place}


def _sparse(vector: SparseVector) -> dict[str, Any]:
    return {"indices": vector.indices, "weights": vector.weights, "tokens": list(vector.tokens)}
