"""Converts tasks' results, and joins the pieces in which they come. An inconsistent reply raises ServerError."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from google.protobuf.message import Message

from octavo.client import results
from octavo.client.errors import ServerError
from octavo.client.results import TaskResult
from octavo.v1 import inference_pb2 as pb

_DTYPES = {
    pb.DATA_TYPE_UNSPECIFIED: "<f4",
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_INT8: "i1",
    pb.DATA_TYPE_BINARY: "u1",
}


def by_name(messages: Iterable[pb.TaskResult]) -> dict[str, TaskResult]:
    """Convert results of tasks."""
    found = ((message.name, task_result(message)) for message in messages)
    return {name: result for name, result in found if result is not None}


def by_name_of_segment(messages: Iterable[pb.TaskResult]) -> dict[str, TaskResult]:
    """Convert a segment's results: its vector is the only one of the segment vectors."""
    return {name: _of_segment(result) for name, result in by_name(messages).items()}


def task_result(message: pb.TaskResult) -> TaskResult | None:
    """Convert one task's result; None if the message has none, as for some segments in a stream of documents."""
    kind = message.WhichOneof("kind")
    return None if kind is None else converted(getattr(message, kind))


def converted(message: Message) -> TaskResult:
    """Convert the result of a task of any kind."""
    return _CONVERSIONS[type(message)](message)


def embedding(message: pb.Embedding) -> results.Embedding:
    """Convert an Embed task's result."""
    return results.Embedding(
        vector=_optional(message, "document_vector"),
        segment_vectors=_optional(message, "segment_vectors"),
        span_vectors=_optional(message, "span_vectors"),
    )


def entities(message: pb.Entities) -> results.Entities:
    """Convert a ClassifyTokens task's result."""
    return results.Entities(tuple(map(_entity, message.entities)))


def redaction(message: pb.Redaction) -> results.Redaction:
    """Convert a Redact task's result."""
    masked = (
        results.RedactedEntity(_entity(each.entity), each.redacted.start, each.redacted.end)
        for each in message.entities
    )
    return results.Redaction(message.text, tuple(masked))


def classification(message: pb.Classification) -> results.Classification:
    """Convert a Classify task's result."""
    return results.Classification(
        tuple(
            results.LabelScore(
                each.label, each.score, tuple((segment.segment_index, segment.score) for segment in each.segments)
            )
            for each in message.labels
        )
    )


def sparse_embedding(message: pb.SparseEmbedding) -> results.SparseEmbedding:
    """Convert an EmbedSparse task's result."""
    return results.SparseEmbedding(
        _sparse(message.document_vector) if message.HasField("document_vector") else None,
        tuple(map(_sparse, message.segment_vectors)),
    )


def ranking(message: pb.Ranking) -> results.Ranking:
    """Convert a Rank task's result."""
    passages = (
        results.Passage(each.span.start, each.span.end, each.score, each.segment_index, each.trunk)
        for each in message.passages
    )
    return results.Ranking(message.score, tuple(passages))


_CONVERSIONS: dict[type[Message], Callable[[Any], TaskResult]] = {
    pb.Embedding: embedding,
    pb.Entities: entities,
    pb.Redaction: redaction,
    pb.Classification: classification,
    pb.SparseEmbedding: sparse_embedding,
    pb.Ranking: ranking,
}


def array(tensor: pb.Tensor) -> results.Array:
    """Copy a tensor's values to an array; for BINARY, the packed bytes, with each row starting a new byte."""
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise ServerError(f"the reply has a data type unknown to this client: {tensor.data_type}")
    shape = list(tensor.shape)
    if tensor.data_type == pb.DATA_TYPE_BINARY and shape:
        shape[-1] = -(-shape[-1] // 8)
    if math.prod(shape) * np.dtype(dtype).itemsize != len(tensor.data):
        raise ServerError(f"the reply has a tensor of shape {list(tensor.shape)} in {len(tensor.data):,} bytes")
    values = np.frombuffer(tensor.data, dtype).reshape(shape)
    return values.astype(values.dtype.newbyteorder("="))


def joined(pieces: Sequence[TaskResult]) -> TaskResult:
    """Join what consecutive messages say of one task. The last has what concerns the whole document."""
    last = pieces[-1]
    match last:
        case results.Embedding():
            return replace(last, segment_vectors=_rows(pieces))
        case results.Entities():
            return results.Entities(tuple(each for piece in _of(results.Entities, pieces) for each in piece.entities))
        case results.Redaction():
            return _in_a_row(_of(results.Redaction, pieces))
        case results.SparseEmbedding():
            sparse = _of(results.SparseEmbedding, pieces)
            return replace(last, segment_vectors=tuple(each for piece in sparse for each in piece.segment_vectors))
    return last


def _of(kind: type[results.R], pieces: Iterable[TaskResult]) -> list[results.R]:
    return [piece for piece in pieces if isinstance(piece, kind)]


def _rows(pieces: Iterable[TaskResult]) -> results.Array | None:
    rows = [each.segment_vectors for each in _of(results.Embedding, pieces) if each.segment_vectors is not None]
    return np.concatenate(rows) if rows else None


def _in_a_row(pieces: Sequence[results.Redaction]) -> results.Redaction:
    """Join pieces of a redacted text, whose positions count from the start of the piece."""
    before, masked = 0, []
    for piece in pieces:
        masked += [
            replace(each, redacted_start=before + each.redacted_start, redacted_end=before + each.redacted_end)
            for each in piece.entities
        ]
        before += len(piece.text)
    return results.Redaction("".join(piece.text for piece in pieces), tuple(masked))


def _of_segment(result: TaskResult) -> TaskResult:
    match result:
        case results.Embedding():
            return results.Embedding(None if result.segment_vectors is None else _only(result.segment_vectors))
        case results.SparseEmbedding():
            return results.SparseEmbedding(_only(result.segment_vectors) if result.segment_vectors else None)
    return result


def _only(vectors: Any) -> Any:
    if len(vectors) != 1:
        raise ServerError(f"the reply has {len(vectors)} vectors for one segment")
    return vectors[0]


def _entity(message: pb.Entity) -> results.Entity:
    return results.Entity(message.span.start, message.span.end, message.label, message.score, message.segment_index)


def _sparse(message: pb.SparseVector) -> results.SparseVector:
    if len(message.indices) != len(message.weights):
        raise ServerError(f"the reply has {len(message.weights)} weights for {len(message.indices)} indices")
    return results.SparseVector(
        np.array(message.indices, np.uint32), np.array(message.weights, np.float32), tuple(message.tokens)
    )


def _optional(message: pb.Embedding, field: str) -> results.Array | None:
    return array(getattr(message, field)) if message.HasField(field) else None
