"""Results of calls. Character positions index the Python string that was sent; times are in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.client.arguments import Segmentation

Array = NDArray[Any]
"""float32, float16 or int8 as requested; "binary" is uint8 with packed signs."""


class Brief:
    """Shows arrays by type and shape and segments by number: a document may have thousands."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{each.name}={_brief(getattr(self, each.name))}" for each in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"<{len(value):,} {'segment' if len(value) == 1 else 'segments'}>"
    return repr(value.hex() if isinstance(value, bytes) else value)


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
    """

    tokens: int
    processed_tokens: int
    computed_tokens: int
    cached_tokens: int
    charged_tokens: int


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
        digest: identifies the model's input for this segment.
        vector: the segment's vector, if requested.
    """

    index: int
    char_start: int
    char_end: int
    token_count: int
    processed_tokens: int
    resumed_from_layer: int | None
    digest: bytes
    vector: Array | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Embedding(Brief):
    """An Embed task's result for a document or for one segment of a stream.

    Attributes:
        vector: (dimensions,); for a segment of a stream only if segment vectors were requested.
        segment_vectors: (segments, dimensions), if requested.
        span_vectors: (spans, dimensions), if requested.
    """

    vector: Array | None
    segment_vectors: Array | None = None
    span_vectors: Array | None = None


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
class Analysis(Reply):
    """A document's segments and the result of each task by name."""

    segments: tuple[Segment, ...]
    results: Mapping[str, Embedding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(Reply):
    """A document's segments and its current cost.

    Attributes:
        uncached_tokens: processed tokens of the segments that would have to be computed. Nothing was computed for this
            reply: computed and cached tokens in its `usage` are those that an embed would have.
        would_charge_tokens: tokens that an embed would be charged.
    """

    segments: tuple[Segment, ...]
    uncached_tokens: int
    would_charge_tokens: int


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """The first message of a stream."""

    model: ModelRef
    fingerprint: str
    request_id: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SegmentResult(Brief):
    """One segment of a stream and the result of each task by name."""

    segment: Segment
    results: Mapping[str, Embedding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StreamSummary(Reply):
    """The last message of a stream: the document's results.

    Attributes:
        partial: the deadline passed before the document's end.
    """

    results: Mapping[str, Embedding]
    partial: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model and how the server runs it. `fingerprint` is that of a call without options."""

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
