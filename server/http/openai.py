"""OpenAI's embeddings: `/v1/embeddings` and `/v1/models`."""

import asyncio
import base64
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import WithJsonSchema
from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.http import inputs
from server.http.endpoint import Reply, Request
from server.http.errors import is_permanent
from server.http.octavo import INPUT_TYPES, Octavo, reading_headers
from server.http.reading import Body, Dimensions, parse
from server.http.token_ids import Decode
from server.limits import Context
from server.status import Reason, Row, message_of

CODES = {
    Reason.UNAUTHENTICATED: "invalid_api_key",
    Reason.UNKNOWN_MODEL: "model_not_found",
    Reason.RATE_LIMITED: "rate_limit_exceeded",
}
FIELDS = (("documents[", "input["), ("documents", "input"), ("embed.", ""), ("options.", ""))
MANY_VALUES = 50_000
_IDS = {"type": "array", "items": {"type": "integer"}, "minItems": 1}
_TEXTS = [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
INPUTS = {"anyOf": [*_TEXTS, _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}


class EmbeddingsBody(Body):
    """A request for embeddings; `input_type` is NVIDIA's addition to OpenAI's."""

    input: Annotated[Any, WithJsonSchema(INPUTS)]
    model: str = ""
    dimensions: Dimensions | None = None
    encoding_format: Literal["float", "base64"] | None = None
    input_type: Literal["query", "passage"] | None = None


async def embeddings(octavo: Octavo, request: Request) -> Reply:
    """Embed one or more texts."""
    body = await parse(request.body, EmbeddingsBody)
    texts = await _texts(octavo, request.context, body.input)
    options = pb.CallOptions(model=body.model, input_type=INPUT_TYPES[body.input_type])
    embed = pb.EmbedOptions(dimensions=body.dimensions)
    response = await octavo.embed(texts, options, embed, request.context)
    info, results = response.info, response.results
    segments = sum(len(result.segments) for result in results)
    vectors = [result.embedding.document_vector for result in results]
    values = 0 if body.encoding_format == "base64" else sum(vector.shape[0] for vector in vectors)

    def write() -> bytes:
        encode = _base64 if body.encoding_format == "base64" else _floats
        tokens = info.usage.tokens
        return to_json(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": encode(vector.data)}
                    for i, vector in enumerate(vectors)
                ],
                "model": info.model.name,
                "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            }
        )

    made = await asyncio.to_thread(write) if values > MANY_VALUES else write()
    return Reply(made, reading_headers(segments, info.usage, info.fingerprint))


async def models(octavo: Octavo, request: Request) -> Reply:
    """List the models that the client may use."""
    plan = request.context.client.plan
    data = [_model(model.name) for model in octavo.catalogue if plan.allows(model.name)]
    return Reply(to_json({"object": "list", "data": data}))


async def model(octavo: Octavo, request: Request) -> Reply:
    """Describe one model."""
    found = octavo.catalogue.resolve(request.path["model"], request.context.client)
    return Reply(to_json(_model(found.name)))


def tell(error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
    """An error as OpenAI's clients read it; `code` is the reason in lower case where OpenAI has no name for it."""
    code = "insufficient_quota" if is_permanent(error) else CODES.get(row.reason, row.reason.lower())
    field = renamed(getattr(error, "field", ""), FIELDS)
    fault = {"message": message_of(error, request_id), "type": row.openai, "param": field or None, "code": code}
    return row.http, to_json({"error": fault})


def decoded(decode: Decode | None, ids: list[int], field: str) -> str:
    """The text of token ids of OpenAI's vocabulary.

    Raises:
        InvalidCall: no vocabulary is configured, or it lacks an id; they are never read as the model's own.
    """
    if decode is None:
        raise InvalidCall(
            field,
            "token ids are of an unknown vocabulary: send text (LangChain's OpenAIEmbeddings does with "
            "check_embedding_ctx_length=False), or name the vocabulary in server.http_token_ids",
        )
    try:
        return decode(ids)
    except ValueError as error:
        raise InvalidCall(field, str(error)) from None


def renamed(field: str, names: tuple[tuple[str, str], ...]) -> str:
    """A field of octavo.v1's message by its name in a dialect."""
    for ours, theirs in names:
        if field.startswith(ours):
            return theirs + field.removeprefix(ours).removesuffix(".text")
    return field


async def _texts(octavo: Octavo, context: Context, value: Any) -> list[str]:
    def read() -> list[str]:
        return inputs.texts_of(value, "input", partial(decoded, octavo.decode))

    return await octavo.aside(context, read) if octavo.decode else read()  # 300,000 ids take 30 ms


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> list[float]:
    floats: list[float] = np.frombuffer(vector, "<f4").tolist()
    return floats


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "octavo"}
