"""Where everything is put together: settings in, a running server out. Nothing else knows all of the rooms."""

import asyncio
import gc
import math
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from cache import KeyMaker
from encoder.threads import usable_cores
from server.auth.authenticator import Authenticator
from server.auth.clients import ANONYMOUS, Client
from server.config.schema import (
    LimitSettings,
    ServerSettings,
    Settings,
)
from server.front_ends import FrontEnds, Running
from server.health.drain import Drain
from server.health.http import HttpListener as OperatorsListener
from server.health.liveness import Liveness
from server.health.loop_watch import LoopWatch
from server.http.address import bind
from server.inference.cache_view import LayerCache
from server.inference.call import CacheMode, Call, Timings
from server.inference.loading import open_catalogue
from server.inference.models import Catalogue
from server.inference.pipeline import Pipeline
from server.inference.service import Service
from server.inference.storage import open_store, secret
from server.limits import Limiter
from server.rpc.listener import check_listen, credentials_of
from server.scheduling.scheduler import Scheduler
from server.telemetry import logs, loops
from server.telemetry.metrics import Metrics
from server.types import Priority

if TYPE_CHECKING:
    from server.http.token_ids import Decode

WARM_UP_TEXT = f"A sentence that nobody sent.{' ' * 1000}\n" * 20  # over two regions, but few tokens
WARM_UP_CLIENT = Client("~warm-up", "~warm-up")  # settings allow no such name
RESTART_SECONDS = 1.0  # after which a refused caller may find another server in this one's place

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        StartError: what was configured cannot be served; nothing was announced.
    """
    asyncio.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(logs.loop_exception_handler)
    signals: asyncio.Queue[int] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _exit_unserved, number)
    async with running(settings) as server:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signals.put_nowait, number)
        # What was loaded stays: a full collection that walks it blocks the loop for 140 ms, and finds next to nothing.
        gc.freeze()
        gc.enable()
        print("ready", *server.addresses, flush=True)  # the one line that a supervisor waits for
        await signals.get()
        log.info("stopping", grace_seconds=settings.server.stop_grace_seconds)
        stopping = asyncio.create_task(server.stop())
        again = asyncio.create_task(signals.get())
        await asyncio.wait((stopping, again), return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            log.warning("stopping at once")
            stopping.cancel()
            await server.stop_at_once()
        again.cancel()


def _exit_unserved(number: int) -> None:
    """End at once while models load: nobody has called yet, and threads that load or quantise cannot be stopped."""
    log.info("stopped while starting")
    os._exit(128 + number)  # as shells report a signal


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """A server on the running loop. Leaving it stops at once whatever was not stopped before.

    Raises:
        StartError: what was configured cannot be served.
    """
    async with AsyncExitStack() as stack:
        metrics = Metrics(CollectorRegistry())
        drain = Drain(settings.server.drain_delay_seconds + RESTART_SECONDS)
        not_ready = ["starting"]  # why; an empty string when ready
        liveness = Liveness()
        watch = LoopWatch(asyncio.get_running_loop(), metrics.lagged)
        watch.start()
        stack.callback(watch.stop)
        stack.enter_context(liveness.watching("event loop blocked", watch.is_alive))
        if settings.metrics.listen:
            reason = lambda: not_ready[0] or ("stopping" if drain.begun else "")  # noqa: E731
            operators = stack.enter_context(operators_listener(settings.metrics.listen, metrics, liveness, reason))
            log.info("metrics", address=operators.address)
        credentials = credentials_of(settings.server.tls_certificate, settings.server.tls_key)
        check_listen(settings.server.listen)
        http_socket = stack.enter_context(bind(settings.server.http_listen)) if settings.server.http_listen else None
        decode = decoder_of(settings.server)
        authenticator = Authenticator(settings)

        deployment_secret = secret(settings.cache)
        store = await asyncio.to_thread(open_store, settings.cache) if settings.cache.enabled else None
        if store:
            stack.callback(store.close)
            stack.enter_context(liveness.watching("the cache's writer has ended", store.is_alive))
            metrics.register_cache(store)
        catalogue = await asyncio.to_thread(open_catalogue, settings, metrics)
        compute = settings.compute
        threads = compute.threads or usable_cores()
        limiter = Limiter(settings.limits, metrics)
        stack.push_async_callback(limiter.close)
        scheduler = Scheduler(compute.streams or threads, threads, limiter, metrics)
        for model in catalogue:
            scheduler.forecast.speed.observe(model.runner.encoder.max_tokens, model.runner.warm_seconds, threads=1)
        scheduler.start()
        stack.push_async_callback(scheduler.close)
        stack.enter_context(liveness.watching("a stream has ended", scheduler.is_alive))
        layer_cache = LayerCache(KeyMaker(deployment_secret), store, keep_results=settings.cache.results)
        pipeline = Pipeline(
            scheduler,
            layer_cache,
            limiter,
            metrics,
            threads=threads,
            tokenizer_threads=compute.tokenizer_threads,
            in_flight=compute.in_flight_segments,
            verify=settings.cache.verify if store else 0.0,
        )
        stack.push_async_callback(pipeline.close)

        await warm_up(catalogue, layer_cache)
        await pipeline.prepare()
        service = Service(pipeline)
        front = FrontEnds(
            settings,
            catalogue,
            service,
            scheduler,
            limiter,
            metrics,
            drain,
            liveness,
            authenticator,
            deployment_secret,
            decode,
        )
        server = await front.listen(credentials, http_socket)
        stack.push_async_callback(server.stop_at_once)
        await server.ready()
        not_ready[0] = ""
        log.info("ready", addresses=server.addresses, threads=threads)
        stack.callback(not_ready.__setitem__, 0, "stopping")
        yield server


async def warm_up(catalogue: Catalogue, layer_cache: LayerCache) -> None:
    """Send each model a document from end to end: the first caller is not to pay for what is set up on first use.

    Through a pipeline of its own, so that nothing of it is counted or charged.
    """
    uncounted = Metrics(CollectorRegistry())
    limiter = Limiter(LimitSettings(), uncounted)
    scheduler = Scheduler(1, 1, limiter, uncounted)
    pipeline = Pipeline(
        scheduler, layer_cache, limiter, uncounted, threads=1, tokenizer_threads=1, in_flight=1, verify=0.0
    )
    scheduler.start()
    for model in catalogue:
        if model.trunk:
            continue
        call = Call(
            request_id="",
            client=WARM_UP_CLIENT,
            priority=Priority.INTERACTIVE,
            deadline=math.inf,
            model=model,
            named=model,
            cutting=model.cutting,
            frame=model.tokenizer.frame(),
            window=model.window,
            cache_mode=CacheMode.READ_ONLY,
            tasks=(model.embed_task(),),
            fingerprint="",
        )
        async with aclosing(Service(pipeline).stream([call], WARM_UP_TEXT, Timings())) as results:
            async for _ in results:
                pass
        layer_cache.prepare(model, ANONYMOUS.tenant)
    await pipeline.close()
    await scheduler.close()


def operators_listener(
    listen: str, metrics: Metrics, liveness: Liveness, not_ready: Callable[[], str]
) -> OperatorsListener:
    """The listener of `/metrics`, `/livez` and `/readyz`."""
    return OperatorsListener(
        listen,
        metrics.registry,
        not_live=lambda: liveness.fault,
        not_ready=not_ready,
        report=lambda error: loops.report("http", error, metrics),
    )


def decoder_of(settings: ServerSettings) -> "Decode | None":
    """What reads token ids of OpenAI's clients, if the server has to.

    Raises:
        StartError: it cannot be had.
    """
    if not (settings.http_listen and settings.http_token_ids):
        return None
    from server.http.token_ids import decoder  # noqa: PLC0415 - for those who serve HTTP

    return decoder(settings.http_token_ids)
