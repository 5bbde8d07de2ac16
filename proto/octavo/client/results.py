"""What calls return. Character positions index the Python string that was sent; times are in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from octavo.client.arguments import Segmentation

Array = NDArray[Any]
"""float32, float16 or int8 as asked for; "binary" is uint8 of the packed signs."""


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
    """Tokens of a call; `processed_tokens` (specials and prefixes included) is computed + cached."""

    tokens: int
    processed_tokens: int
    computed_tokens: int
    cached_tokens: int
    charged_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that the call's stages took at the server. Stages overlap and need not add up to the total."""

    total: float
    tokenize: float
    queue: float
    cache: float
    compute: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Segment(Brief):
    """A stretch of the document, `text[char_start:char_end]`. The segments of a document tile it.

    `resumed_from_layer` counts the layers whose output was known already; None when all ran. `digest` names what the
    model read. `vector` is there when it was asked for.
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
    """An Embed task's answer: of a document, or of one segment of a stream (whose `vector` has to be asked for)."""

    vector: Array | None  # (dimensions,)
    segment_vectors: Array | None = None  # (segments, dimensions)
    span_vectors: Array | None = None  # (spans, dimensions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Reply(Brief):
    """What every answer tells. Two vectors may share an index only when their fingerprints are equal."""

    model: ModelRef
    fingerprint: str
    usage: Usage
    timings: Timings
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class EmbedResult(Reply):
    """A document's vector and its segments."""

    vector: Array  # (dimensions,)
    segments: tuple[Segment, ...]
    span_vectors: Array | None = None  # (spans, dimensions)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Analysis(Reply):
    """A document's segments and the answer of each task, by its name."""

    segments: tuple[Segment, ...]
    results: Mapping[str, Embedding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class SegmentationResult(Reply):
    """How a document is cut, and what it would cost now.

    `uncached_tokens` are the processed tokens of the segments that would have to be computed. Nothing is computed for
    this answer: computed and cached tokens in its `usage` are those that an embed would have.
    """

    segments: tuple[Segment, ...]
    uncached_tokens: int
    would_charge_tokens: int


@dataclass(frozen=True, slots=True)
class StreamHeader:
    """What a stream says first."""

    model: ModelRef
    fingerprint: str
    request_id: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SegmentResult(Brief):
    """One segment of a stream and the answer of each task for it, by the task's name."""

    segment: Segment
    results: Mapping[str, Embedding]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class StreamSummary(Reply):
    """What a stream says last: the document's answers; `partial` when the deadline came before the document's end."""

    results: Mapping[str, Embedding]
    partial: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model that the server serves, and how. `fingerprint` is that of a call without options."""

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
