"""Recomputes a sample of cached results and counts those that differ."""

import asyncio
import random
import time

import numpy as np
import structlog

from cache import Key
from chunking import Segment
from server.auth.clients import Client
from server.errors import CallError
from server.inference.cache_view import Parts
from server.inference.call import Call
from server.scheduling.scheduler import Scheduler
from server.telemetry import loops
from server.telemetry.metrics import Metrics
from server.types import Priority, Work

VERIFIER = Client("~verifier", "~verifier")  # charged to no caller; settings allow no such name
AUDIT_SECONDS = 60.0  # after which a sample is dropped

log = structlog.get_logger(__name__)


class Verifier:
    """Recomputes a share of cached results at bulk priority, one at a time, after the reply."""

    def __init__(self, scheduler: Scheduler, metrics: Metrics, share: float) -> None:
        self._scheduler = scheduler
        self._metrics = metrics
        self._share = share
        self._audit: asyncio.Task[None] | None = None

    def consider(self, call: Call, segment: Segment, key: Key, parts: Parts) -> None:
        """Check this result if it is sampled; does not wait."""
        if random.random() >= self._share or (self._audit and not self._audit.done()):  # noqa: S311 - a sample
            return
        self._audit = asyncio.create_task(self._audit_safely(call, segment, key, parts))

    async def close(self) -> None:
        """Cancel the running check."""
        if self._audit:
            self._audit.cancel()
            await asyncio.gather(self._audit, return_exceptions=True)

    async def _audit_safely(self, call: Call, segment: Segment, key: Key, parts: Parts) -> None:
        """Report a check that fails; the next sample is checked as usual."""
        try:
            await self._check(call, segment, key, parts)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task
            loops.report("verifier", error, self._metrics)

    async def _check(self, call: Call, segment: Segment, key: Key, parts: Parts) -> None:
        runner = call.model.runner
        work = Work(
            bytes(key),
            runner,
            segment.ids,
            call.window,
            start=0,
            state=None,
            cuts=(runner.layers,),
            heads=tuple(parts),
            second=segment.second,
        )
        deadline = time.monotonic() + AUDIT_SECONDS
        try:
            computed = await self._scheduler.submit(work, VERIFIER, Priority.BULK, deadline)
        except CallError:
            return
        agrees = all(np.array_equal(part, computed.parts[head]) for head, part in parts.items())
        self._metrics.cache_verified.labels("agrees" if agrees else "disagrees").inc()
        if not agrees:
            log.error("a cached answer disagrees with its recomputation", model=call.model.name)
