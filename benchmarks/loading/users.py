"""Clients of every kind, well-behaved or not, that record their answers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.loading.corpus import Corpus
from benchmarks.loading.generator import messages
from benchmarks.loading.schedule import ANALYZE, STREAM, request_of
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc

FAULTS = frozenset({"INTERNAL", "UNKNOWN"})
LOST = "LOST"

_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_SECONDS = 60.0  # that a call may take
_GRACE = 30.0  # after its deadline; whoever has heard nothing by then will hear nothing
_KNOWN = 50  # documents that come again
_BULK_DOCUMENTS = 20
_BULK_SECONDS = 600.0  # bulk gets a tenth of what others do
_REFUSALS = frozenset({"RESOURCE_EXHAUSTED", "UNAVAILABLE"})
_PAUSE = 0.2  # before the next attempt


@dataclass(slots=True)
class Report:
    """How calls, and documents of bulk streams, ended: by kind of user and name of the status."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)

    def count(self, codes: frozenset[str] | set[str]) -> int:
        """How many ended with one of these codes."""
        return sum(number for (_, code), number in self.ends.items() if code in codes)


@dataclass(slots=True)
class User:
    """Makes one kind of call after the other."""

    kind: str
    channel: grpc.aio.Channel
    key: str
    corpus: Corpus
    draw: random.Random
    report: Report
    known: list[bytes]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What shows who it is."""
        return (("authorization", f"Bearer {self.key}"),)

    def fresh(self, method: str = ANALYZE, cache: str = "BYPASS") -> bytes:
        """A request that was never made before."""
        return request_of(*self.corpus.documents(1), cache=cache, method=method)

    async def ask(self, method: str, request: bytes, seconds: float = _SECONDS) -> bytes:
        """Make a call and count its end; the last message.

        Raises:
            asyncio.CancelledError: by whoever makes the call.
        """
        last, code = b"", "OK"
        try:
            async with asyncio.timeout(seconds + _GRACE):
                async for message in messages(self.channel, method, request, seconds, self.metadata):
                    last = message
        except TimeoutError:
            code = LOST
        except grpc.aio.AioRpcError as fault:
            code = fault.code().name
        self.report.ends[self.kind, code] += 1
        return last if code == "OK" else b""


async def unary(user: User) -> None:
    """Documents, a third of which the cache may know."""
    known = user.draw.random() < 1 / 3
    await user.ask(ANALYZE, user.draw.choice(user.known) if known else user.fresh(cache="READ_WRITE"))


async def stream(user: User) -> None:
    """A stream that is followed to its summary."""
    last = await user.ask(STREAM, user.fresh(STREAM))
    if last and pb.StreamSegmentsResponse.FromString(last).WhichOneof("event") != "summary":
        user.report.ends[user.kind, LOST] += 1


async def bulk(user: User) -> None:
    """Documents through one stream, in parts, one of them empty; after a refusal the unanswered go through another."""
    documents = [document.text for document in user.corpus.documents(_BULK_DOCUMENTS - 1)] + [" "]
    texts = {str(number): text for number, text in enumerate(documents)}
    finals: Counter[str] = Counter()
    try:
        async with asyncio.timeout(_BULK_SECONDS):
            while True:
                left = {name: text for name, text in texts.items() if not finals[name]}
                code = await _process(user, left, finals)
                user.report.ends[user.kind, code] += 1
                if code not in _REFUSALS:
                    break
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        user.report.ends[user.kind, LOST] += 1
    user.report.ends[f"{user.kind}_document", LOST] += sum(finals[name] != 1 for name in texts)


async def _process(user: User, texts: Mapping[str, str], finals: Counter[str]) -> str:
    """Send documents through one stream and count their final results; how it ended."""

    async def parts() -> AsyncIterator[pb.ProcessDocumentsRequest]:
        start = pb.ProcessStart(tasks=[pb.Task(name="embed", embed=pb.EmbedOptions())])
        yield pb.ProcessDocumentsRequest(start=start)
        for name, text in texts.items():
            middle = len(text) // 2
            yield pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=name, text=text[:middle], more=True))
            yield pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=name, text=text[middle:]))

    stub: Any = inference_pb2_grpc.InferenceServiceStub(user.channel)
    try:
        async for response in stub.ProcessDocuments(parts(), metadata=user.metadata):
            result = response.result
            if response.WhichOneof("message") == "result" and not result.more:
                finals[result.id] += 1
                user.report.ends[f"{user.kind}_document", _CODES[result.error.code]] += 1
    except grpc.aio.AioRpcError as fault:
        return fault.code().name
    return "OK"


async def canceller(user: User) -> None:
    """Leaves in the middle."""
    method = user.draw.choice((ANALYZE, STREAM))
    call = asyncio.create_task(user.ask(method, user.fresh(method)))
    await asyncio.wait((call,), timeout=user.draw.uniform(0, 0.3))
    if call.cancel():
        user.report.ends[user.kind, "left"] += 1
    await asyncio.gather(call, return_exceptions=True)


async def hasty(user: User) -> None:
    """Has little time."""
    method = user.draw.choice((ANALYZE, STREAM))
    await user.ask(method, user.fresh(method), user.draw.uniform(0.001, 0.3))


async def bad(user: User) -> None:
    """Sends what is wrong, or merely strange."""
    embed = [pb.Task(name="embed", embed=pb.EmbedOptions())]
    document = pb.Document(text="A sentence.")
    requests = (
        b"\xff\xff not a message",
        pb.AnalyzeRequest(tasks=embed).SerializeToString(),
        pb.AnalyzeRequest(document=document).SerializeToString(),
        pb.AnalyzeRequest(document=pb.Document(text=" \n\t"), tasks=embed).SerializeToString(),
        pb.AnalyzeRequest(document=document, tasks=embed * 100).SerializeToString(),
        pb.AnalyzeRequest(document=document, tasks=embed, options=pb.CallOptions(model="none")).SerializeToString(),
        pb.AnalyzeRequest(document=document, tasks=embed, options=pb.CallOptions(window=7)).SerializeToString(),
        pb.AnalyzeRequest(document=pb.Document(text="\x00\x07\u2028" * 99), tasks=embed).SerializeToString(),
        pb.AnalyzeRequest(document=pb.Document(text="x" * 200_000), tasks=embed).SerializeToString(),
        pb.AnalyzeRequest(document=pb.Document(text="[SEP] [CLS]"), tasks=embed).SerializeToString(),
    )
    await user.ask(ANALYZE, user.draw.choice(requests))
    cursor = pb.StreamSegmentsRequest(document=document, tasks=embed, cursor="made up")
    await user.ask(STREAM, cursor.SerializeToString())
    await asyncio.sleep(0.02)


Kind = Callable[[User], Awaitable[None]]
KINDS: dict[str, tuple[Kind, int]] = {
    "unary": (unary, 3),
    "stream": (stream, 1),
    "bulk": (bulk, 1),
    "cancel": (canceller, 1),
    "hasty": (hasty, 1),
    "bad": (bad, 1),
}
"""What users of each kind do, over and over, and how many of them there are."""


async def live(address: str, keys: Sequence[str], corpus: Corpus, seconds: float, draw: random.Random) -> Report:
    """Let all users live beside each other; who begins a call in time also ends it."""
    report, end = Report(), time.monotonic() + seconds
    known = [request_of(each, cache="READ_WRITE") for each in corpus.documents(_KNOWN)]

    async def one(kind: str, act: Kind, key: str) -> None:
        async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            user = User(kind, channel, key, corpus, draw, report, known)
            while time.monotonic() < end:
                await act(user)
                await asyncio.sleep(0.005)  # a refusal that comes at once must not make a busy loop

    lives = [(kind, act) for kind, (act, number) in KINDS.items() for _ in range(number)]
    async with asyncio.TaskGroup() as group:
        for i, (kind, act) in enumerate(lives):
            group.create_task(one(kind, act, keys[i % len(keys)]))
    return report
