"""Hostile clients, one function per attack, based only on the published protocol.

Each has the same signature (`attackers.Attack`), runs in its own process, and has a time limit.
"""

import random
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from threading import Event

from benchmarks.endpoint import Endpoint
from benchmarks.hostile.wire import MOST_WINDOW, Connection, drive, frame
from octavo.v1 import inference_pb2 as pb

_SERVICE = "/octavo.v1.InferenceService/"
EMBED, ANALYZE, SEGMENTS, PROCESS = (
    _SERVICE + name for name in ("Embed", "Analyze", "StreamSegments", "ProcessDocuments")
)
WATCH = "/grpc.health.v1.Health/Watch"

_ATTACK_SECONDS = 30.0  # that an attack may go on before it is only held
_QUIET_SECONDS = 3.0  # without a byte sent, after which nothing more will go
_USUAL_WINDOW = 65_535
_PARKED_WORDS, _PARKED_RATE = 98, 9.8  # tokens of a document, without specials, and documents a second: 980 tokens
_LEAST_TOKENS = 32  # of a segment
_TASKS = 8
_VECTOR_BYTES = 1_560  # of all-MiniLM-L6-v2, with what is around it
_WORDS = "river town old men north sea light house years winter road stone field bread water night war law ship".split()  # noqa: SIM905


def unread_documents(target: Endpoint, spent: Event, over: Event, count: int = 60_000) -> dict[str, float]:
    """Send small documents through one ProcessDocuments, and read nothing."""
    connection = Connection(target.address, window=_USUAL_WINDOW)
    stream = connection.call(PROCESS, token=target.token)
    texts = (f"Document {i} says that nobody reads answers." for i in range(count))
    parts = (pb.DocumentPart(id=f"document-{i}", text=text) for i, text in enumerate(texts))
    bodies = [frame(pb.ProcessDocumentsRequest(document=part).SerializeToString()) for part in parts]
    connection.send(stream, start_of_documents() + b"".join(bodies), end=True)
    _push([connection], lambda: not connection.waiting(stream))
    _hold([connection], spent, over)
    return {"sent_mb": connection.sent / 1e6, "documents_sent": connection.sent / len(bodies[-1])}


def incomplete_requests(
    target: Endpoint, spent: Event, over: Event, count: int = 200, size: int = 9 << 20
) -> dict[str, float]:
    """Send all but the end of requests of 9 MiB each, without credentials, and never the rest."""
    connections = _connect(target, count // 10)
    body = frame(bytes(size - 64), size)
    calls = []
    for connection in islice(cycle(connections), count):
        calls.append((connection, stream := connection.call(EMBED)))
        connection.send(stream, body)
    _push(connections, lambda: not any(connection.waiting(stream) for connection, stream in calls))
    _hold(connections, spent, over)
    return _told(connections)


def unread_replies(
    target: Endpoint, spent: Event, over: Event, count: int = 200, seconds: float = _ATTACK_SECONDS
) -> dict[str, float]:
    """Ask for 3.9 MB of segments' vectors, from the cache after the first time, and read no byte of the replies."""
    request = long_reply()
    reader = Connection(target.address, window=MOST_WINDOW, whole=1 << 30)
    first = reader.call(ANALYZE, token=target.token)
    reader.send(first, frame(request), end=True)
    drive([reader], 2 * _ATTACK_SECONDS, lambda: first in reader.statuses)
    told = {"reply_mb": reader.received / 1e6, "first_status": float(reader.statuses.get(first, "-1"))}
    reader.close()
    connections = _connect(target, count // 10)
    for connection in islice(cycle(connections), count):
        connection.send(connection.call(ANALYZE, token=target.token), frame(request), end=True)
    drive(connections, seconds)
    _hold(connections, spent, over)
    return told | _told(connections)


def empty_documents(
    target: Endpoint, spent: Event, over: Event, times: int = 5, size: int = 8_000_000
) -> dict[str, float]:
    """Send requests for millions of documents that are empty, one after the other."""
    request = frame(pb.EmbedRequest(documents=[pb.Document()]).SerializeToString() * (size // 2))
    connection = Connection(target.address, window=MOST_WINDOW)
    for _ in range(times):
        stream = connection.call(EMBED, token=target.token)
        connection.send(stream, request, end=True)
        drive([connection], _ATTACK_SECONDS / times, lambda stream=stream: stream in connection.statuses)  # type: ignore[misc]
    _hold([connection], spent, over)
    return _told([connection])


def watches(
    target: Endpoint, spent: Event, over: Event, count: int = 2_000, seconds: float = _ATTACK_SECONDS / 3
) -> dict[str, float]:
    """Watch the server's health many times at once."""
    connections = _connect(target, count // 100)
    for connection in islice(cycle(connections), count):
        connection.send(connection.call(WATCH), frame(b""), end=True)
    drive(connections, seconds)
    _hold(connections, spent, over)
    return _told(connections)


def stalled_streams(target: Endpoint, spent: Event, over: Event, count: int = 64) -> dict[str, float]:
    """Begin calls of every kind without a deadline, and neither read nor go on."""
    documents = [
        frame(pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=str(i), text=_text(200, i))).SerializeToString())
        for i in range(200)
    ]
    part = pb.ProcessDocumentsRequest(document=pb.DocumentPart(id="first", text=_text(50, 1), more=True))
    tasks = [pb.Task(embed=pb.EmbedOptions(return_segment_vectors=True))]
    stream = pb.StreamSegmentsRequest(document=pb.Document(text=_text(20_000, 0)), tasks=tasks)
    unary = frame(long_reply())
    segmented = frame(stream.SerializeToString())
    kinds = (  # method, what is sent, whether the sending ends
        (PROCESS, b"", False),  # nothing follows the headers
        (PROCESS, start_of_documents(), False),  # no document follows
        (PROCESS, start_of_documents() + frame(part.SerializeToString()), False),  # a document's rest is missing
        (PROCESS, start_of_documents() + b"".join(documents), False),  # nothing is read
        (SEGMENTS, segmented, True),  # nothing is read
        (SEGMENTS, segmented[:-9], False),  # the request is incomplete
        (ANALYZE, unary, True),  # nothing is read
        (ANALYZE, unary[:-9], False),  # the request is incomplete
    )
    connections = _connect(target, count // 8)
    for i in range(count):
        method, body, end = kinds[i % len(kinds)]
        connection = connections[i // len(kinds) % len(connections)]
        connection.send(connection.call(method, token=target.token), body, end=end)
    drive(connections, 2.0)
    _hold(connections, spent, over)
    return _told(connections)


def park(
    target: Endpoint, spent: Event, over: Event, count: int = 3_000, streams: int = 3, seconds: float = 60.0
) -> dict[str, float]:
    """Spend 60,000 tokens evenly over a minute, so that they come back evenly; then send many times as many."""
    connection = Connection(target.address, window=MOST_WINDOW, whole=1 << 30)
    begun = time.monotonic()
    paced = connection.call(PROCESS, token=target.token, timeout="600S")
    connection.send(paced, start_of_documents(return_segments=False))
    for number in range(round(seconds * _PARKED_RATE)):
        drive([connection], begun + number / _PARKED_RATE - time.monotonic())
        connection.send(paced, _parked(f"paced-{number}", number))
    calls = [connection.call(PROCESS, token=target.token, timeout="600S") for _ in range(streams)]
    for i, stream in enumerate(calls):
        bodies = (_parked(str(number), count + number) for number in range(i, count, streams))
        connection.send(stream, start_of_documents(return_segments=False) + b"".join(bodies), end=True)
    _hold([connection], spent, over)
    return _told([connection]) | {"received_mb": connection.received / 1e6}


def _parked(name: str, seed: int) -> bytes:
    part = pb.DocumentPart(id=name, text=_text(_PARKED_WORDS, seed))
    return frame(pb.ProcessDocumentsRequest(document=part).SerializeToString())


def start_of_documents(*, return_segments: bool = True) -> bytes:
    """Frame the first message of a ProcessDocuments."""
    tasks = [pb.Task(embed=pb.EmbedOptions(return_segment_vectors=True))]
    start = pb.ProcessStart(tasks=tasks, return_segments=return_segments)
    return frame(pb.ProcessDocumentsRequest(start=start).SerializeToString())


def long_reply(megabytes: float = 3.9) -> bytes:
    """Make a small Analyze whose reply is of about this size: the same segments' vectors for many tasks."""
    cut = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=_LEAST_TOKENS)
    vectors = pb.EmbedOptions(return_segment_vectors=True)
    segments = round(1e6 * megabytes / (_TASKS * _VECTOR_BYTES))
    return pb.AnalyzeRequest(
        document=pb.Document(text=_text(segments * _LEAST_TOKENS, 0)),
        options=pb.CallOptions(segmentation=cut),
        tasks=[pb.Task(name=str(i), embed=vectors) for i in range(_TASKS)],
    ).SerializeToString()


def _text(words: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(_WORDS, k=words))


def _connect(target: Endpoint, count: int) -> list[Connection]:
    return [Connection(target.address) for _ in range(max(1, count))]


def _push(connections: Sequence[Connection], done: Callable[[], bool]) -> None:
    """Send until all is sent, nothing has gone for a while, or the time is over."""
    sent, moved = -1, time.monotonic()

    def stuck() -> bool:
        nonlocal sent, moved
        now, gone = time.monotonic(), sum(connection.sent for connection in connections)
        if gone != sent:
            sent, moved = gone, now
        return done() or now - moved > _QUIET_SECONDS

    drive(connections, _ATTACK_SECONDS, stuck)


def _hold(connections: Sequence[Connection], spent: Event, over: Event) -> None:
    """Keep all calls as they are until the attack is over."""
    spent.set()
    while not over.is_set():
        drive(connections, 0.25)
        time.sleep(0.05)
    for connection in connections:
        connection.close()


def _told(connections: Sequence[Connection]) -> dict[str, float]:
    statuses = [status for connection in connections for status in connection.statuses.values()]
    counts = {f"ended.{status}": float(statuses.count(status)) for status in sorted(set(statuses))}
    return {"sent_mb": sum(connection.sent for connection in connections) / 1e6, **counts}
