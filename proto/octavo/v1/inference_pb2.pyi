from google.protobuf import duration_pb2 as _duration_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OffsetUnit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OFFSET_UNIT_UNSPECIFIED: _ClassVar[OffsetUnit]
    OFFSET_UNIT_CODE_POINT: _ClassVar[OffsetUnit]
    OFFSET_UNIT_UTF16: _ClassVar[OffsetUnit]
    OFFSET_UNIT_UTF8: _ClassVar[OffsetUnit]

class CacheMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_MODE_UNSPECIFIED: _ClassVar[CacheMode]
    CACHE_MODE_READ_WRITE: _ClassVar[CacheMode]
    CACHE_MODE_READ_ONLY: _ClassVar[CacheMode]
    CACHE_MODE_REFRESH: _ClassVar[CacheMode]
    CACHE_MODE_BYPASS: _ClassVar[CacheMode]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_BULK: _ClassVar[Priority]

class SegmentationPolicy(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SEGMENTATION_POLICY_UNSPECIFIED: _ClassVar[SegmentationPolicy]
    SEGMENTATION_POLICY_CONTENT: _ClassVar[SegmentationPolicy]
    SEGMENTATION_POLICY_SENTENCE: _ClassVar[SegmentationPolicy]
    SEGMENTATION_POLICY_FIXED: _ClassVar[SegmentationPolicy]

class InputType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INPUT_TYPE_UNSPECIFIED: _ClassVar[InputType]
    INPUT_TYPE_QUERY: _ClassVar[InputType]
    INPUT_TYPE_PASSAGE: _ClassVar[InputType]

class DataType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DATA_TYPE_UNSPECIFIED: _ClassVar[DataType]
    DATA_TYPE_FLOAT32: _ClassVar[DataType]
    DATA_TYPE_FLOAT16: _ClassVar[DataType]
    DATA_TYPE_INT8: _ClassVar[DataType]
    DATA_TYPE_BINARY: _ClassVar[DataType]

class Pooling(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    POOLING_UNSPECIFIED: _ClassVar[Pooling]
    POOLING_MEAN: _ClassVar[Pooling]
    POOLING_CLS: _ClassVar[Pooling]

class Aggregation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGGREGATION_UNSPECIFIED: _ClassVar[Aggregation]
    AGGREGATION_SIMPLE: _ClassVar[Aggregation]
    AGGREGATION_FIRST: _ClassVar[Aggregation]
    AGGREGATION_AVERAGE: _ClassVar[Aggregation]
    AGGREGATION_MAX: _ClassVar[Aggregation]

class RankMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RANK_METHOD_UNSPECIFIED: _ClassVar[RankMethod]
    RANK_METHOD_DENSE: _ClassVar[RankMethod]
    RANK_METHOD_SPARSE: _ClassVar[RankMethod]
    RANK_METHOD_FUSED: _ClassVar[RankMethod]
    RANK_METHOD_CROSS_ENCODER: _ClassVar[RankMethod]
OFFSET_UNIT_UNSPECIFIED: OffsetUnit
OFFSET_UNIT_CODE_POINT: OffsetUnit
OFFSET_UNIT_UTF16: OffsetUnit
OFFSET_UNIT_UTF8: OffsetUnit
CACHE_MODE_UNSPECIFIED: CacheMode
CACHE_MODE_READ_WRITE: CacheMode
CACHE_MODE_READ_ONLY: CacheMode
CACHE_MODE_REFRESH: CacheMode
CACHE_MODE_BYPASS: CacheMode
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_BULK: Priority
SEGMENTATION_POLICY_UNSPECIFIED: SegmentationPolicy
SEGMENTATION_POLICY_CONTENT: SegmentationPolicy
SEGMENTATION_POLICY_SENTENCE: SegmentationPolicy
SEGMENTATION_POLICY_FIXED: SegmentationPolicy
INPUT_TYPE_UNSPECIFIED: InputType
INPUT_TYPE_QUERY: InputType
INPUT_TYPE_PASSAGE: InputType
DATA_TYPE_UNSPECIFIED: DataType
DATA_TYPE_FLOAT32: DataType
DATA_TYPE_FLOAT16: DataType
DATA_TYPE_INT8: DataType
DATA_TYPE_BINARY: DataType
POOLING_UNSPECIFIED: Pooling
POOLING_MEAN: Pooling
POOLING_CLS: Pooling
AGGREGATION_UNSPECIFIED: Aggregation
AGGREGATION_SIMPLE: Aggregation
AGGREGATION_FIRST: Aggregation
AGGREGATION_AVERAGE: Aggregation
AGGREGATION_MAX: Aggregation
RANK_METHOD_UNSPECIFIED: RankMethod
RANK_METHOD_DENSE: RankMethod
RANK_METHOD_SPARSE: RankMethod
RANK_METHOD_FUSED: RankMethod
RANK_METHOD_CROSS_ENCODER: RankMethod

class Document(_message.Message):
    __slots__ = ("id", "text")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class Segmentation(_message.Message):
    __slots__ = ("policy", "max_tokens", "min_tokens")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    policy: SegmentationPolicy
    max_tokens: int
    min_tokens: int
    def __init__(self, policy: _Optional[_Union[SegmentationPolicy, str]] = ..., max_tokens: _Optional[int] = ..., min_tokens: _Optional[int] = ...) -> None: ...

class CallOptions(_message.Message):
    __slots__ = ("model", "expected_fingerprint", "offset_unit", "cache_mode", "priority", "segmentation", "window", "known_segment_digests", "input_type")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_UNIT_FIELD_NUMBER: _ClassVar[int]
    CACHE_MODE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    KNOWN_SEGMENT_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    INPUT_TYPE_FIELD_NUMBER: _ClassVar[int]
    model: str
    expected_fingerprint: str
    offset_unit: OffsetUnit
    cache_mode: CacheMode
    priority: Priority
    segmentation: Segmentation
    window: int
    known_segment_digests: bytes
    input_type: InputType
    def __init__(self, model: _Optional[str] = ..., expected_fingerprint: _Optional[str] = ..., offset_unit: _Optional[_Union[OffsetUnit, str]] = ..., cache_mode: _Optional[_Union[CacheMode, str]] = ..., priority: _Optional[_Union[Priority, str]] = ..., segmentation: _Optional[_Union[Segmentation, _Mapping]] = ..., window: _Optional[int] = ..., known_segment_digests: _Optional[bytes] = ..., input_type: _Optional[_Union[InputType, str]] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("start", "end")
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    start: int
    end: int
    def __init__(self, start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class SegmentInfo(_message.Message):
    __slots__ = ("index", "span", "tokens", "processed_tokens", "resumed_from_layer", "digest")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SPAN_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RESUMED_FROM_LAYER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    span: Span
    tokens: int
    processed_tokens: int
    resumed_from_layer: int
    digest: bytes
    def __init__(self, index: _Optional[int] = ..., span: _Optional[_Union[Span, _Mapping]] = ..., tokens: _Optional[int] = ..., processed_tokens: _Optional[int] = ..., resumed_from_layer: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class KeptSegments(_message.Message):
    __slots__ = ("positions", "lengths", "tokens")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    lengths: _containers.RepeatedScalarFieldContainer[int]
    tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, positions: _Optional[_Iterable[int]] = ..., lengths: _Optional[_Iterable[int]] = ..., tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("tokens", "processed_tokens", "computed_tokens", "cached_tokens", "charged_tokens", "kept_tokens")
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    PROCESSED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CHARGED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    processed_tokens: int
    computed_tokens: int
    cached_tokens: int
    charged_tokens: int
    kept_tokens: int
    def __init__(self, tokens: _Optional[int] = ..., processed_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., cached_tokens: _Optional[int] = ..., charged_tokens: _Optional[int] = ..., kept_tokens: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("total", "tokenize", "queue", "cache", "compute")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_FIELD_NUMBER: _ClassVar[int]
    total: _duration_pb2.Duration
    tokenize: _duration_pb2.Duration
    queue: _duration_pb2.Duration
    cache: _duration_pb2.Duration
    compute: _duration_pb2.Duration
    def __init__(self, total: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., tokenize: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., queue: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., cache: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., compute: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ModelRef(_message.Message):
    __slots__ = ("name", "version", "digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., digest: _Optional[str] = ...) -> None: ...

class ReplyInfo(_message.Message):
    __slots__ = ("model", "fingerprint", "usage", "timings", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: ModelRef
    fingerprint: str
    usage: Usage
    timings: Timings
    request_id: str
    def __init__(self, model: _Optional[_Union[ModelRef, _Mapping]] = ..., fingerprint: _Optional[str] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("data_type", "shape", "data")
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    data_type: DataType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, data_type: _Optional[_Union[DataType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class EmbedOptions(_message.Message):
    __slots__ = ("pooling", "normalize", "dimensions", "data_type", "return_segment_vectors", "spans")
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    DATA_TYPE_FIELD_NUMBER: _ClassVar[int]
    RETURN_SEGMENT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    SPANS_FIELD_NUMBER: _ClassVar[int]
    pooling: Pooling
    normalize: bool
    dimensions: int
    data_type: DataType
    return_segment_vectors: bool
    spans: _containers.RepeatedCompositeFieldContainer[Span]
    def __init__(self, pooling: _Optional[_Union[Pooling, str]] = ..., normalize: bool = ..., dimensions: _Optional[int] = ..., data_type: _Optional[_Union[DataType, str]] = ..., return_segment_vectors: bool = ..., spans: _Optional[_Iterable[_Union[Span, _Mapping]]] = ...) -> None: ...

class Embedding(_message.Message):
    __slots__ = ("document_vector", "segment_vectors", "span_vectors")
    DOCUMENT_VECTOR_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    SPAN_VECTORS_FIELD_NUMBER: _ClassVar[int]
    document_vector: Tensor
    segment_vectors: Tensor
    span_vectors: Tensor
    def __init__(self, document_vector: _Optional[_Union[Tensor, _Mapping]] = ..., segment_vectors: _Optional[_Union[Tensor, _Mapping]] = ..., span_vectors: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class ClassifyTokensOptions(_message.Message):
    __slots__ = ("aggregation", "labels", "min_score")
    AGGREGATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    aggregation: Aggregation
    labels: _containers.RepeatedScalarFieldContainer[str]
    min_score: float
    def __init__(self, aggregation: _Optional[_Union[Aggregation, str]] = ..., labels: _Optional[_Iterable[str]] = ..., min_score: _Optional[float] = ...) -> None: ...

class Entity(_message.Message):
    __slots__ = ("span", "label", "score", "segment_index")
    SPAN_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    span: Span
    label: str
    score: float
    segment_index: int
    def __init__(self, span: _Optional[_Union[Span, _Mapping]] = ..., label: _Optional[str] = ..., score: _Optional[float] = ..., segment_index: _Optional[int] = ...) -> None: ...

class Entities(_message.Message):
    __slots__ = ("entities",)
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    entities: _containers.RepeatedCompositeFieldContainer[Entity]
    def __init__(self, entities: _Optional[_Iterable[_Union[Entity, _Mapping]]] = ...) -> None: ...

class RedactOptions(_message.Message):
    __slots__ = ("entities", "mask")
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    entities: ClassifyTokensOptions
    mask: str
    def __init__(self, entities: _Optional[_Union[ClassifyTokensOptions, _Mapping]] = ..., mask: _Optional[str] = ...) -> None: ...

class RedactedEntity(_message.Message):
    __slots__ = ("entity", "redacted")
    ENTITY_FIELD_NUMBER: _ClassVar[int]
    REDACTED_FIELD_NUMBER: _ClassVar[int]
    entity: Entity
    redacted: Span
    def __init__(self, entity: _Optional[_Union[Entity, _Mapping]] = ..., redacted: _Optional[_Union[Span, _Mapping]] = ...) -> None: ...

class Redaction(_message.Message):
    __slots__ = ("text", "entities")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ENTITIES_FIELD_NUMBER: _ClassVar[int]
    text: str
    entities: _containers.RepeatedCompositeFieldContainer[RedactedEntity]
    def __init__(self, text: _Optional[str] = ..., entities: _Optional[_Iterable[_Union[RedactedEntity, _Mapping]]] = ...) -> None: ...

class ClassifyOptions(_message.Message):
    __slots__ = ("top_k", "min_score", "return_segments")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_SCORE_FIELD_NUMBER: _ClassVar[int]
    RETURN_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    min_score: float
    return_segments: bool
    def __init__(self, top_k: _Optional[int] = ..., min_score: _Optional[float] = ..., return_segments: bool = ...) -> None: ...

class SegmentScore(_message.Message):
    __slots__ = ("segment_index", "score")
    SEGMENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    segment_index: int
    score: float
    def __init__(self, segment_index: _Optional[int] = ..., score: _Optional[float] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "score", "segments")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    segments: _containers.RepeatedCompositeFieldContainer[SegmentScore]
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ..., segments: _Optional[_Iterable[_Union[SegmentScore, _Mapping]]] = ...) -> None: ...

class Classification(_message.Message):
    __slots__ = ("labels",)
    LABELS_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[LabelScore]
    def __init__(self, labels: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ...) -> None: ...

class EmbedSparseOptions(_message.Message):
    __slots__ = ("top_k", "return_tokens", "return_segment_vectors")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RETURN_SEGMENT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    return_tokens: bool
    return_segment_vectors: bool
    def __init__(self, top_k: _Optional[int] = ..., return_tokens: bool = ..., return_segment_vectors: bool = ...) -> None: ...

class SparseVector(_message.Message):
    __slots__ = ("indices", "weights", "tokens")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    indices: _containers.RepeatedScalarFieldContainer[int]
    weights: _containers.RepeatedScalarFieldContainer[float]
    tokens: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, indices: _Optional[_Iterable[int]] = ..., weights: _Optional[_Iterable[float]] = ..., tokens: _Optional[_Iterable[str]] = ...) -> None: ...

class SparseEmbedding(_message.Message):
    __slots__ = ("document_vector", "segment_vectors")
    DOCUMENT_VECTOR_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_VECTORS_FIELD_NUMBER: _ClassVar[int]
    document_vector: SparseVector
    segment_vectors: _containers.RepeatedCompositeFieldContainer[SparseVector]
    def __init__(self, document_vector: _Optional[_Union[SparseVector, _Mapping]] = ..., segment_vectors: _Optional[_Iterable[_Union[SparseVector, _Mapping]]] = ...) -> None: ...

class RankOptions(_message.Message):
    __slots__ = ("query", "method", "passages")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    query: str
    method: RankMethod
    passages: int
    def __init__(self, query: _Optional[str] = ..., method: _Optional[_Union[RankMethod, str]] = ..., passages: _Optional[int] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("span", "score", "segment_index", "trunk")
    SPAN_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_INDEX_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    span: Span
    score: float
    segment_index: int
    trunk: int
    def __init__(self, span: _Optional[_Union[Span, _Mapping]] = ..., score: _Optional[float] = ..., segment_index: _Optional[int] = ..., trunk: _Optional[int] = ...) -> None: ...

class Ranking(_message.Message):
    __slots__ = ("score", "passages")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    score: float
    passages: _containers.RepeatedCompositeFieldContainer[Passage]
    def __init__(self, score: _Optional[float] = ..., passages: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("name", "embed", "classify_tokens", "redact", "classify", "embed_sparse", "rank", "model")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REDACT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    EMBED_SPARSE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    embed: EmbedOptions
    classify_tokens: ClassifyTokensOptions
    redact: RedactOptions
    classify: ClassifyOptions
    embed_sparse: EmbedSparseOptions
    rank: RankOptions
    model: str
    def __init__(self, name: _Optional[str] = ..., embed: _Optional[_Union[EmbedOptions, _Mapping]] = ..., classify_tokens: _Optional[_Union[ClassifyTokensOptions, _Mapping]] = ..., redact: _Optional[_Union[RedactOptions, _Mapping]] = ..., classify: _Optional[_Union[ClassifyOptions, _Mapping]] = ..., embed_sparse: _Optional[_Union[EmbedSparseOptions, _Mapping]] = ..., rank: _Optional[_Union[RankOptions, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("name", "embed", "classify_tokens", "redact", "classify", "embed_sparse", "rank")
    NAME_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REDACT_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    EMBED_SPARSE_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    name: str
    embed: Embedding
    classify_tokens: Entities
    redact: Redaction
    classify: Classification
    embed_sparse: SparseEmbedding
    rank: Ranking
    def __init__(self, name: _Optional[str] = ..., embed: _Optional[_Union[Embedding, _Mapping]] = ..., classify_tokens: _Optional[_Union[Entities, _Mapping]] = ..., redact: _Optional[_Union[Redaction, _Mapping]] = ..., classify: _Optional[_Union[Classification, _Mapping]] = ..., embed_sparse: _Optional[_Union[SparseEmbedding, _Mapping]] = ..., rank: _Optional[_Union[Ranking, _Mapping]] = ...) -> None: ...

class Trunk(_message.Message):
    __slots__ = ("model", "fingerprint", "tasks", "usage", "segments", "kept")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    model: ModelRef
    fingerprint: str
    tasks: _containers.RepeatedScalarFieldContainer[str]
    usage: Usage
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    kept: KeptSegments
    def __init__(self, model: _Optional[_Union[ModelRef, _Mapping]] = ..., fingerprint: _Optional[str] = ..., tasks: _Optional[_Iterable[str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., kept: _Optional[_Union[KeptSegments, _Mapping]] = ...) -> None: ...

class SegmentRequest(_message.Message):
    __slots__ = ("document", "options", "embed")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    embed: EmbedOptions
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., embed: _Optional[_Union[EmbedOptions, _Mapping]] = ...) -> None: ...

class SegmentResponse(_message.Message):
    __slots__ = ("info", "segments", "uncached_tokens", "would_charge_tokens", "kept", "gone")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WOULD_CHARGE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    uncached_tokens: int
    would_charge_tokens: int
    kept: KeptSegments
    gone: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., uncached_tokens: _Optional[int] = ..., would_charge_tokens: _Optional[int] = ..., kept: _Optional[_Union[KeptSegments, _Mapping]] = ..., gone: _Optional[_Iterable[int]] = ...) -> None: ...

class EmbedRequest(_message.Message):
    __slots__ = ("documents", "options", "embed")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EMBED_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    options: CallOptions
    embed: EmbedOptions
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., embed: _Optional[_Union[EmbedOptions, _Mapping]] = ...) -> None: ...

class EmbedResponse(_message.Message):
    __slots__ = ("info", "results", "gone")
    INFO_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    results: _containers.RepeatedCompositeFieldContainer[EmbedResult]
    gone: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., results: _Optional[_Iterable[_Union[EmbedResult, _Mapping]]] = ..., gone: _Optional[_Iterable[int]] = ...) -> None: ...

class EmbedResult(_message.Message):
    __slots__ = ("id", "status", "segments", "embedding", "usage", "kept")
    ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    id: str
    status: _status_pb2.Status
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    embedding: Embedding
    usage: Usage
    kept: KeptSegments
    def __init__(self, id: _Optional[str] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., embedding: _Optional[_Union[Embedding, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., kept: _Optional[_Union[KeptSegments, _Mapping]] = ...) -> None: ...

class AnalyzeRequest(_message.Message):
    __slots__ = ("document", "options", "tasks")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ...) -> None: ...

class AnalyzeResponse(_message.Message):
    __slots__ = ("info", "segments", "results", "trunks", "kept", "gone")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    TRUNKS_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    trunks: _containers.RepeatedCompositeFieldContainer[Trunk]
    kept: KeptSegments
    gone: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., trunks: _Optional[_Iterable[_Union[Trunk, _Mapping]]] = ..., kept: _Optional[_Union[KeptSegments, _Mapping]] = ..., gone: _Optional[_Iterable[int]] = ...) -> None: ...

class ClassifyTokensRequest(_message.Message):
    __slots__ = ("document", "options", "classify_tokens")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_TOKENS_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    classify_tokens: ClassifyTokensOptions
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., classify_tokens: _Optional[_Union[ClassifyTokensOptions, _Mapping]] = ...) -> None: ...

class ClassifyTokensResponse(_message.Message):
    __slots__ = ("info", "segments", "result")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    result: Entities
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., result: _Optional[_Union[Entities, _Mapping]] = ...) -> None: ...

class RedactRequest(_message.Message):
    __slots__ = ("document", "options", "redact")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    REDACT_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    redact: RedactOptions
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., redact: _Optional[_Union[RedactOptions, _Mapping]] = ...) -> None: ...

class RedactResponse(_message.Message):
    __slots__ = ("info", "segments", "result")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    result: Redaction
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., result: _Optional[_Union[Redaction, _Mapping]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("document", "options", "classify")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    classify: ClassifyOptions
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., classify: _Optional[_Union[ClassifyOptions, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("info", "segments", "result")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    result: Classification
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., result: _Optional[_Union[Classification, _Mapping]] = ...) -> None: ...

class EmbedSparseRequest(_message.Message):
    __slots__ = ("document", "options", "embed_sparse")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    EMBED_SPARSE_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    embed_sparse: EmbedSparseOptions
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., embed_sparse: _Optional[_Union[EmbedSparseOptions, _Mapping]] = ...) -> None: ...

class EmbedSparseResponse(_message.Message):
    __slots__ = ("info", "segments", "result")
    INFO_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    segments: _containers.RepeatedCompositeFieldContainer[SegmentInfo]
    result: SparseEmbedding
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., segments: _Optional[_Iterable[_Union[SegmentInfo, _Mapping]]] = ..., result: _Optional[_Union[SparseEmbedding, _Mapping]] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("documents", "options", "rank", "top_k")
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedCompositeFieldContainer[Document]
    options: CallOptions
    rank: RankOptions
    top_k: int
    def __init__(self, documents: _Optional[_Iterable[_Union[Document, _Mapping]]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., rank: _Optional[_Union[RankOptions, _Mapping]] = ..., top_k: _Optional[int] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("info", "documents", "trunks")
    INFO_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TRUNKS_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    documents: _containers.RepeatedCompositeFieldContainer[RankedDocument]
    trunks: _containers.RepeatedCompositeFieldContainer[Trunk]
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., documents: _Optional[_Iterable[_Union[RankedDocument, _Mapping]]] = ..., trunks: _Optional[_Iterable[_Union[Trunk, _Mapping]]] = ...) -> None: ...

class RankedDocument(_message.Message):
    __slots__ = ("id", "index", "status", "ranking")
    ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    RANKING_FIELD_NUMBER: _ClassVar[int]
    id: str
    index: int
    status: _status_pb2.Status
    ranking: Ranking
    def __init__(self, id: _Optional[str] = ..., index: _Optional[int] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., ranking: _Optional[_Union[Ranking, _Mapping]] = ...) -> None: ...

class StreamSegmentsRequest(_message.Message):
    __slots__ = ("document", "options", "tasks", "cursor")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    document: Document
    options: CallOptions
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    cursor: str
    def __init__(self, document: _Optional[_Union[Document, _Mapping]] = ..., options: _Optional[_Union[CallOptions, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., cursor: _Optional[str] = ...) -> None: ...

class StreamSegmentsResponse(_message.Message):
    __slots__ = ("header", "segment", "summary")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    header: StreamHeader
    segment: SegmentResult
    summary: StreamSummary
    def __init__(self, header: _Optional[_Union[StreamHeader, _Mapping]] = ..., segment: _Optional[_Union[SegmentResult, _Mapping]] = ..., summary: _Optional[_Union[StreamSummary, _Mapping]] = ...) -> None: ...

class StreamHeader(_message.Message):
    __slots__ = ("model", "fingerprint", "request_id", "trunks")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TRUNKS_FIELD_NUMBER: _ClassVar[int]
    model: ModelRef
    fingerprint: str
    request_id: str
    trunks: _containers.RepeatedCompositeFieldContainer[Trunk]
    def __init__(self, model: _Optional[_Union[ModelRef, _Mapping]] = ..., fingerprint: _Optional[str] = ..., request_id: _Optional[str] = ..., trunks: _Optional[_Iterable[_Union[Trunk, _Mapping]]] = ...) -> None: ...

class SegmentResult(_message.Message):
    __slots__ = ("segment", "results", "cursor", "trunk", "kept")
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    segment: SegmentInfo
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    cursor: str
    trunk: int
    kept: KeptSegments
    def __init__(self, segment: _Optional[_Union[SegmentInfo, _Mapping]] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., cursor: _Optional[str] = ..., trunk: _Optional[int] = ..., kept: _Optional[_Union[KeptSegments, _Mapping]] = ...) -> None: ...

class StreamSummary(_message.Message):
    __slots__ = ("info", "results", "partial", "trunks", "gone")
    INFO_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    TRUNKS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    results: _containers.RepeatedCompositeFieldContainer[TaskResult]
    partial: bool
    trunks: _containers.RepeatedCompositeFieldContainer[Trunk]
    gone: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., results: _Optional[_Iterable[_Union[TaskResult, _Mapping]]] = ..., partial: bool = ..., trunks: _Optional[_Iterable[_Union[Trunk, _Mapping]]] = ..., gone: _Optional[_Iterable[int]] = ...) -> None: ...

class ProcessDocumentsRequest(_message.Message):
    __slots__ = ("start", "document")
    START_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    start: ProcessStart
    document: DocumentPart
    def __init__(self, start: _Optional[_Union[ProcessStart, _Mapping]] = ..., document: _Optional[_Union[DocumentPart, _Mapping]] = ...) -> None: ...

class ProcessStart(_message.Message):
    __slots__ = ("options", "tasks", "return_segments")
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    RETURN_SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    options: CallOptions
    tasks: _containers.RepeatedCompositeFieldContainer[Task]
    return_segments: bool
    def __init__(self, options: _Optional[_Union[CallOptions, _Mapping]] = ..., tasks: _Optional[_Iterable[_Union[Task, _Mapping]]] = ..., return_segments: bool = ...) -> None: ...

class DocumentPart(_message.Message):
    __slots__ = ("id", "text", "more", "known_segment_digests")
    ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_SEGMENT_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    id: str
    text: str
    more: bool
    known_segment_digests: bytes
    def __init__(self, id: _Optional[str] = ..., text: _Optional[str] = ..., more: bool = ..., known_segment_digests: _Optional[bytes] = ...) -> None: ...

class ProcessDocumentsResponse(_message.Message):
    __slots__ = ("ready", "result", "draining")
    READY_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    ready: ProcessReady
    result: DocumentResult
    draining: _status_pb2.Status
    def __init__(self, ready: _Optional[_Union[ProcessReady, _Mapping]] = ..., result: _Optional[_Union[DocumentResult, _Mapping]] = ..., draining: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class ProcessReady(_message.Message):
    __slots__ = ("info", "max_document_bytes")
    INFO_FIELD_NUMBER: _ClassVar[int]
    MAX_DOCUMENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    info: ReplyInfo
    max_document_bytes: int
    def __init__(self, info: _Optional[_Union[ReplyInfo, _Mapping]] = ..., max_document_bytes: _Optional[int] = ...) -> None: ...

class DocumentResult(_message.Message):
    __slots__ = ("id", "ok", "error", "more")
    ID_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    MORE_FIELD_NUMBER: _ClassVar[int]
    id: str
    ok: AnalyzeResponse
    error: _status_pb2.Status
    more: bool
    def __init__(self, id: _Optional[str] = ..., ok: _Optional[_Union[AnalyzeResponse, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ..., more: bool = ...) -> None: ...
