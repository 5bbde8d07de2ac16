"""Who gets in over HTTP, what they are told if not, and that no peer holds anything for ever."""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from server import app
from server.auth.keys import Key
from server.config.schema import ClientSettings, PlanSettings, Settings
from server.errors import InvalidCall, StartError
from server.http import listener, reading
from tests.server.helpers import SOON, TINY, eventually, model, prose, settings
from tests.server.web import Web, web

KEY, TOKEN = Key.make()
SLOW, SLOW_TOKEN = Key.make()
POOR, POOR_TOKEN = Key.make()


def configured() -> Settings:
    base = settings(model(TINY), http_listen="127.0.0.1:0", max_document_bytes=4_000_000)
    plans = {
        "slow": PlanSettings(requests_per_second=0.5),
        "poor": PlanSettings(tokens_per_minute=1000),
    }
    clients = {
        "acme": ClientSettings(keys=(str(KEY),)),
        "slow": ClientSettings(keys=(str(SLOW),), plan="slow"),
        "poor": ClientSettings(keys=(str(POOR),), plan="poor"),
    }
    return base.model_copy(update={"plans": plans, "clients": clients})


@pytest.fixture(scope="module")
def http(models: Path) -> Iterator[Web]:
    with web(configured()) as served:
        yield served


@pytest.fixture(autouse=True)
def nothing_internal(http: Web) -> Iterator[None]:
    yield
    assert http.server.sample("requests_total", code="INTERNAL") == 0
    eventually(lambda: http.server.sample("requests_in_flight") == 0)
    eventually(lambda: http.server.sample("request_bytes_in_flight") == 0)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def embed(http: Web, text: str = "text", **headers: str) -> tuple[int, dict[str, str], dict[str, str]]:
    answer = http.post("/v1/embeddings", {"input": text}, **headers)
    return answer.status, answer.headers, answer.json.get("error")


def test_keys_are_those_of_grpc(http: Web) -> None:
    assert embed(http, **bearer(TOKEN))[0] == 200
    wrong = Key.make()[1]
    status, _, error = embed(http, **bearer(wrong))
    assert (status, error["code"]) == (401, "invalid_api_key")
    assert wrong not in error["message"]


def test_a_token_that_is_none_of_ours_is_no_credential(http: Web) -> None:
    assert embed(http, **bearer("sk-unused"))[0] == 200
    assert embed(http)[0] == 200


def test_a_limit_of_requests_says_when_to_come_back(http: Web) -> None:
    status, headers, _ = embed(http, **bearer(SLOW_TOKEN))
    assert status == 200
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    status, headers, error = embed(http, **bearer(SLOW_TOKEN))
    assert (status, error["code"], error["type"]) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert headers["x-should-retry"] == "true"
    wait = int(headers["retry-after-ms"])
    assert 0 < wait <= 2000
    assert 0 < int(headers["retry-after"]) <= 2
    assert headers["x-octavo-reason"] == "RATE_LIMITED"
    time.sleep(wait / 1000)
    assert embed(http, **bearer(SLOW_TOKEN))[0] == 200


def test_what_will_never_fit_a_limit_is_not_to_be_retried(http: Web) -> None:
    headers = {**bearer(POOR_TOKEN), "x-octavo-timeout": "5"}
    status, answered, error = embed(http, prose(3000), **headers)
    assert (status, error["code"]) == (429, "insufficient_quota")
    assert answered["x-should-retry"] == "false"
    assert "retry-after" not in answered


def test_tei_tells_the_same_refusal_in_its_words(http: Web) -> None:
    answer = http.post("/embed", {"inputs": prose(3000)}, **{**bearer(POOR_TOKEN), "x-octavo-timeout": "5"})
    assert (answer.status, answer.json["error_type"]) == (429, "Overloaded")
    assert answer.headers["x-octavo-reason"] == "RATE_LIMITED"


def test_deadlines(http: Web) -> None:
    status, headers, error = embed(http, prose(100_000), **{"x-octavo-timeout": "0.05"})
    assert (status, error["code"]) in {(504, "deadline"), (503, "queue_full")}
    assert headers["x-should-retry"] == "false"
    assert embed(http, **{"x-octavo-timeout": "soon"})[0] == 400
    assert embed(http, **{"x-stainless-read-timeout": "NOT_GIVEN"})[0] == 200


def test_a_body_is_bounded(http: Web) -> None:
    status, _, error = embed(http, "a" * 5_100_000)
    assert (status, error["code"]) == (413, "document_too_large")
    status, _, error = embed(http, "a" * 4_100_000)
    assert (status, error["code"], error["param"]) == (413, "document_too_large", "input")


def test_chunked_bodies(http: Web) -> None:
    body = [json.dumps({"input": "text"}).encode()[i : i + 5] for i in range(0, 17, 5)]
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in body:
            stream.sendall(b"%x\r\n%b\r\n" % (len(part), part))
            time.sleep(0.01)
        stream.sendall(b"0\r\n\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 200")


def raw(http: Web) -> socket.socket:
    host, port = http.host.split(":")
    stream = socket.create_connection((host, int(port)), timeout=SOON)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return stream


def ends(stream: socket.socket) -> bytes:
    """What still comes until the server closes the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while part := stream.recv(1 << 16):
            came += part
    return came


def test_a_peer_that_has_gone_is_not_computed_for(http: Web) -> None:
    before = http.server.sample("requests_total", code="CANCELLED", method="POST /v1/embeddings")
    body = json.dumps({"input": prose(200_000)}).encode()
    stream = raw(http)
    stream.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    eventually(lambda: http.server.sample("segments_total") > 0)
    stream.close()
    eventually(
        lambda: http.server.sample("requests_total", code="CANCELLED", method="POST /v1/embeddings") == before + 1
    )


def test_headers_are_bounded(http: Web) -> None:
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                stream.sendall(b"X-Field: %b\r\n" % (b"a" * 1000))
                time.sleep(0.0001)
        assert not ends(stream).startswith(b"HTTP/1.1 200")


def test_trailers_are_bounded(http: Web) -> None:
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        with contextlib.suppress(OSError):
            for _ in range(1000):
                stream.sendall(b"X-Field: %b\r\n" % (b"a" * 1000))
                time.sleep(0.0001)
        assert not ends(stream).startswith(b"HTTP/1.1 200")


def test_a_peer_that_is_silent_within_a_header_is_dropped(http: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HEADER_SECONDS", 0.2)
    for begun in (b"", b"GET /health HTTP/1.1\r\nHost:"):
        with contextlib.closing(raw(http)) as stream:
            stream.sendall(begun)
            assert ends(stream) == b""


def test_a_body_that_stalls_is_given_up(http: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "STALL_SECONDS", 0.2)
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert stream.recv(100).startswith(b"HTTP/1.1 504")


def test_a_reply_that_nobody_reads_is_given_up(http: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "STALL_SECONDS", 0.3)
    body = json.dumps({"inputs": prose(80_000)}).encode()  # the reply has 7 MB
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        assert stream.recv(15) == b"HTTP/1.1 200 OK"
        assert http.server.sample("request_bytes_in_flight") > 5_000_000
        eventually(lambda: http.server.sample("requests_in_flight") == 0)


def test_pipelined_requests_are_answered_in_order_and_bounded(http: Web) -> None:
    request = b"GET /v1/models/%d HTTP/1.1\r\nHost: x\r\n\r\n"
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"".join(request % i for i in range(5)))
        came = b""
        while came.count(b"model_not_found") < 5:
            came += stream.recv(1 << 16)
    with contextlib.closing(raw(http)) as stream:
        stream.sendall((request % 1) * 5000)
        ends(stream)


def test_expect_100_continue(http: Web) -> None:
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\nExpect: 100-continue\r\n\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 100")
        stream.sendall(b'{"input": "text"}')
        assert stream.recv(100).startswith(b"HTTP/1.1 200")


def test_garbage_is_refused(http: Web) -> None:
    with contextlib.closing(raw(http)) as stream:
        stream.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        assert ends(stream).startswith(b"HTTP/1.1 400")


def test_pages_of_other_sites_may_not_call(http: Web) -> None:
    status, _, error = embed(http, origin="https://example.org")
    assert (status, error["code"]) == (403, "permission_denied")
    assert embed(http, origin=http.url)[0] == 200


def test_json_is_counted_in_linear_time() -> None:
    began = time.monotonic()
    reading.check_values(b'["' + b'\\"' * 400_000 + b"," * 60_000)
    reading.check_values(b'"' * 1_000_000 + b"," * 60_000)
    with pytest.raises(InvalidCall):
        reading.check_values(b"[" + b'"a,b\\"",' * 500_000)
    reading.check_values(b'["' + b"a,[" * 500_000 + b'"]')
    assert time.monotonic() - began < SOON


def test_no_cors_unless_configured(http: Web) -> None:
    assert "access-control-allow-origin" not in http.get("/health", origin="https://example.org").headers


async def test_cors_and_draining(models: Path) -> None:
    origin = "https://example.org"
    configured = settings(model(TINY), http_listen="127.0.0.1:0", http_cors_origins=(origin,), drain_delay_seconds=1.0)
    async with app.running(configured) as server:
        host = server.addresses[-1].removeprefix("http://")

        def get(method: str, path: str, body: str | None = None) -> tuple[int, dict[str, str], bytes]:
            connection = HTTPConnection(host, timeout=SOON)
            headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()

        _, headers, _ = await asyncio.to_thread(get, "OPTIONS", "/v1/embeddings")
        assert headers["access-control-allow-origin"] == origin
        assert (await asyncio.to_thread(get, "GET", "/health"))[0] == 200
        stopping = asyncio.create_task(server.stop())
        await asyncio.sleep(0.1)
        assert (await asyncio.to_thread(get, "GET", "/health"))[0] == 503
        status, headers, body = await asyncio.to_thread(get, "POST", "/v1/embeddings", '{"input": "text"}')
        assert (status, json.loads(body)["error"]["code"]) == (503, "draining")
        assert int(headers["retry-after"]) >= 1
        await stopping
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(get, "GET", "/health")


async def test_a_port_in_use_is_a_start_error_of_one_line(models: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartError) as caught:
            async with app.running(settings(model(TINY), http_listen=address)):
                pass
    assert str(caught.value) == f"cannot listen on {address} for HTTP: Address already in use; see server.http_listen"


def test_other_machines_reach_it_only_if_that_is_asked_for() -> None:
    with pytest.raises(ValueError, match="allow_plaintext_remote"):
        settings(http_listen="0.0.0.0:0")
    settings(http_listen="0.0.0.0:0", allow_plaintext_remote=True)
