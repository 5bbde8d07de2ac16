"""What a caller may choose. Whatever is left at None is the model's or the server's choice."""

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
    """How a document is cut: the policy, and the most and fewest tokens that a segment owns."""

    policy: PolicyName | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """A task: vectors of the document, and where asked of its segments and of spans of it.

    `dimensions` keeps a vector's first so many values. `data_type` "binary" packs the signs, eight a byte.
    `spans` are (start, end) pairs of the string's indices, end exclusive; each gets the mean of its tokens' states.
    """

    pooling: PoolingName | None = None
    normalize: bool | None = None
    dimensions: int | None = None
    data_type: DataTypeName | None = None
    segment_vectors: bool = False
    spans: Sequence[tuple[int, int]] = ()


class CallArguments(TypedDict, total=False):
    """Keyword arguments of every call.

    `model` is "name" or "name@version". With `expected_fingerprint` the call fails unless its vectors may share an
    index with those of that fingerprint. `window` is the attention window's half width in tokens, 0 for none.
    `input_type` chooses which of the model's prefixes is put before each segment. `cache_mode` says what the call
    wants of the server's cache; it never changes an answer. `priority` chooses the class of the server's queue,
    "interactive" going first; a client's plan may cap it.
    """

    model: str | None
    expected_fingerprint: str | None
    segmentation: Segmentation | None
    window: int | None
    input_type: InputTypeName | None
    cache_mode: CacheModeName | None
    priority: PriorityName | None


class EmbedArguments(CallArguments, total=False):
    """Keyword arguments of `embed`: those of every call, and `Embed`'s."""

    pooling: PoolingName | None
    normalize: bool | None
    dimensions: int | None
    data_type: DataTypeName | None
    segment_vectors: bool
    spans: Sequence[tuple[int, int]]


class EmbedManyArguments(EmbedArguments, total=False):
    """Keyword arguments of `embed_many`: those of `embed`, whose timeout each call has, and calls under way at most."""

    timeout: float | None
    in_flight: int


class ProcessArguments(CallArguments, total=False):
    """Keyword arguments of `process`.

    `timeout` is for everything. At most `in_flight` documents are unanswered at a time (fewer when they are long).
    Answers have segments with `segments`, or where a task asks for their vectors.
    """

    timeout: float | None
    in_flight: int
    segments: bool
