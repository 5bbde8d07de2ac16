"""Arguments of calls. None selects the model's or server's default."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from octavo.client.results import Segment

PoolingName = Literal["mean", "cls"]
DataTypeName = Literal["float32", "float16", "int8", "binary"]
InputTypeName = Literal["query", "passage"]
CacheModeName = Literal["read_write", "read_only", "refresh", "bypass"]
PolicyName = Literal["content", "sentence", "fixed"]
PriorityName = Literal["interactive", "bulk"]
RankMethodName = Literal["dense", "sparse", "fused", "cross_encoder"]
AggregationName = Literal["simple", "first", "average", "max"]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How to cut a document into segments.

    Attributes:
        policy: the segmentation policy.
        max_tokens: maximum tokens that a segment owns.
        min_tokens: minimum tokens that a segment owns.
    """

    policy: PolicyName | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """A task that computes a vector of the document and, if requested, of its segments and of spans.

    Attributes:
        pooling: how token states become a vector.
        normalize: scale vectors to length 1.
        dimensions: truncate vectors to this many values.
        data_type: type of the values; "binary" packs their signs, eight per byte.
        segment_vectors: also return a vector for each segment.
        spans: (start, end) indices into the string, end exclusive; each span gets the mean of its tokens' states.
        model: "name" or "name@version"; None: the call's model.
    """

    pooling: PoolingName | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    data_type: DataTypeName | None = None
    segment_vectors: bool = False
    spans: Sequence[tuple[int, int]] = ()
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ClassifyTokens:
    """A task that finds entities.

    Attributes:
        labels: only entities with these labels; empty: all.
        min_score: only entities with at least this score, from 0 to 1.
        aggregation: how scores of tokens become scores of words.
        model: "name" or "name@version"; None: the call's model, or another that supports the task.
    """

    labels: Sequence[str] = ()
    min_score: float = 0.0
    aggregation: AggregationName | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Redact:
    """A task that masks entities.

    Attributes:
        mask: replaces each entity; "{label}" stands for its label. None: "[{label}]".
        labels, min_score, aggregation, model: as in `ClassifyTokens`.
    """

    mask: str | None = None
    labels: Sequence[str] = ()
    min_score: float = 0.0
    aggregation: AggregationName | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Classify:
    """A task that labels a document.

    Attributes:
        top_k: only so many of the highest scores; None: all.
        min_score: only labels with at least this score, from 0 to 1.
        segments: add to each label the segments that carry it.
        model: as in `ClassifyTokens`.
    """

    top_k: int | None = None
    min_score: float = 0.0
    segments: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedSparse:
    """A task that computes a sparse vector of the document, over the vocabulary.

    Attributes:
        top_k: only so many of the highest weights; None: all.
        tokens: also return the tokens' texts.
        segment_vectors: also return a vector for each segment.
        model: as in `ClassifyTokens`.
    """

    top_k: int | None = None
    tokens: bool = False
    segment_vectors: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Rank:
    """A task that scores a document's segments by how well they answer a query.

    For models with prefixes the call's `input_type` should be "passage", which is the default of `rank` alone.

    Attributes:
        query: at most 16,384 bytes of UTF-8.
        method: how segments are scored; None: as the model does best. "fused" is for `rank` alone.
        passages: number of best passages, at most 100; None: 3.
        model: as in `ClassifyTokens`.
    """

    query: str
    method: RankMethodName | None = None
    passages: int | None = None
    model: str | None = None


Task = Embed | ClassifyTokens | Redact | Classify | EmbedSparse | Rank


class CallArguments(TypedDict, total=False):
    """Keyword arguments of every call.

    Attributes:
        model: "name" or "name@version".
        expected_fingerprint: fail unless the call's vectors may share an index with those of this fingerprint.
        segmentation: how to cut the document.
        window: half width of the attention window in tokens, 0 for full attention.
        input_type: which of the model's prefixes to add before each segment.
        cache_mode: how to use the server's cache; never changes a result.
        priority: the scheduling class; "interactive" goes before "bulk". The client's plan may limit it.
    """

    model: str | None
    expected_fingerprint: str | None
    segmentation: Segmentation | None
    window: int | None
    input_type: InputTypeName | None
    cache_mode: CacheModeName | None
    priority: PriorityName | None


class DocumentArguments(CallArguments, total=False):
    """Keyword arguments of `analyze` and `stream`: those of every call and the following.

    Attributes:
        known_segments: digests of segments whose vectors the caller holds. Segments with one of them are marked `kept`:
            Embed tasks neither compute nor return nor charge their vectors, and have no vector of the document. Other
            tasks return in full.
    """

    known_segments: Sequence[bytes]


class SegmentArguments(DocumentArguments, total=False):
    """Keyword arguments of `segment`: those of `analyze`, and of an `embed` whose cost and fingerprint are wanted."""

    pooling: PoolingName | None
    normalize: bool | None
    dimensions: int | None


class EmbedArguments(CallArguments, total=False):
    """Keyword arguments of `embed`: those of every call and the fields of `Embed`."""

    pooling: PoolingName | None
    normalize: bool | None
    dimensions: int | None
    data_type: DataTypeName | None
    segment_vectors: bool
    spans: Sequence[tuple[int, int]]


class ClassifyTokensArguments(CallArguments, total=False):
    """Keyword arguments of `classify_tokens`: those of every call and the fields of `ClassifyTokens`."""

    labels: Sequence[str]
    min_score: float
    aggregation: AggregationName | None


class RedactArguments(ClassifyTokensArguments, total=False):
    """Keyword arguments of `redact`: those of every call and the fields of `Redact`."""

    mask: str | None


class ClassifyArguments(CallArguments, total=False):
    """Keyword arguments of `classify`: those of every call and the fields of `Classify`."""

    top_k: int | None
    min_score: float
    segments: bool


class EmbedSparseArguments(CallArguments, total=False):
    """Keyword arguments of `embed_sparse`: those of every call and the fields of `EmbedSparse`."""

    top_k: int | None
    tokens: bool
    segment_vectors: bool


class RankArguments(CallArguments, total=False):
    """Keyword arguments of `rank`: those of every call, the fields of `Rank` and the following.

    Attributes:
        top_k: only so many of the best documents; None: all.
    """

    method: RankMethodName | None
    passages: int | None
    top_k: int | None


class EmbedManyArguments(EmbedArguments, total=False):
    """Keyword arguments of `embed_many`: those of `embed` and the following.

    Attributes:
        timeout: seconds for each call.
        in_flight: maximum calls in progress.
    """

    timeout: float | None
    in_flight: int


class SyncArguments(CallArguments, total=False):
    """Keyword arguments of `sync`: those of every call but for `expected_fingerprint`, and the following.

    Attributes:
        pooling: how token states become a vector.
        normalize: scale vectors to length 1.
        dimensions: truncate vectors to this many values.
    """

    pooling: PoolingName | None
    normalize: bool | None
    dimensions: int | None


class ProcessArguments(CallArguments, total=False):
    """Keyword arguments of `process`: those of every call and the following.

    Attributes:
        timeout: seconds for all documents together.
        in_flight: maximum unanswered documents at a time (fewer if they are long).
        segments: return segments. They are also returned if a task returns segment vectors.
        on_segments: called with a document's id and its new segments, about once a second while it is computed. Needs
            `segments`. If the stream breaks, a document's segments come again from the first.
    """

    timeout: float | None
    in_flight: int
    segments: bool
    on_segments: Callable[[Any, Sequence["Segment"]], None] | None
