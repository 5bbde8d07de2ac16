"""Clients below gRPC, as `python -m benchmarks hostile` has them: what they hold is bounded, and given back.

Bytes are those that the server counts itself; a test's attackers are threads of this process.
"""

import asyncio
import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.endpoint import Endpoint
from benchmarks.hostile import clients, fuzz
from benchmarks.hostile.clients import ANALYZE, EMBED, PROCESS, SEGMENTS, start_of_documents
from benchmarks.hostile.wire import MOST_WINDOW, Connection, drive, frame
from benchmarks.served import free_port
from cache.disk import Disk
from octavo.v1 import inference_pb2 as pb
from server.config.schema import CacheSettings, ClientSettings, LimitSettings, MetricsSettings, Settings
from server.rpc.hang_up import hang_up
from tests.server.helpers import SOON, Server, embed, eventually, prose, serving, settings

DEADLINE_SECONDS = 2.0
MOST_BYTES = 24_000_000  # in flight
MOST_DOCUMENT_BYTES = 10_000_000
MOST_CALLS = 48
UNAUTHENTICATED, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE = "16", "3", "8", "14"


@dataclass(frozen=True)
class Attack:
    """An attack that goes on in a thread."""

    spent: threading.Event
    counted: "Future[dict[str, float]]"

    def is_spent(self) -> bool:
        return self.spent.is_set() or self.counted.done()


def configured(**clients_of: ClientSettings) -> Settings:
    """A small server: what an attack fills is soon full, and stalled calls soon end."""
    made = settings(default_deadline_seconds=DEADLINE_SECONDS, max_document_bytes=MOST_DOCUMENT_BYTES)
    limits = LimitSettings(max_bytes_in_flight=MOST_BYTES, max_concurrent=MOST_CALLS)
    return made.model_copy(update={"limits": limits, "clients": clients_of})


@pytest.fixture(scope="module")
def victim(models: Path) -> Iterator[Server]:
    with serving(configured()) as server:
        yield server


@pytest.fixture(autouse=True)
def everything_is_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attack no place and no byte is held, nothing was INTERNAL, and the next call is answered."""
    yield
    if "victim" not in request.fixturenames:
        return
    server = request.getfixturevalue("victim")
    eventually(lambda: held(server) == (0, 0))
    for code in ("INTERNAL", "UNKNOWN"):
        assert server.sample("requests_total", code=code) == 0
    assert embed(server, "A sentence.").results


def held(server: Server) -> tuple[float, float]:
    """Calls in flight, and bytes."""
    return server.sample("requests_in_flight"), server.sample("request_bytes_in_flight")


def holds(server: Server, calls: int) -> bool:
    return held(server)[0] == calls


@contextmanager
def attacking(server: Server, attack: Any, **sizes: Any) -> Iterator[Attack]:
    spent, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        made = Attack(spent, thread.submit(attack, Endpoint(server.address), spent, over, **sizes))
        try:
            yield made
        finally:
            over.set()
    made.counted.result()  # its fault is the test's


def most_bytes(server: Server, attack: Attack) -> float:
    """The most bytes in flight until all has been tried."""
    most = 0.0

    def look() -> bool:
        nonlocal most
        most = max(most, held(server)[1])
        return attack.is_spent()

    eventually(look)
    return most


def test_incomplete_requests_hold_no_more_than_there_is_room_for(victim: Server) -> None:
    with attacking(victim, clients.incomplete_requests, count=20, size=9_000_000) as attack:
        assert most_bytes(victim, attack) <= MOST_BYTES
        eventually(lambda: held(victim) == (0, 0))  # by their deadline, while the attacker holds on


def test_nobody_without_credentials_gets_a_place_or_a_byte_read(models: Path) -> None:
    with serving(configured(anonymous=ClientSettings(disabled=True))) as server:
        with attacking(server, clients.incomplete_requests, count=20, size=9_000_000) as attack:
            assert most_bytes(server, attack) == 0
            eventually(lambda: held(server) == (0, 0))
        counted = attack.counted.result()
        assert counted[f"ended.{UNAUTHENTICATED}"] == 20
        assert counted["sent_mb"] < 20 * 9 / 2, "bodies were read that nobody will answer"


def test_unread_replies_count_until_they_have_gone_and_others_are_refused_unread(victim: Server) -> None:
    before = victim.sample("documents_total")
    with attacking(victim, clients.unread_replies, count=30, seconds=4.0) as attack:
        assert most_bytes(victim, attack) <= MOST_BYTES
        assert victim.sample("documents_total") - before < 20, "documents were read whose replies have no room"


def test_a_stream_whose_answers_nobody_reads_is_read_no_further(victim: Server) -> None:
    before = victim.sample("documents_total")
    with attacking(victim, clients.unread_documents, count=20_000) as attack:
        assert most_bytes(victim, attack) <= MOST_BYTES
        assert victim.sample("documents_total") - before < 1_000
    assert attack.counted.result()["sent_mb"] < 0.5, "gRPC took what nobody had asked for"


def test_millions_of_empty_documents_are_refused(victim: Server) -> None:
    with attacking(victim, clients.empty_documents, times=2, size=4_000_000) as attack:
        assert most_bytes(victim, attack) <= MOST_BYTES
    assert attack.counted.result()[f"ended.{INVALID_ARGUMENT}"] == 2


def test_watches_of_health_have_a_bound_and_end_with_their_connections(victim: Server) -> None:
    with attacking(victim, clients.watches, count=300, seconds=3.0) as attack:
        eventually(attack.is_spent)
        assert held(victim)[0] <= 100
    counted = attack.counted.result()
    assert sum(counted.get(f"ended.{code}", 0) for code in (RESOURCE_EXHAUSTED, UNAVAILABLE)) >= 200


def test_a_health_check_is_small_and_gives_its_bytes_back(victim: Server) -> None:
    health: Any = health_pb2_grpc.HealthStub(victim.channel())
    large = health_pb2.HealthCheckRequest(service="x" * 1_000_000)
    with pytest.raises(grpc.RpcError, match="at most 1,024 bytes"):
        health.Check(large, timeout=SOON)
    with pytest.raises(grpc.RpcError, match="at most 1,024 bytes"):
        next(health.Watch(large, timeout=SOON))
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=SOON).status == health_pb2.HealthCheckResponse.SERVING
    eventually(lambda: held(victim) == (0, 0))


def test_health_lists_every_service(victim: Server) -> None:
    health: Any = health_pb2_grpc.HealthStub(victim.channel())
    messages: Any = health_pb2  # whose type stubs are older than this method
    statuses = health.List(messages.HealthListRequest(), timeout=SOON).statuses
    assert {*statuses} >= {"", "octavo.v1.InferenceService", "octavo.v1.ModelService"}
    assert {each.status for each in statuses.values()} == {health_pb2.HealthCheckResponse.SERVING}


def test_calls_that_stall_without_a_deadline_lose_their_places(victim: Server) -> None:
    with attacking(victim, clients.stalled_streams, count=32) as attack:
        eventually(attack.is_spent)
        eventually(lambda: held(victim) == (0, 0))


@pytest.mark.parametrize("seed", range(4))
def test_calls_that_are_reset_anywhere_give_their_places_back(victim: Server, seed: int) -> None:
    chance = random.Random(seed)
    document = pb.Document(text=prose(2_000, seed))
    tasks = [pb.Task(embed=pb.EmbedOptions())]
    bodies = {
        EMBED: frame(pb.EmbedRequest(documents=[document]).SerializeToString()),
        ANALYZE: frame(pb.AnalyzeRequest(document=document, tasks=tasks).SerializeToString()),
        SEGMENTS: frame(pb.StreamSegmentsRequest(document=document, tasks=tasks).SerializeToString()),
        PROCESS: start_of_documents()
        + b"".join(
            frame(pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=str(i), text="A text.")).SerializeToString())
            for i in range(50)
        ),
    }
    connections = [Connection(victim.address, window=chance.choice((0, 100, MOST_WINDOW))) for _ in range(4)]
    for _ in range(60):
        connection, method = chance.choice(connections), chance.choice(list(bodies))
        body = bodies[method]
        whole = chance.random() < 1 / 2
        stream = connection.call(method)
        connection.send(stream, body if whole else body[: chance.randrange(len(body))], end=whole)
        drive(connections, chance.uniform(0, 0.02))
        connection.reset(stream)
    drive(connections, 0.1)
    eventually(lambda: held(victim) == (0, 0))
    for connection in connections:
        connection.close()


def test_a_connection_that_is_dropped_gives_its_places_back(models: Path) -> None:
    unread, incomplete = frame(clients.long_reply()), frame(bytes(1_000), 2_000)
    with serving(settings()) as server:  # whose default deadline is far: the drop alone ends the calls
        connection = Connection(server.address, window=0)
        for place in range(10):  # one by one: only a few requests may be arriving at the same time
            method, body = (EMBED, incomplete) if place >= 8 else (ANALYZE, unread)
            connection.send(connection.call(method), body, end=body is unread)
            drive([connection], SOON, partial(holds, server, place + 1))
        assert holds(server, 10)
        connection.close()
        eventually(lambda: held(server) == (0, 0))


def test_small_calls_are_answered_while_others_hold_all_the_room(victim: Server) -> None:
    ends = Counter[grpc.StatusCode]()
    with attacking(victim, clients.incomplete_requests, count=10, size=9_000_000) as attack:
        while not attack.is_spent():
            try:
                ends[grpc.StatusCode.OK] += len(embed(victim, "A sentence.").results)
            except grpc.RpcError as error:
                ends[error.code()] += 1
    # On a busy machine even a small call may take long to arrive, and is told to come back.
    assert ends.keys() <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert ends[grpc.StatusCode.OK] > 4 * ends[grpc.StatusCode.UNAVAILABLE]


def test_a_thousand_fuzzed_calls_have_statuses_of_ours(victim: Server) -> None:
    calls = map(partial(fuzz.draw, 8), range(1_000))
    ends = asyncio.run(fuzz.send(victim.address, calls, 1_000))
    assert sum(ends.values()) == 1_000
    assert not {*ends} & {*fuzz.FAULTS, fuzz.LOST}, ends


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_cache_that_writes_no_more_fails_livez(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Disk, writes: object) -> None:
        raise KeyError

    def livez() -> int:
        with suppress(HTTPError), urlopen(f"http://{listen}/livez", timeout=SOON) as reply:
            return int(reply.status)
        return 503

    listen = f"127.0.0.1:{free_port()}"
    cache = CacheSettings(dir=tmp_path / "cache", secret_file=tmp_path / "secret")
    made = settings().model_copy(update={"cache": cache, "metrics": MetricsSettings(listen=listen)})
    monkeypatch.setattr(Disk, "write", fail)
    with serving(made) as server:
        assert livez() == 200
        embed(server, "A sentence.")
        eventually(lambda: livez() == 503)


def descriptors() -> list[str]:
    return sorted(os.listdir("/dev/fd"))  # noqa: PTH208 - numbers, not paths


def test_hanging_up_spares_a_connection_that_was_made_to_the_same_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        made = socket.create_connection(elsewhere.getsockname())
        other_end, _ = elsewhere.accept()
    with made, other_end, socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(made.getpeername())
        client.connect(server.getsockname())
        accepted, (host, port) = server.accept()
        with accepted:
            assert (host, port) == made.getpeername()
            assert hang_up(f"ipv4:{host}:{port}", {server.getsockname()[1]})
            assert client.recv(1) == b""
            made.sendall(b"?")
            assert other_end.recv(1) == b"?"


def test_hanging_up_leaves_no_descriptor_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, (host, port) = server.accept()
        ports = {server.getsockname()[1]}
        with accepted, Path(__file__).open("rb"):
            before = descriptors()
            assert hang_up(f"ipv4:{host}:{port}", ports)
            assert descriptors() == before
            assert client.recv(1) == b""
            assert not hang_up("ipv4:127.0.0.1:1", ports)
            assert descriptors() == before
