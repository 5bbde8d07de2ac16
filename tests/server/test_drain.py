"""On the way out: new calls are refused in a way that clients obey, streams are told, what runs is answered."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc, models_pb2, models_pb2_grpc
from server import app
from tests.server.helpers import SOON, prose, settings

EMBED = pb.Task(name="e", embed=pb.EmbedOptions())


def asynchronous(channel: grpc.aio.Channel) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
    """The generated stub, which knows its asynchronous form in its types alone."""
    return cast("inference_pb2_grpc.InferenceServiceAsyncStub", inference_pb2_grpc.InferenceServiceStub(channel))


async def test_a_server_that_drains_refuses_new_calls_and_finishes_the_others(models: Path) -> None:
    async with app.running(settings(drain_delay_seconds=1.0, stop_grace_seconds=SOON)) as server:
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            stub = asynchronous(channel)
            long = pb.StreamSegmentsRequest(document=pb.Document(text=prose(100_000)), tasks=[EMBED])
            running = aiter(stub.StreamSegments(long))
            await anext(running)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0.2)

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Analyze(pb.AnalyzeRequest(document=pb.Document(text="a"), tasks=[EMBED]))
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            trailers = dict(refused.value.trailing_metadata())
            assert int(trailers["grpc-retry-pushback-ms"]) >= 1000
            assert b"DRAINING" in trailers["grpc-status-details-bin"]

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest())  # type: ignore[misc]
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

            events = [event.WhichOneof("event") async for event in running]
            assert events[-1] == "summary"
            await asyncio.wait_for(stopping, SOON)


async def test_a_bulk_stream_is_told_and_gets_what_was_begun(models: Path) -> None:
    more = threading.Event()

    def requests() -> Iterator[pb.ProcessDocumentsRequest]:
        yield pb.ProcessDocumentsRequest(start=pb.ProcessStart(tasks=[EMBED]))
        for i in range(3):
            text = prose(20_000, seed=i)
            yield pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=f"d{i}", text=text))
        more.wait(SOON)

    async with app.running(settings(drain_delay_seconds=0.5, stop_grace_seconds=SOON)) as server:
        seen: list[str] = []
        answered: list[str] = []

        def talk() -> None:
            with grpc.insecure_channel(server.addresses[0]) as channel:
                for response in inference_pb2_grpc.InferenceServiceStub(channel).ProcessDocuments(requests()):
                    seen.append(response.WhichOneof("message"))
                    if seen[-1] == "result":
                        answered.append(response.result.id)

        talking = asyncio.create_task(asyncio.to_thread(talk))
        while not answered:
            await asyncio.sleep(0.02)
        await asyncio.wait_for(server.stop(), SOON)
        await asyncio.wait_for(talking, SOON)
        more.set()
    assert seen.count("draining") == 1
    assert sorted(answered) == ["d0", "d1", "d2"]


async def test_stopping_at_once_waits_for_nobody(models: Path) -> None:
    async with app.running(settings(drain_delay_seconds=SOON, stop_grace_seconds=SOON)) as server:
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            stub = asynchronous(channel)
            request = pb.StreamSegmentsRequest(document=pb.Document(text=prose(400_000)), tasks=[EMBED])
            running = aiter(stub.StreamSegments(request))
            await anext(running)
            await asyncio.wait_for(server.stop_at_once(), 5)
            with pytest.raises(grpc.aio.AioRpcError):
                async for _ in running:
                    pass


async def test_a_connection_that_is_old_is_renewed_and_no_call_notices(models: Path) -> None:
    async with app.running(settings(max_connection_age_seconds=0.3)) as server:
        port = int(server.addresses[0].rpartition(":")[2])
        async with grpc.aio.insecure_channel(server.addresses[0]) as channel:
            stub = asynchronous(channel)
            long = pb.StreamSegmentsRequest(document=pb.Document(text=prose(100_000)), tasks=[EMBED])
            running = aiter(stub.StreamSegments(long))
            await anext(running)
            connections = set[int]()
            async with asyncio.timeout(SOON):
                while len(connections) < 3:
                    await stub.Segment(pb.SegmentRequest(document=pb.Document(text="a sentence")))
                    connections |= _local_ports(port)
            events = [event.WhichOneof("event") async for event in running]
    assert events[-1] == "summary"


def _local_ports(remote_port: int) -> set[int]:
    """Of this process' connections to a server's port."""
    found = psutil.Process().net_connections("tcp")
    return {each.laddr.port for each in found if each.raddr and each.raddr.port == remote_port}
