"""Background loops survive single faults; one that keeps failing makes /livez fail."""

import asyncio
import http.client
import socket
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from server import app
from server.auth.clients import ANONYMOUS
from server.config.schema import LimitSettings, MetricsSettings
from server.health.liveness import Liveness
from server.health.loop_watch import LoopWatch
from server.inference.verify import Verifier
from server.limits import Limiter
from server.limits.budget import Budget
from server.scheduling.fair_queue import PriorityFairQueue
from server.scheduling.scheduler import Scheduler
from server.telemetry import loops
from server.telemetry.metrics import Metrics
from server.types import Computed, Priority, Work
from tests.server.helpers import embed, serving, settings, vector
from tests.server.simulated import Machine

if TYPE_CHECKING:
    from server.inference.runner import Runner

SOON = 10.0


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "PAUSE_SECONDS", 0.001)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def faults(metrics: Metrics, loop: str = "stream") -> float:
    return metrics.registry.get_sample_value("octavo_background_faults_total", {"loop": loop}) or 0.0


@asynccontextmanager
async def scheduling(metrics: Metrics) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(1, 1, Limiter(LimitSettings(), metrics), metrics)
    scheduler.start()
    try:
        yield scheduler
    finally:
        await scheduler.close()


async def compute(scheduler: Scheduler, key: bytes = b"key") -> Computed:
    machine = cast("Runner", Machine())
    work = Work(key, machine, np.zeros(10, np.int32), 0, 0, state=None, cuts=(1,), heads=())
    async with asyncio.timeout(SOON):
        return await scheduler.submit(work, ANONYMOUS, Priority.INTERACTIVE, time.monotonic() + 60)


def failing(error: Exception) -> object:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


async def test_a_fault_between_segments_ends_no_stream(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scheduling(metrics) as scheduler:
        await compute(scheduler)
        with monkeypatch.context() as patch:
            patch.setattr(PriorityFairQueue, "peek", failing(KeyError()))
            waiting = asyncio.create_task(compute(scheduler))
            while not faults(metrics):
                await asyncio.sleep(0)
        await waiting
        assert scheduler.is_alive()


async def test_a_fault_while_a_segment_is_charged_is_its_caller_s(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with scheduling(metrics) as scheduler:
        with monkeypatch.context() as patch:
            patch.setattr(Budget, "charge", failing(ZeroDivisionError()))
            with pytest.raises(ZeroDivisionError):
                await compute(scheduler)
        assert faults(metrics) == 1
        await compute(scheduler)
        assert len(scheduler._queue) == 0


async def test_a_run_without_a_thread_fails_its_calls_alone(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    async with scheduling(metrics) as scheduler:
        with monkeypatch.context() as patch:
            patch.setattr(ThreadPoolExecutor, "submit", failing(RuntimeError("can't start new thread")))
            with pytest.raises(RuntimeError, match="thread"):
                await compute(scheduler)
        await compute(scheduler)
        assert scheduler.is_alive()


async def test_a_stream_that_keeps_failing_ends_and_is_told(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    liveness = Liveness()
    async with scheduling(metrics) as scheduler:
        with liveness.watching("a stream has ended", scheduler.is_alive):
            monkeypatch.setattr(PriorityFairQueue, "peek", failing(KeyError()))
            waiting = asyncio.create_task(compute(scheduler))
            async with asyncio.timeout(SOON):
                while not liveness.fault:
                    await asyncio.sleep(0.001)
            assert liveness.fault == "a stream has ended"
            assert faults(metrics) == loops.MOST_FAULTS
            waiting.cancel()
        assert not liveness.fault, "closing is no fault"


async def test_a_check_that_fails_is_counted_and_the_next_one_is_made(metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        verifier = Verifier(scheduler, metrics, share=1.0)
        for count in (1, 2):
            verifier.consider(None, None, None, None)  # type: ignore[arg-type]
            async with asyncio.timeout(SOON):
                while faults(metrics, "verifier") < count:
                    await asyncio.sleep(0.001)
        await verifier.close()


async def test_a_report_that_fails_does_not_end_the_watch() -> None:
    reports = 0

    def report(_: float) -> None:
        nonlocal reports
        reports += 1
        raise ValueError

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    watch = LoopWatch(loop, report)
    watch.start()
    async with asyncio.timeout(SOON):
        while reports < 3:
            await asyncio.sleep(0.001)
    assert watch.is_alive()
    watch.stop()


def test_a_keeper_without_a_thread_fails_no_call(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("keeper"):
            raise RuntimeError("can't start new thread")
        start(thread)

    with serving(settings()) as server:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            assert vector(embed(server, "A sentence that cannot be kept.")).any()
        kept, waited = server.sample("background_faults_total", loop="keeper"), 1
        assert kept == 1 + waited, "once for the segment, once for waiting until it can be looked up"
        embed(server, "A sentence that can.")
        assert server.sample("background_faults_total", loop="keeper") == kept


def test_a_watch_that_fails_tells_its_client_who_watches_anew(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        await asyncio.sleep(0)
        raise KeyError

    with serving(settings()) as server:
        stub: Any = health_pb2_grpc.HealthStub(server.channel())
        with monkeypatch.context() as patch:
            patch.setattr(health.aio.HealthServicer, "Watch", fail)
            with pytest.raises(grpc.RpcError) as failed:
                list(stub.Watch(health_pb2.HealthCheckRequest(), timeout=SOON))
        assert failed.value.code() is grpc.StatusCode.INTERNAL
        again = stub.Watch(health_pb2.HealthCheckRequest(), timeout=SOON)
        assert next(again).status == health_pb2.HealthCheckResponse.SERVING
        again.cancel()


async def test_livez_of_a_server_whose_stream_has_ended(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def livez() -> tuple[int, str]:
        connection = http.client.HTTPConnection(address, timeout=SOON)
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return response.status, response.read().decode()

    started: list[Scheduler] = []
    start = Scheduler.start

    def noted(scheduler: Scheduler) -> None:
        started.append(scheduler)
        start(scheduler)

    monkeypatch.setattr(Scheduler, "start", noted)
    configured = settings().model_copy(update={"metrics": MetricsSettings(listen=address)})
    async with app.running(configured):
        assert await asyncio.to_thread(livez) == (200, "ok\n")
        with monkeypatch.context() as patch:
            patch.setattr(PriorityFairQueue, "peek", failing(KeyError()))
            started[0]._news.set()  # else the stream sleeps
            async with asyncio.timeout(SOON):
                while (await asyncio.to_thread(livez))[0] == 200:
                    await asyncio.sleep(0.01)
        assert await asyncio.to_thread(livez) == (503, "a stream has ended\n")
