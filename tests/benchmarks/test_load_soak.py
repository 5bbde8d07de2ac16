"""What the soak counts: growth of memory, and calls and documents without an answer."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import pytest
from google.rpc.status_pb2 import Status

from benchmarks import soak
from benchmarks.loading import users
from benchmarks.loading.corpus import Document
from benchmarks.loading.schedule import ANALYZE
from benchmarks.loading.users import FAULTS, LOST, Report, User
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc


def test_memory_growth_compares_the_ends_and_forgives_a_peak() -> None:
    assert soak.growth([100.0] * 50) == 0.0
    assert soak.growth([100.0] * 25 + [103.0] * 25) == pytest.approx(3.0)
    assert soak.growth([100.0] * 40 + [500.0] + [100.0] * 9) == 0.0
    assert soak.growth([100.0 + i for i in range(100)]) == pytest.approx(100 * 80 / 109.5)
    with pytest.raises(ValueError, match="fewer than five"):
        soak.growth([1.0] * 4)


def test_internal_and_unknown_are_faults_whoever_met_them() -> None:
    report = Report()
    report.ends.update(
        {("unary", "INTERNAL"): 2, ("bulk_document", "UNKNOWN"): 1, ("unary", "OK"): 9, ("stream", LOST): 4}
    )
    assert report.count(FAULTS) == 3
    assert report.count({LOST}) == 4


class Corpus:
    def documents(self, count: int) -> list[Document]:
        return [Document("A sentence.", 3)] * count


class Careless(inference_pb2_grpc.InferenceServiceServicer):
    """Loses document 3, answers 4 twice, fails 5; ends a stream without its summary; never answers Analyze."""

    async def ProcessDocuments(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield pb.ProcessDocumentsResponse(ready=pb.ProcessReady())
        async for request in request_iterator:
            part = request.document
            if not part.id or part.more or part.id == "3":
                continue
            result = pb.DocumentResult(id=part.id, error=Status(code=13) if part.id == "5" else None)
            yield pb.ProcessDocumentsResponse(result=pb.DocumentResult(id=part.id, more=True))
            for _ in range(2 if part.id == "4" else 1):
                yield pb.ProcessDocumentsResponse(result=result)

    async def StreamSegments(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield pb.StreamSegmentsResponse(segment=pb.SegmentResult())

    async def Analyze(self, request: Any, context: Any) -> Any:  # noqa: N802
        await asyncio.sleep(60)


@pytest.fixture
async def user() -> AsyncIterator[User]:
    server = grpc.aio.server()
    careless: Any = Careless
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(careless(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield User("it", channel, "oct_key", Corpus(), random.Random(0), Report(), [])  # type: ignore[arg-type]
    await server.stop(0)


async def test_documents_without_exactly_one_final_result_are_lost(user: User) -> None:
    await users.bulk(user)
    assert user.report.ends["it", "OK"] == 1
    assert user.report.ends["it_document", LOST] == 2
    assert user.report.ends["it_document", "INTERNAL"] == 1
    assert user.report.ends["it_document", "OK"] == 19


async def test_documents_of_a_stream_that_was_refused_are_sent_again(
    user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sent = users._process, list[int]()

    async def refusing(user: User, texts: Mapping[str, str], finals: Counter[str]) -> str:
        """Answers 0, then refuses; afterwards answers all that comes."""
        sent.append(len(texts))
        if len(sent) == 1:
            finals["0"] += 1
            return "UNAVAILABLE"
        if len(sent) == 2:
            return "RESOURCE_EXHAUSTED"
        finals.update(list(texts))
        return "OK"

    monkeypatch.setattr(users, "_process", refusing)
    await users.bulk(user)
    assert sent == [20, 19, 19]
    assert user.report.count({LOST}) == 0
    monkeypatch.setattr(users, "_process", whole)
    monkeypatch.setattr(users, "_BULK_SECONDS", 0.0)
    await users.bulk(user)
    assert user.report.count({LOST}) == 21, "a stream that hangs, and its documents"


async def test_a_stream_that_ends_without_its_summary_is_lost(user: User) -> None:
    await users.stream(user)
    assert user.report.count({LOST}) == 1


async def test_a_call_that_never_ends_is_lost(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_GRACE", -0.8)  # heard nothing 0.2 s after it began, before gRPC gives up by itself
    await user.ask(ANALYZE, b"", seconds=1.0)
    assert user.report.ends == {("it", LOST): 1}


class Soon(random.Random):
    def choice(self, options: Any) -> Any:
        return ANALYZE

    def uniform(self, a: float, b: float) -> float:
        return 0.05


async def test_a_call_that_its_caller_left_is_not_lost(user: User) -> None:
    user.draw = Soon()
    await users.canceller(user)
    assert user.report.ends == {("it", "left"): 1}
