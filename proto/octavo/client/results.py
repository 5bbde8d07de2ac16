"""Results of calls. Character positions index the Python string that was sent; times are in seconds."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from octavo.client.arguments import Segmentation

Array = NDArray[Any]
"""float32, float16 or int8 as requested; "binary" is uint8 with packed signs."""


_SHOWN = 3  # items of a tuple


class Brief:
    """Shows arrays by type and shape, long texts by length and segments by number: a document may have thousands."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{each.name}={_brief(getattr(self, each.name))}" for each in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _brief(value: Any) -> str:
    match value:
        case np.ndarray():
            return f"{value.dtype}{list(value.shape)}"
        case tuple() if not value or isinstance(value[0], Segment):
            return f"<{len(value):,} {'segment' if len(value) == 1 else 'segments'}>" if value else "()"
        case tuple():
            more = f", <{len(value) - _SHOWN:,} more>" if len(value) > _SHOWN else "," if len(value) == 1 else ""
            return f"({', '.join(map(_brief, value[:_SHOWN]))}{more})"
        case float():
            return f"{value:.4g}"
        case bytes():
            return repr(value.hex())
    return repr(value)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """The model that ran."""

    name: str
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a call.

    Attributes:
        tokens: tokens of the document.
        processed_tokens: tokens that the model reads, including special tokens and prefixes: computed + cached.
        computed_tokens: processed tokens that were computed.
        cached_tokens: processed tokens that came from the cache.
        charged_tokens: tokens charged to the client's quota.
        kept_tokens: tokens that the model would have read for kept segments that no task needed.
    """

    tokens: int
    processed_tokens: int
    computed_tokens: int
    cached_tokens: int
    charged_tokens: int
    kept_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that each stage of the call took on the server. Stages may overlap, so they need not add up."""

    total: float
    tokenize: float
    queue: float
    cache: float
    compute: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Segment(Brief):
    """A span of the document, `text[char_start:char_end]`. Segments tile the document.

    Attributes:
        resumed_from_layer: the number of layers taken from the cache; None if all layers ran.
        digest: identifies the model's input for this segment. Segments with the same digest have the same vector, bit
            for bit, under the same fingerprint. A document that repeats a segment has its digest twice.
        vector: the segment's vector, if requested.
        kept: its digest is one of the call's `known_segments`: it has no vector, and was not processed for Embed tasks.
    """

    index: int
    char_start: int
    char_end: int
    token_count: int
    processed_tokens: int
    resumed_from_layer: int | None
    digest: bytes
    vector: Array | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embedding(Brief):
    """An Embed task's result for a document or for one segment of a stream.

    Attributes:
        vector: (dimensions,); for a segment of a stream only if segment vectors were requested. None in a call with
            `known_segments`, for the document and for kept segments.
        segment_vectors: (segments, dimensions), if requested; kept segments have none.
        span_vectors: (spans, dimensions), if requested.
    """

    vector: Array | None
    segment_vectors: Array | None = None
    span_vectors: Array | None = None


@dataclass(frozen=True, slots=True, repr=False)
class Entity(Brief):
    """A stretch of the document with a label, `text[char_start:char_end]`.

    Attributes:
        score: from 0 to 1.
        segment_index: the segment in which it starts, of the trunk that found it.
    """

    char_start: int
    char_end: int
    label: str
    score: float
    segment_index: int


@dataclass(frozen=True, slots=True, repr=False)
class Entities(Brief):
    """A ClassifyTokens task's result: entities in document order, without overlaps."""

    entities: tuple[Entity, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class RedactedEntity(Brief):
    """An entity of the document and its mask, `redaction.text[redacted_start:redacted_end]`."""

    entity: Entity
    redacted_start: int
    redacted_end: int


@dataclass(frozen=True, slots=True)
class Redaction:
    """A Redact task's result.

    For one segment of a stream it is the next piece of the redacted text, with positions in that piece.

    Attributes:
        text: the redacted text.
        entities: the map between redacted text and document: the text between two entities is the same in both.
    """

    text: str = ""
    entities: tuple[RedactedEntity, ...] = ()

    def __repr__(self) -> str:
        return f"Redaction(text=<{len(self.text):,} characters>, entities={_brief(self.entities)})"

    def document_position(self, position: int) -> int:
        """The document's position for one in the redacted text; for one within a mask, where its entity starts."""
        index = bisect_right(self.entities, position, key=lambda each: each.redacted_start) - 1
        if index < 0:
            return position
        before = self.entities[index]
        if position < before.redacted_end:
            return before.entity.char_start
        return before.entity.char_end + position - before.redacted_end


@dataclass(frozen=True, slots=True, repr=False)
class LabelScore(Brief):
    """A label and its score from 0 to 1.

    Attributes:
        segments: indices and scores of the segments that carry the label, if requested.
    """

    label: str
    score: float
    segments: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Classification(Brief):
    """A Classify task's result: labels by descending score."""

    labels: tuple[LabelScore, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseVector(Brief):
    """Weights of tokens.

    Attributes:
        indices: ids of tokens, ascending; uint32.
        weights: positive; float32.
        tokens: their texts, if requested.
    """

    indices: Array
    weights: Array
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SparseEmbedding(Brief):
    """An EmbedSparse task's result.

    Attributes:
        vector: the document's, or the segment's; for a segment of a stream only if segment vectors were requested.
        segment_vectors: one for each segment, if requested.
    """

    vector: SparseVector | None
    segment_vectors: tuple[SparseVector, ...] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Passage(Brief):
    """A segment as an answer to a query, `text[char_start:char_end]`.

    Attributes:
        segment_index: in the document as it was cut for `trunk`.
        trunk: index in the trunks of a `RankResult`.
    """

    char_start: int
    char_end: int
    score: float
    segment_index: int
    trunk: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Ranking(Brief):
    """A Rank task's result.

    Attributes:
        score: the document's, which is that of its best segment; or the segment's own, in a stream.
        passages: by descending score; none for a segment.
    """

    score: float
    passages: tuple[Passage, ...] = ()


TaskResult = Embedding | Entities | Redaction | Classification | SparseEmbedding | Ranking
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Trunk(Brief):
    """A pass of the document through the layers of one model.

    Attributes:
        tasks: names of the tasks that it served.
        usage: of this pass; None at the start of a stream.
        segments: the document as it was cut for this model. Empty in a stream, whose segments name their trunk.
    """

    model: ModelRef
    fingerprint: str
    tasks: tuple[str, ...]
    usage: Usage | None = None
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Reply(Brief):
    """The fields of every reply. Vectors may only share an index if their fingerprints are equal."""

    model: ModelRef
    fingerprint: str
    usage: Usage
    timings: Timings
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EmbedResult(Reply):
    """A document's vector and segments.

    Attributes:
        vector: (dimensions,).
        span_vectors: (spans, dimensions), if requested.
    """

    vector: Array
    segments: tuple[Segment, ...]
    span_vectors: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class TaskReply(Reply, Generic[R]):
    """One task's result for a document, and the document's segments."""

    segments: tuple[Segment, ...]
    result: R


@dataclass(frozen=True, slots=True, repr=False)
class RankedDocument(Brief):
    """A document and how well it answers the query.

    Attributes:
        index: of its text in the call.
    """

    index: int
    score: float
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class RankResult(Reply):
    """Documents by how well they answer a query.

    Attributes:
        documents: by descending score.
        errors: of documents that cannot be ranked, such as empty ones, by index.
        trunks: what ran; two for "fused", unless one model serves both methods.
    """

    documents: tuple[RankedDocument, ...]
    errors: Mapping[int, Exception]
    trunks: tuple[Trunk, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Analysis(Reply):
    """A document's results.

    Attributes:
        segments: of the first trunk, with the kept ones.
        gone: digests of `known_segments` that the document has in no trunk.
        results: the result of each task by name: Embedding, Entities, Redaction, Classification, SparseEmbedding or
            Ranking.
        trunks: what ran, each with its segments.
    """

    segments: tuple[Segment, ...]
    results: Mapping[str, Any]
    trunks: tuple[Trunk, ...]
    gone: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(Reply):
    """A document's segments and its current cost.

    Attributes:
        uncached_tokens: processed tokens of the segments that would have to be computed. Nothing was computed for this
            reply: computed and cached tokens in its `usage` are those that an embed would have.
        would_charge_tokens: tokens that an embed would be charged.
        gone: digests of `known_segments` that the document does not have.
    """

    segments: tuple[Segment, ...]
    uncached_tokens: int
    would_charge_tokens: int
    gone: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StreamHeader(Brief):
    """The first message of a stream.

    Attributes:
        trunks: what runs.
    """

    model: ModelRef
    fingerprint: str
    request_id: str
    trunks: tuple[Trunk, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SegmentResult(Brief):
    """One segment of a stream and the result of each of its trunk's tasks by name.

    Entities come with the segment after which they are known to have ended, and a redacted text in pieces.

    Attributes:
        trunk: index into the header's trunks.
    """

    segment: Segment
    results: Mapping[str, Any]
    trunk: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StreamSummary(Reply):
    """The last message of a stream: the document's results, with all entities and the whole redacted text.

    Attributes:
        partial: the deadline passed before the document's end.
        trunks: what ran.
        gone: digests of `known_segments` that the document has in no trunk; empty if partial.
    """

    results: Mapping[str, Any]
    partial: bool
    trunks: tuple[Trunk, ...]
    gone: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A model and how the server runs it.

    Attributes:
        fingerprint: that of a call without options.
        tasks: the kinds of tasks that it supports.
        labels: of its entities or classes.
        multi_label: a document may have any number of the labels.
        trained_on: the data that its head was trained on, if it declares it.
        trunk: the model whose layers run; empty: its own.
    """

    ref: ModelRef
    fingerprint: str
    is_default: bool
    tasks: tuple[str, ...]
    labels: tuple[str, ...]
    dimensions: int
    max_segment_tokens: int
    token_budget: int
    query_prefix: str
    passage_prefix: str
    pooling: str
    normalize: bool
    segmentation: Segmentation
    window: int
    layers: int
    number_scheme: str
    kernels: str
    kernels_reason: str
    licence: str
    multi_label: bool
    trained_on: str
    trunk: str
