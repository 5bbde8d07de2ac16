"""The same vectors through every dialect, and every token read or told."""

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.doors.web import Answer, Web, web
from benchmarks.figures import Figure, Figures
from benchmarks.statistics import proportion
from benchmarks.workloads import with_tokens
from chunking import load_tokenizer
from octavo.client import Client
from server.config.schema import ModelSettings

MODEL = "all-MiniLM-L6-v2"
LENGTHS = (1, 2, 16, 100, 510, 511, 600, 1500, 5000, 20_000, 60_000)  # tokens
LONG = 600  # from which others cut
MOST_STATES = 2000  # tokens whose states fit a reply
QUERY = "light house"

Read = Callable[[Answer], Any]


def measure() -> Figures:
    """Embed texts of each length through each dialect."""
    texts = with_tokens(LENGTHS, load_tokenizer(ModelSettings(path=MODEL).folder))
    same: list[bool] = []
    lost: list[int] = []
    with web(f'models = ["{MODEL}"]') as (served, connection), Client(served.address) as client:
        asked = client.embed(QUERY).usage.tokens
        for length, text in texts.items():
            vector = client.embed(text).vector
            assert vector is not None
            for answer, found in _vectors(connection, text):
                same.append(found == vector.astype("<f4").tobytes())
                lost.append(_lost(length, answer))
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                body = {"query": QUERY, "texts": [text], "documents": [text]}
                lost.append(_lost(length + asked, _post(connection, path, body)))
            if length <= MOST_STATES:
                states = _post(connection, "/embed_all", {"inputs": text}).json[0]
                lost.append(length + 2 - len(states))
        told = [_told(connection, text) for length, text in texts.items() if length >= LONG]
    return {
        "same_vectors": proportion(same),
        "truncated_silently": Figure(sum(lost) + told.count(False), "tokens", n=len(lost) + len(told)),
    }


DIALECTS: Mapping[str, tuple[dict[str, Any], str, Callable[[Any], bytes]]] = {
    "/v1/embeddings": ({"model": MODEL}, "input", lambda made: _floats(made["data"][0]["embedding"])),
    "/v1/embeddings?": (
        {"model": MODEL, "encoding_format": "base64"},
        "input",
        lambda made: base64.b64decode(made["data"][0]["embedding"]),
    ),
    "/embed": ({}, "inputs", lambda made: _floats(made[0])),
    "/": ({}, "inputs", lambda made: _floats(made[0])),
    "/v2/embed": (
        {"embedding_types": ["base64"], "input_type": "clustering"},
        "texts",
        lambda made: base64.b64decode(made["embeddings"]["base64"][0]),
    ),
    "/octavo/v1/Embed": (
        {},
        "documents",
        lambda made: base64.b64decode(made["results"][0]["embedding"]["documentVector"]["data"]),
    ),
}
"""A request's other fields, where its texts go, and how its vector is read."""


def _vectors(connection: Web, text: str) -> list[tuple[Answer, bytes]]:
    found = []
    for path, (fields, name, read) in DIALECTS.items():
        inputs = [{"text": text}] if name == "documents" else [text]
        answer = _post(connection, path, fields | {name: inputs})
        found.append((answer, read(answer.json)))
    return found


def _post(connection: Web, path: str, body: dict[str, Any]) -> Answer:
    return connection.post(path, json.dumps(body).encode())


def _lost(length: int, answer: Answer) -> int:
    """Tokens that were not read, by what the answer says of itself."""
    if "x-octavo-tokens" in answer.headers:
        return length - int(answer.headers["x-octavo-tokens"])
    return length - int(answer.json["info"]["usage"]["tokens"])


def _told(connection: Web, text: str) -> bool:
    """Whether an answer tells what was cut off because its caller asked for that."""
    answer = _post(connection, "/embed", {"inputs": text, "truncate": True})
    return int(answer.headers.get("x-octavo-truncated-characters", 0)) > 0


def _floats(vector: list[float]) -> bytes:
    return np.array(vector, "<f4").tobytes()
