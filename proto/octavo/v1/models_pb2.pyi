from octavo.v1 import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models", "next_page_token")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    next_page_token: str
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("ref", "fingerprint", "is_default", "tasks", "labels", "dimensions", "max_segment_tokens", "token_budget", "query_prefix", "passage_prefix", "pooling", "normalize", "segmentation", "window", "layers", "number_scheme", "kernels", "kernels_reason", "licence", "multi_label", "trained_on", "trunk", "cross_encoder")
    REF_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    IS_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DIMENSIONS_FIELD_NUMBER: _ClassVar[int]
    MAX_SEGMENT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOKEN_BUDGET_FIELD_NUMBER: _ClassVar[int]
    QUERY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_PREFIX_FIELD_NUMBER: _ClassVar[int]
    POOLING_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTATION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NUMBER_SCHEME_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    KERNELS_REASON_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    MULTI_LABEL_FIELD_NUMBER: _ClassVar[int]
    TRAINED_ON_FIELD_NUMBER: _ClassVar[int]
    TRUNK_FIELD_NUMBER: _ClassVar[int]
    CROSS_ENCODER_FIELD_NUMBER: _ClassVar[int]
    ref: _inference_pb2.ModelRef
    fingerprint: str
    is_default: bool
    tasks: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedScalarFieldContainer[str]
    dimensions: int
    max_segment_tokens: int
    token_budget: int
    query_prefix: str
    passage_prefix: str
    pooling: _inference_pb2.Pooling
    normalize: bool
    segmentation: _inference_pb2.Segmentation
    window: int
    layers: int
    number_scheme: str
    kernels: str
    kernels_reason: str
    licence: str
    multi_label: bool
    trained_on: str
    trunk: str
    cross_encoder: bool
    def __init__(self, ref: _Optional[_Union[_inference_pb2.ModelRef, _Mapping]] = ..., fingerprint: _Optional[str] = ..., is_default: bool = ..., tasks: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[str]] = ..., dimensions: _Optional[int] = ..., max_segment_tokens: _Optional[int] = ..., token_budget: _Optional[int] = ..., query_prefix: _Optional[str] = ..., passage_prefix: _Optional[str] = ..., pooling: _Optional[_Union[_inference_pb2.Pooling, str]] = ..., normalize: bool = ..., segmentation: _Optional[_Union[_inference_pb2.Segmentation, _Mapping]] = ..., window: _Optional[int] = ..., layers: _Optional[int] = ..., number_scheme: _Optional[str] = ..., kernels: _Optional[str] = ..., kernels_reason: _Optional[str] = ..., licence: _Optional[str] = ..., multi_label: bool = ..., trained_on: _Optional[str] = ..., trunk: _Optional[str] = ..., cross_encoder: bool = ...) -> None: ...
