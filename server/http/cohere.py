"""Cohere's embeddings: `/v2/embed`. Its own servers cut texts by default; here only a request that says so does."""

import asyncio
import base64
from typing import Any, Literal

import numpy as np
from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.http import inputs, tei
from server.http.endpoint import Reply, Request
from server.http.octavo import INPUT_TYPES, Octavo
from server.http.reading import Body, Dimensions, parse

INPUTS = {"search_query": "query", "search_document": "passage", "classification": None, "clustering": None}


class EmbedBody(Body):
    """A request of `/v2/embed`."""

    texts: list[str]
    model: str = ""
    input_type: Literal["search_query", "search_document", "classification", "clustering"] | None = None
    embedding_types: list[Literal["float", "base64"]] | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    output_dimension: Dimensions | None = None


async def embed(octavo: Octavo, request: Request) -> Reply:
    """Embed texts."""
    body = await parse(request.body, EmbedBody)
    if not body.texts:
        raise InvalidCall("texts", "the array is empty")
    options = pb.CallOptions(model=body.model, input_type=INPUT_TYPES[INPUTS.get(body.input_type or "")])
    cut = inputs.Truncating(
        truncate=body.truncate in {"START", "END"},
        truncation_direction="Left" if body.truncate == "START" else "Right",
    )
    model = octavo.catalogue.resolve(body.model, request.context.client)
    given = await inputs.read(octavo, request.context, body.texts, cut, model, options)
    wanted = pb.EmbedOptions(dimensions=body.output_dimension)
    response = await octavo.embed(given.texts, options, wanted, request.context)
    vectors = [result.embedding.document_vector.data for result in response.results]
    made = {
        "id": request.context.request_id,
        "response_type": "embeddings_by_type",
        "embeddings": dict.fromkeys(body.embedding_types or ["float"]),
        "texts": body.texts,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": response.info.usage.tokens},
        },
    }

    def write() -> bytes:
        return to_json(
            made | {"embeddings": {kind: WRITE[kind](vectors) for kind in body.embedding_types or ["float"]}}
        )

    segments = sum(len(result.segments) for result in response.results)
    return Reply(await asyncio.to_thread(write), tei.headers_of(segments, [response.info], given))


WRITE: dict[str, Any] = {
    "float": lambda vectors: [np.frombuffer(vector, "<f4").tolist() for vector in vectors],
    "base64": lambda vectors: [base64.b64encode(vector).decode() for vector in vectors],
}
