"""octavo.v1 as JSON, its streams, and what describes it, over real sockets."""

import base64
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.json_format import MessageToDict

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from tests.server.helpers import SOON, TINY, embed, eventually, model, prose, settings, vector
from tests.server.web import Web, web

LONG = prose(1300)
PARTS = '{"tasks": [{"name": "e", "embed": {}}]}'


@pytest.fixture(scope="module")
def http(models: Path) -> Iterator[Web]:
    with web(settings(model(TINY), http_listen="127.0.0.1:0")) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_internal(http: Web) -> Iterator[None]:
    yield
    for code in ("INTERNAL", "UNKNOWN"):
        assert http.server.sample("requests_total", code=code) == 0
    eventually(lambda: http.server.sample("requests_in_flight") == 0)
    eventually(lambda: http.server.sample("request_bytes_in_flight") == 0)


def events(body: bytes) -> list[tuple[str, Any]]:
    """The events of a stream: names and JSON."""
    found = []
    for block in body.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_every_method_is_there(http: Web) -> None:
    for service in (pb.DESCRIPTOR.services_by_name, models_pb2.DESCRIPTOR.services_by_name):
        for method in next(iter(service.values())).methods:
            answer = http.post(f"/octavo/v1/{method.name}", b"{}")
            assert answer.status in {200, 400} or answer.json["error"]["status"] == "NOT_FOUND", method.name


def test_embed(http: Web) -> None:
    answer = http.post("/octavo/v1/Embed", {"documents": [{"id": "a", "text": LONG}]})
    (result,) = answer.json["results"]
    assert result["id"] == "a"
    data = base64.b64decode(result["embedding"]["documentVector"]["data"])
    assert data == vector(embed(http.server, LONG)).astype("<f4").tobytes()
    assert answer.json["info"]["requestId"] == answer.headers["x-request-id"]


def test_names_of_the_contract_are_understood_too(http: Web) -> None:
    body = {"document": {"text": LONG}, "options": {"offset_unit": "OFFSET_UNIT_UTF16"}}
    assert len(http.post("/octavo/v1/Segment", body).json["segments"]) > 2


def test_models(http: Web) -> None:
    (served,) = http.post("/octavo/v1/ListModels", b"").json["models"]
    expected = http.server.models.ListModels(models_pb2.ListModelsRequest())
    assert served == MessageToDict(expected)["models"][0]


def test_a_stream_is_server_sent_events(http: Web) -> None:
    body = {"document": {"text": LONG}, "tasks": [{"name": "e", "embed": {"returnSegmentVectors": True}}]}
    answer = http.post("/octavo/v1/StreamSegments", body)
    assert answer.headers["content-type"] == "text/event-stream"
    names = [name for name, _ in events(answer.body)]
    assert names == ["header", *["segment"] * (len(names) - 2), "summary"]
    found = [event["segment"] for name, event in events(answer.body) if name == "segment"]
    assert found[0]["segment"]["span"].get("start", 0) == 0
    assert found[-1]["segment"]["span"]["end"] == len(LONG)
    again = http.post("/octavo/v1/StreamSegments", body | {"cursor": found[0]["cursor"]})
    assert len(events(again.body)) == len(names) - 1


def test_a_stream_that_fails_at_once_is_an_ordinary_error(http: Web) -> None:
    answer = http.post("/octavo/v1/StreamSegments", {"document": {"text": "a"}})
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")


def test_an_error_within_a_stream_is_its_last_event(http: Web) -> None:
    answer = http.post("/octavo/v1/StreamSegments", {"document": {"text": " "}, "tasks": [{"embed": {}}]})
    *_, (name, error) = events(answer.body)
    assert (answer.status, name, error["error"]["details"][0]["reason"]) == (200, "error", "EMPTY_DOCUMENT")


def test_documents_through_a_stream(http: Web) -> None:
    lines = [{"start": json.loads(PARTS)}]
    lines += [{"document": {"id": str(i), "text": f"text {i}"}} for i in range(40)]
    body = b"\n".join(json.dumps(line).encode() for line in lines)
    answer = http.post("/octavo/v1/ProcessDocuments", body)
    assert answer.status == 200
    first, *others = events(answer.body)
    assert first[0] == "ready"
    assert sorted(int(event["result"]["id"]) for _, event in others) == [*range(40)]
    assert all("ok" in event["result"] for _, event in others)


def raw(http: Web) -> socket.socket:
    host, port = http.host.split(":")
    return socket.create_connection((host, int(port)), timeout=SOON)


def chunk(line: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(line), line)


def test_documents_are_answered_while_others_are_still_sent(http: Web) -> None:
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /octavo/v1/ProcessDocuments HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        stream.sendall(chunk(b'{"start": %b}\n' % PARTS.encode()))
        came = b""
        for i in range(3):
            stream.sendall(chunk(b'{"document": {"id": "%d", ' % i))
            stream.sendall(chunk(b'"text": "a text"}}\n'))
            while b'"id": "%d"' % i not in came:
                came += stream.recv(1 << 16)
        stream.sendall(b"0\r\n\r\n")
        while not came.endswith(b"0\r\n\r\n"):
            came += stream.recv(1 << 16)


def test_a_stream_whose_peer_has_gone_ends(http: Web) -> None:
    path = "POST /octavo/v1/ProcessDocuments"
    before = http.server.sample("requests_total", method=path, code="CANCELLED")
    for rest in (b"", chunk(b'{"document": {"id": "a", "text": "%b"}}\n' % prose(100_000).encode()) + b"0\r\n\r\n"):
        with contextlib.closing(raw(http)) as stream:
            stream.sendall(f"{path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            stream.sendall(chunk(b'{"start": %b}\n' % PARTS.encode()) + rest)
            stream.recv(100)
    eventually(lambda: http.server.sample("requests_total", method=path, code="CANCELLED") == before + 2)


@pytest.mark.parametrize(
    ("method", "body", "field"),
    [
        ("Embed", b"{", ""),
        ("Embed", b"[]", ""),
        ("Embed", b'"text"', ""),
        ("Embed", b"[" * 15_000, ""),
        ("Embed", b'{"documents": [' + b"{}," * 25_000 + b"{}]}", ""),
        ("Embed", b'{"documents": [{"text": "\\ud800"}]}', ""),
        ("Embed", b'{"documents": [{"text": "\xff"}]}', ""),
        ("Embed", b'{"documents": [{"text": 5}]}', "documents.text"),
        ("Embed", b'{"documents": "secret"}', "documents"),
        ("Embed", b'{"documents": [{"secret": 5}]}', "documents[0]"),
        ("Embed", b'{"embed": {"dataType": "SECRET"}}', "embed.dataType"),
        ("Embed", b'{"embed": {"dimensions": -1}}', "embed.dimensions"),
        ("Embed", b'{"embed": {"dimensions": 1e99}}', "embed.dimensions"),
        ("Embed", b'{"documents": [], "documents": []}', ""),
        ("ProcessDocuments", b'{"start": {"secret": 5}}', "start"),
        ("ProcessDocuments", b"", "start"),
    ],
)
def test_what_is_refused(http: Web, method: str, body: bytes, field: str) -> None:
    answer = http.post(f"/octavo/v1/{method}", body)
    assert answer.status == 400
    assert b"secret" not in answer.body.lower()
    error = answer.json["error"]
    assert error["details"][0]["reason"] == "INVALID_OPTION"
    places = [each["fieldViolations"][0]["field"] for each in error["details"] if "fieldViolations" in each]
    assert (places or [""])[0].startswith(field)


def test_openapi_and_its_page(http: Web) -> None:
    made = http.get("/openapi.json").json
    assert made["openapi"] == "3.1.0"
    references = set(_references(made))
    assert references
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in made["components"]["schemas"], reference
    titles = [each["title"] for each in made["components"]["schemas"].values() if "title" in each]
    assert len(titles) == len(set(titles)), "a generator would make two classes of one name"
    for path in made["paths"]:
        assert http.get(path.replace("{model}", TINY)).status in {200, 405}, path
    page = http.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert b"http://" not in page.body
    assert b"https://" not in page.body


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "$ref":
                yield each
            else:
                yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def test_numbers_survive_json(http: Web) -> None:
    body = {"documents": [{"text": "a"}], "embed": {"dataType": "DATA_TYPE_FLOAT16"}}
    (result,) = http.post("/octavo/v1/Embed", body).json["results"]
    tensor = result["embedding"]["documentVector"]
    assert len(np.frombuffer(base64.b64decode(tensor["data"]), "<f2")) == tensor["shape"][0] == 128
