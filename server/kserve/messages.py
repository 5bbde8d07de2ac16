"""The protocol's messages, from `proto/kserve/inference.proto`.

They live in a descriptor pool of their own: a process has one package `inference` in the default pool, and the stubs of
tritonclient put theirs there.
"""

from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

DESCRIPTORS = Path(__file__).with_name("inference.binpb")  # `make proto` renews it


def _load() -> DescriptorPool:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(DESCRIPTORS.read_bytes()).file:
        pool.Add(file)
    return pool


POOL = _load()
SERVICE = POOL.FindServiceByName("inference.GRPCInferenceService")


def _message(name: str) -> Any:
    return GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


ServerLiveResponse = _message("ServerLiveResponse")
ServerReadyResponse = _message("ServerReadyResponse")
ModelReadyResponse = _message("ModelReadyResponse")
ServerMetadataResponse = _message("ServerMetadataResponse")
ModelMetadataResponse = _message("ModelMetadataResponse")
ModelInferRequest = _message("ModelInferRequest")
ModelInferResponse = _message("ModelInferResponse")
ModelStreamInferResponse = _message("ModelStreamInferResponse")
ModelConfigResponse = _message("ModelConfigResponse")
ModelStatisticsResponse = _message("ModelStatisticsResponse")
RepositoryIndexResponse = _message("RepositoryIndexResponse")


def handlers(servicer: object) -> grpc.GenericRpcHandler:
    """What calls the servicer's methods, which are named as the protocol's."""
    made = {}
    for method in SERVICE.methods:
        make: Any = (
            grpc.stream_stream_rpc_method_handler if method.client_streaming else grpc.unary_unary_rpc_method_handler
        )
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        made[method.name] = make(getattr(servicer, method.name), request.FromString, response.SerializeToString)
    return grpc.method_handlers_generic_handler(SERVICE.full_name, made)
