"""How the server is reached: one gate and one service behind gRPC and HTTP."""

import asyncio
import socket
import ssl
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from octavo.v1 import inference_pb2, models_pb2
from server.auth.authenticator import Authenticator
from server.config.schema import ServerSettings, Settings
from server.health.drain import Drain
from server.health.liveness import Liveness
from server.inference.models import Catalogue
from server.inference.service import Service
from server.kserve import messages
from server.kserve.servicer import KServeServicer
from server.limits import Admission, Gate, Limiter
from server.rpc.call_gate import CallGate
from server.rpc.interceptor import Outermost
from server.rpc.listener import Listener
from server.scheduling.scheduler import Scheduler
from server.telemetry.metrics import Metrics
from server.v1.inference import InferenceServicer
from server.v1.models import ModelServicer
from server.v1.requests import Limits

if TYPE_CHECKING:
    import grpc

    from server.http.listener import HttpListener
    from server.http.token_ids import Decode

TEXT_BYTES = 1536  # of a reply over HTTP, for each text beside its vector
BODY_BYTES = 1 << 20  # of a request over HTTP beside its texts


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
    decode: "Decode | None"

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
        octavo = Octavo(wide, self.service, self.catalogue, bounds, self.decode)
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
