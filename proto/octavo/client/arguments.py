"""Arguments of calls. None selects the model's or server's default."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

PoolingName = Literal["mean", "cls"]
DataTypeName = Literal["float32", "float16", "int8", "binary"]
InputTypeName = Literal["query", "passage"]
CacheModeName = Literal["read_write", "read_only", "refresh", "bypass"]
PolicyName = Literal["content", "sentence", "fixed"]
PriorityName = Literal["interactive", "bulk"]


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
    """

    pooling: PoolingName | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    data_type: DataTypeName | None = None
    segment_vectors: bool = False
    spans: Sequence[tuple[int, int]] = ()


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


class EmbedArguments(CallArguments, total=False):
    """Keyword arguments of `embed`: those of every call and the fields of `Embed`."""

    pooling: PoolingName | None
    normalize: bool | None
    dimensions: int | None
    data_type: DataTypeName | None
    segment_vectors: bool
    spans: Sequence[tuple[int, int]]


class EmbedManyArguments(EmbedArguments, total=False):
    """Keyword arguments of `embed_many`: those of `embed` and the following.

    Attributes:
        timeout: seconds for each call.
        in_flight: maximum calls in progress.
    """

    timeout: float | None
    in_flight: int


class ProcessArguments(CallArguments, total=False):
    """Keyword arguments of `process`: those of every call and the following.

    Attributes:
        timeout: seconds for all documents together.
        in_flight: maximum unanswered documents at a time (fewer if they are long).
        segments: return segments. They are also returned if a task returns segment vectors.
    """

    timeout: float | None
    in_flight: int
    segments: bool
