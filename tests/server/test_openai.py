"""OpenAI's dialect, over real sockets."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiktoken

from server.errors import StartError
from server.http.token_ids import decoder
from tests.server.helpers import MINILM, TINY, embed, model, prose, settings, vector
from tests.server.web import Web, web


@pytest.fixture(scope="module")
def http(models: Path) -> Iterator[Web]:
    with web(settings(model(TINY), model(MINILM), http_listen="127.0.0.1:0")) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_internal(http: Web) -> Iterator[None]:
    yield
    assert http.server.sample("requests_total", code="INTERNAL") == 0


def test_floats_and_base64_are_octavos_vectors_bit_for_bit(http: Web) -> None:
    text = prose(700)
    expected = vector(embed(http.server, text)).astype("<f4")
    floats = http.post("/v1/embeddings", {"model": TINY, "input": text})
    encoded = http.post("/v1/embeddings", {"model": TINY, "input": [text], "encoding_format": "base64"})
    assert floats.status == encoded.status == 200
    (one,), (other,) = floats.json["data"], encoded.json["data"]
    assert np.array(one["embedding"], "<f4").tobytes() == expected.tobytes()
    assert base64.b64decode(other["embedding"]) == expected.tobytes()


def test_the_reply_is_openais(http: Web) -> None:
    answer = http.post("/v1/embeddings", {"model": TINY, "input": ["one word", "two"], "encoding_format": None})
    assert answer.headers["content-type"] == "application/json"
    body = answer.json
    assert {name: body[name] for name in ("object", "model")} == {"object": "list", "model": TINY}
    assert [(each["object"], each["index"]) for each in body["data"]] == [("embedding", 0), ("embedding", 1)]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert len(answer.headers["x-request-id"]) == 32


def test_a_long_text_is_read_whole_and_the_headers_say_so(http: Web) -> None:
    answer = http.post("/v1/embeddings", {"model": TINY, "input": prose(5000)})
    assert int(answer.headers["x-octavo-tokens"]) == answer.json["usage"]["prompt_tokens"] == 5000
    assert int(answer.headers["x-octavo-segments"]) > 9


def test_dimensions(http: Web) -> None:
    answer = http.post("/v1/embeddings", {"model": MINILM, "input": "text", "dimensions": 7})
    (each,) = answer.json["data"]
    assert len(each["embedding"]) == 7
    assert np.linalg.norm(each["embedding"]) == pytest.approx(1, abs=1e-6)


def test_more_texts_than_octavo_takes_in_one_call(http: Web) -> None:
    answer = http.post("/v1/embeddings", {"model": TINY, "input": [f"text {i}" for i in range(1000)]})
    assert [each["index"] for each in answer.json["data"]] == [*range(1000)]


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"input": "text", "model": "gpt"}, 404, None, "model_not_found"),
        ({"input": ""}, 400, "input[0]", "empty_document"),
        ({"input": ["text", " "]}, 400, "input[1]", "empty_document"),
        ({"input": []}, 400, "input", "invalid_option"),
        ({"input": [5, 7]}, 400, "input", "invalid_option"),
        ({"input": [[5, 7]]}, 400, "input[0]", "invalid_option"),
        ({"input": {"text": "text"}}, 400, "input", "invalid_option"),
        ({"input": None}, 400, "input", "invalid_option"),
        ({}, 400, "input", "invalid_option"),
        ({"input": "text", "dimensions": 129}, 400, "dimensions", "invalid_option"),
        ({"input": "text", "dimensions": 0}, 400, "dimensions", "invalid_option"),
        ({"input": "text", "dimensions": "7"}, 400, "dimensions", "invalid_option"),
        ({"input": "text", "encoding_format": "hex"}, 400, "encoding_format", "invalid_option"),
        ({"input": ["text"] * 2049}, 400, "input", "invalid_option"),
        (b"{", 400, None, "invalid_option"),
        (b'{"input": "\\ud800"}', 400, None, "invalid_option"),
        (b'{"input": "\xff"}', 400, None, "invalid_option"),
        (b"[" * 100_000, 400, None, "invalid_option"),
        (b'{"input": [' + b"[]," * 30_000 + b"[]]}", 400, None, "invalid_option"),
        (b"[]", 400, None, "invalid_option"),
    ],
)
def test_what_is_refused(http: Web, body: Any, status: int, param: str | None, code: str) -> None:
    answer = http.post("/v1/embeddings", body)
    error = answer.json["error"]
    assert (answer.status, error["param"], error["code"]) == (status, param, code)
    assert answer.headers["x-should-retry"] == "false"


def test_token_ids_are_refused_with_the_remedy(http: Web) -> None:
    answer = http.post("/v1/embeddings", {"model": TINY, "input": [[100, 200]]})
    assert "check_embedding_ctx_length=False" in answer.json["error"]["message"]


@pytest.fixture(scope="module")
def decoding(models: Path) -> Iterator[Web]:
    """A server that reads token ids of a vocabulary of the 256 bytes and one token more."""
    ranks = {bytes([value]): value for value in range(256)}
    vocabulary = tiktoken.Encoding("bytes", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={"<|end|>": 256})
    patch = pytest.MonkeyPatch()
    patch.setattr(tiktoken, "list_encoding_names", lambda: ["bytes"])
    patch.setattr(tiktoken, "get_encoding", {"bytes": vocabulary}.__getitem__)
    with web(settings(model(TINY), http_listen="127.0.0.1:0", http_token_ids="bytes")) as served:  # noqa: S106
        patch.undo()
        yield served


@pytest.mark.parametrize("form", ["one", "array", "mixed"])
def test_token_ids_are_read_by_their_own_vocabulary(decoding: Web, form: str) -> None:
    text = "Schiffe überqueren die Straße."
    ids = list(text.encode())
    sent: Any = {"one": ids, "array": [ids, ids[:9]], "mixed": [ids, text[:8]]}[form]
    answer = decoding.post("/v1/embeddings", {"input": sent})
    meant = {"one": text, "array": [text, "Schiffe \ufffd"], "mixed": [text, text[:8]]}[form]  # cut within a character
    assert answer.status == 200
    assert answer.json["data"] == decoding.post("/v1/embeddings", {"input": meant}).json["data"]


@pytest.mark.parametrize(
    ("sent", "param"),
    [([[65], [257]], "input[1]"), ([-1], "input"), ([1 << 40], "input"), ([65, True], "input[0]"), ([[]], "input[0]")],
)
def test_ids_that_the_vocabulary_lacks_are_refused(decoding: Web, sent: Any, param: str) -> None:
    answer = decoding.post("/v1/embeddings", {"input": sent})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_an_unknown_vocabulary_keeps_the_server_from_starting() -> None:
    with pytest.raises(StartError, match=r"http_token_ids: tiktoken has no encoding 'klingon', but .*cl100k_base"):
        decoder("klingon")


def test_models(http: Web) -> None:
    answer = http.get("/v1/models")
    assert [each["id"] for each in answer.json["data"]] == [TINY, MINILM]
    assert http.get(f"/v1/models/{MINILM}").json["id"] == MINILM
    assert http.get("/v1/models/gpt").json["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("POST", "/v1"), ("POST", "/v1/embeddings/")])
def test_there_is_nothing_else(http: Web, method: str, path: str) -> None:
    assert http.send(method, path, b"{}").status == 404


def test_another_method_is_not_allowed(http: Web) -> None:
    assert http.get("/v1/embeddings").status == 405
