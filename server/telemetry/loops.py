"""Background loops survive single faults; a loop that keeps failing ends, which `/livez` reports."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from server.telemetry.metrics import Metrics

PAUSE_SECONDS = 0.1  # after a fault, so that a broken loop does not spin
MOST_FAULTS = 10  # in a row; then the loop gives up

log = structlog.get_logger(__name__)


async def repeat(name: str, step: Callable[[], Awaitable[None]], metrics: Metrics) -> None:
    """Run a step again and again until cancelled.

    Raises:
        Exception: that of the last step, after `MOST_FAULTS` faults in a row.
    """
    faults = 0
    while True:
        try:
            await step()
            faults = 0
        except Exception as error:
            report(name, error, metrics)
            faults += 1
            if faults == MOST_FAULTS:
                raise
            await asyncio.sleep(PAUSE_SECONDS)


def report(name: str, error: BaseException, metrics: Metrics) -> None:
    """Log and count a fault of a background loop. The message stays out: it may quote a text."""
    log.error("background fault", loop=name, error=type(error).__qualname__)
    metrics.background_faults.labels(name).inc()
