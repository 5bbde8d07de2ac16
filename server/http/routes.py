"""All paths."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from server.http import cohere, openai, openapi, rerank, rpc_json, states, tei
from server.http.endpoint import Dialect, Endpoint, Entrance
from server.http.octavo import Octavo
from server.http.rpc_json import Method
from server.limits import Gate

TEI = {
    "/": tei.root,
    "/embed": tei.embed,
    "/embed_all": states.embed_all,
    "/embed_sparse": tei.embed_sparse,
    "/predict": tei.predict,
    "/rerank": tei.rerank,
    "/similarity": tei.similarity,
    "/tokenize": tei.tokenize,
    "/decode": tei.decode,
}
DOCS = Path(__file__).with_name("docs.html")
CORS_SECONDS = 600  # for which a browser may remember


def application(
    entrance: Entrance, octavo: Octavo, methods: Sequence[Method], cors_origins: tuple[str, ...]
) -> ASGIApp:
    """The ASGI application of all dialects."""

    def route(method: str, path: str, answer: Any, dialect: Dialect) -> Route:
        endpoint = Endpoint(f"{method} {path}", entrance, dialect, partial(answer, octavo))
        return Route(path, endpoint, methods=[method])

    routes = [
        route("POST", "/v1/embeddings", openai.embeddings, openai.tell),
        route("GET", "/v1/models", openai.models, openai.tell),
        route("GET", "/v1/models/{model}", openai.model, openai.tell),
        route("POST", "/v1/rerank", rerank.jina, openai.tell),
        route("POST", "/v2/embed", cohere.embed, rerank.tell),
        route("POST", "/v2/rerank", rerank.cohere, rerank.tell),
        *(route("POST", path, answer, tei.tell) for path, answer in TEI.items()),
        route("GET", "/info", tei.info, tei.tell),
        *(Route(each.path, _of(each, entrance), methods=["POST"]) for each in methods),
        Route("/openapi.json", _Page("application/json", partial(openapi.document, methods)), methods=["GET"]),
        Route("/docs", _Page("text/html; charset=utf-8", DOCS.read_bytes), methods=["GET"]),
        Route("/health", _Health(entrance.gate), methods=["GET"]),
        Route("/ping", _Health(entrance.gate), methods=["GET"]),
    ]
    router = Router(routes, redirect_slashes=False, default=_nothing)
    if not cors_origins:
        return router
    return CORSMiddleware(
        router,
        allow_origins=cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["*"],
        max_age=CORS_SECONDS,
    )


def _of(method: Method, entrance: Entrance) -> Endpoint:
    streams = method.descriptor.client_streaming
    return Endpoint(f"POST {method.path}", entrance, rpc_json.tell, method.answer, streams_requests=streams)


class _Page:
    """What anybody may read; made when it is first asked for."""

    def __init__(self, media_type: str, make: Callable[[], bytes]) -> None:
        self._media_type = media_type
        self._make = cache(make)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        await Response(self._make(), media_type=self._media_type)(scope, receive, send)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Tell that a path is not served."""
    message = "nothing is served at this path; see /docs"
    fault = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}
    headers = {"x-should-retry": "false"}
    await Response(to_json({"error": fault}), 404, headers, "application/json")(scope, receive, send)


class _Health:
    """Whether calls are welcome, for anybody."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a probe."""
        body = {"error": "the server is stopping", "error_type": "Unhealthy"} if self._gate.is_draining else None
        response = Response(to_json(body), 503, media_type="application/json") if body else Response()
        await response(scope, receive, send)
