"""What tests say to a server over KServe v2, with messages of the server's private pool."""

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message_factory import GetMessageClass

from server.kserve import messages
from tests.server.helpers import SOON, Server

PREFIX = "/inference.GRPCInferenceService/"
DTYPES = {"FP32": "<f4", "FP16": "<f2", "INT8": "i1", "UINT8": "u1", "INT32": "<i4", "INT64": "<i8"}
PARAMETERS = {str: "string_param", bool: "bool_param", int: "int64_param", float: "double_param"}


def packed(*texts: str | bytes) -> bytes:
    """Raw BYTES."""
    elements = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def unpacked(data: bytes) -> list[str]:
    texts, position = [], 0
    while position < len(data):
        (size,) = struct.unpack_from("<I", data, position)
        texts.append(data[position + 4 : position + 4 + size].decode())
        position += 4 + size
    return texts


def request_of(
    texts: Sequence[str],
    *,
    model: str = "",
    outputs: Sequence[str] = (),
    query: str | None = None,
    typed: bool = False,
    flat: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """A ModelInferRequest, as tritonclient makes it unless `typed` or `flat`."""
    request = messages.ModelInferRequest(model_name=model, **fields)
    inputs = {"text": texts} if query is None else {"text": texts, "query": [query]}
    for name, elements in inputs.items():
        shape = [len(elements)] if flat or name == "query" else [len(elements), 1]
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=shape)
        if typed:
            tensor.contents.bytes_contents.extend(element.encode() for element in elements)
        else:
            request.raw_input_contents.append(packed(*elements))
    for name in outputs:
        request.outputs.add(name=name)
    for name, value in (parameters or {}).items():
        setattr(request.parameters[name], PARAMETERS[type(value)], value)
    return request


def call(
    server: Server,
    method: str,
    request: Any = None,
    *,
    timeout: float | None = SOON,
    channel: Any = None,
    **fields: Any,
) -> Any:
    """Call a method; `fields` are those of its request, if it is not given."""
    described = messages.SERVICE.methods_by_name[method]
    if request is None:
        request = GetMessageClass(described.input_type)(**fields)
    on: grpc.Channel = channel or server.channel()
    made: Any = on.unary_unary(PREFIX + method, bytes_of, GetMessageClass(described.output_type).FromString)
    return made(request, timeout=timeout)


def infer(server: Server, *texts: str, timeout: float | None = SOON, **request: Any) -> dict[str, Any]:
    """Infer; its outputs by name."""
    return tensors(call(server, "ModelInfer", request_of(texts, **request), timeout=timeout))


def stream(server: Server, requests: Any, timeout: float | None = SOON) -> Any:
    """Call ModelStreamInfer."""
    made: Any = server.channel().stream_stream(
        f"{PREFIX}ModelStreamInfer", bytes_of, messages.ModelStreamInferResponse.FromString
    )
    return made(requests, timeout=timeout)


def tensors(response: Any) -> dict[str, Any]:
    """A response's outputs by name, as `as_numpy` of tritonclient reads them."""
    assert len(response.outputs) == len(response.raw_output_contents)
    found: dict[str, Any] = {}
    for output, data in zip(response.outputs, response.raw_output_contents, strict=True):
        values = unpacked(data) if output.datatype == "BYTES" else np.frombuffer(data, DTYPES[output.datatype])
        found[output.name] = np.array(values).reshape(list(output.shape))
    return found


def bytes_of(request: Any) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
