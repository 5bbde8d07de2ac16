"""Counts what a server computes for calls that were cancelled or are past their deadline."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from benchmarks.loading.corpus import Document
from benchmarks.loading.generator import messages
from benchmarks.loading.schedule import ANALYZE, STREAM, request_of
from benchmarks.served import Served

_COMPUTED = "octavo_queue_wait_seconds_count"  # one a segment that a run has ended with, wanted or not
_UNANSWERED = "octavo_requests_in_flight"
_LEFT = frozenset({grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED})
_SCRAPE_SECONDS = 0.005
_QUIET_SECONDS = 0.3  # longer than any run takes


@dataclass(frozen=True, slots=True)
class Abandoned:
    """Requests whose callers had gone before the answer, and the segments that were computed after that."""

    requests: int
    segments: float


async def abandon(server: Served, groups: Sequence[Sequence[Document]], usual: float, draw: random.Random) -> Abandoned:
    """Send groups of requests, each at once, and leave before they are answered.

    A group is cancelled at a moment that is drawn from the seconds that it would `usually` take, or has its deadline
    there; its calls are unary, or streams. What is on the machine in that moment counts, for it is finished after it.
    """
    requests, segments = 0, 0.0
    async with grpc.aio.insecure_channel(server.address) as channel:
        for number, group in enumerate(groups):
            method = STREAM if number % 4 == 0 else ANALYZE  # a stream ends before its deadline by itself
            gone = await _leave(
                server, channel, group, draw.uniform(0.05, 0.95) * usual, method, cancel=number % 2 == 0
            )
            requests, segments = requests + gone.requests, segments + gone.segments
    return Abandoned(requests, segments)


async def _leave(
    server: Served, channel: grpc.aio.Channel, group: Sequence[Document], moment: float, method: str, *, cancel: bool
) -> Abandoned:
    seconds = None if cancel else moment
    calls = [asyncio.create_task(_code(channel, request_of(each, method=method), method, seconds)) for each in group]
    await asyncio.sleep(moment - _SCRAPE_SECONDS)
    before = await asyncio.to_thread(server.metric, _COMPUTED)
    if cancel:
        for call in calls:
            call.cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    await _quiet(server)
    left = sum(end in _LEFT or isinstance(end, asyncio.CancelledError) for end in ends)
    return Abandoned(left, await asyncio.to_thread(server.metric, _COMPUTED) - before if left else 0.0)


async def _code(channel: grpc.aio.Channel, request: bytes, method: str, seconds: float | None) -> grpc.StatusCode:
    """Make a call and leave its answers unread."""
    try:
        async for _ in messages(channel, method, request, seconds):
            pass
    except grpc.aio.AioRpcError as fault:
        return fault.code()
    return grpc.StatusCode.OK


async def _quiet(server: Served) -> None:
    """Wait until the server has nothing to answer and nothing to compute."""
    before = -1.0
    while True:
        await asyncio.sleep(_QUIET_SECONDS)
        now = await asyncio.to_thread(server.metric, _COMPUTED)
        if now == before and not await asyncio.to_thread(server.metric, _UNANSWERED):
            return
        before = now
