"""Reranking as Jina and vLLM (`/v1/rerank`) and Cohere (`/v2/rerank`) have it."""

from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.http import ranking
from server.http.endpoint import Reply, Request
from server.http.octavo import Octavo, reading_headers
from server.http.openai import renamed
from server.http.reading import Body, parse
from server.inference.truncation import truncated
from server.status import Row, message_of

FIELDS = (("texts[", "documents["), ("rank.", ""), ("embed.dimensions", "output_dimension"), ("options.", ""))


class Text(Body):
    """A document of an object's form."""

    text: str


class RerankBody(Body):
    """A request; `return_documents` is Jina's, `max_tokens_per_doc` Cohere's."""

    query: str
    documents: list[str | Text]
    model: str = ""
    top_n: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None


async def jina(octavo: Octavo, request: Request) -> Reply:
    """Rank documents; their texts are returned unless the caller declines."""
    body, texts, response = await _rank(octavo, request)
    model = ranking.ranker(octavo, request, body.model)
    results: list[dict[str, Any]] = []
    for document in ranking.ranked(response):
        score = ranking.score_of(document.ranking.score, model, raw=False)
        result: dict[str, Any] = {"index": document.index, "relevance_score": score}
        if body.return_documents is not False:
            result["document"] = {"text": texts[document.index]}
        results.append(result)
    tokens = response.info.usage.tokens
    made = {
        "id": request.context.request_id,
        "object": "list",
        "model": response.info.model.name,
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
        "results": results,
    }
    return Reply(to_json(made), _headers(response))


async def cohere(octavo: Octavo, request: Request) -> Reply:
    """Rank documents."""
    body, _, response = await _rank(octavo, request)
    model = ranking.ranker(octavo, request, body.model)
    results = [
        {"index": each.index, "relevance_score": ranking.score_of(each.ranking.score, model, raw=False)}
        for each in ranking.ranked(response)
    ]
    meta = {
        "api_version": {"version": "2"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": response.info.usage.tokens},
    }
    made = {"id": request.context.request_id, "results": results, "meta": meta}
    return Reply(to_json(made), _headers(response))


def tell(error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
    """An error as Cohere's clients read it."""
    message = message_of(error, request_id)
    field = renamed(getattr(error, "field", ""), FIELDS)
    return row.http, to_json({"id": request_id, "message": f"{field}: {message}" if field else message})


async def _rank(octavo: Octavo, request: Request) -> tuple[RerankBody, list[str], pb.RankResponse]:
    body = await parse(request.body, RerankBody)
    if not body.documents:
        raise InvalidCall("documents", "the array is empty")
    texts = [document if isinstance(document, str) else document.text for document in body.documents]
    if most := body.max_tokens_per_doc:
        model = ranking.ranker(octavo, request, body.model)
        tokenizer = (model.trunk or model).tokenizer
        whole = texts
        cut = lambda: [truncated(text, tokenizer, most, "first") for text in whole]  # noqa: E731
        texts = await octavo.aside(request.context, cut)
    options = pb.CallOptions(model=body.model)
    rank = pb.RankOptions(query=body.query, passages=0)
    return body, texts, await octavo.rank(texts, options, rank, request.context, body.top_n or 0)


def _headers(response: pb.RankResponse) -> list[tuple[bytes, bytes]]:
    return reading_headers(None, response.info.usage, response.info.fingerprint)
