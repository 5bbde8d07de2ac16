"""The gRPC server: services, health, reflection, addresses."""

import asyncio
import ssl
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from octavo.v1 import inference_pb2, inference_pb2_grpc, models_pb2, models_pb2_grpc
from server.errors import StartError, words_of
from server.rpc.addresses import check_free
from server.rpc.call_gate import GrpcContext
from server.rpc.interceptor import Outermost
from server.v1.inference import InferenceServicer
from server.v1.models import ModelServicer
from server.v1.requests import Limits

MIB = 1 << 20
UNASKED_BYTES = 1 << 17  # over a round trip of 50 ms a stream of documents still sends 2.4 MB/s
KEEPALIVE_MS = 60_000  # of silence, after which the peer is asked whether it lives
SERVICES = (
    *(
        file.services_by_name[name].full_name
        for file, name in ((inference_pb2.DESCRIPTOR, "InferenceService"), (models_pb2.DESCRIPTOR, "ModelService"))
    ),
    "inference.GRPCInferenceService",
)


class Listener:
    """A gRPC server on its addresses. Not serving, by its health, until `ready` is called."""

    def __init__(self, limits: Limits, max_connection_age_seconds: float, outermost: Outermost) -> None:
        self._server = grpc.aio.server(
            interceptors=[outermost],
            options=[
                ("grpc.so_reuseport", 0),  # two servers that share a port by mistake must hear of it
                # so that our own limit, which says what is wrong, comes first
                ("grpc.max_receive_message_length", limits.max_document_bytes + MIB),
                ("grpc.max_send_message_length", limits.max_reply_bytes + MIB),
                # Connections are closed now and then, gRPC adding a tenth of jitter, so that balancers can balance.
                ("grpc.max_connection_age_ms", _milliseconds(max_connection_age_seconds)),
                ("grpc.max_connection_age_grace_ms", _milliseconds(limits.default_deadline_seconds)),
                # What gRPC takes of a call before anyone asks for it. By default that grows with a connection's speed:
                # 200 incomplete requests then hold 144 to 193 MB, not 69 to 77.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", UNASKED_BYTES),
                ("grpc.keepalive_time_ms", KEEPALIVE_MS),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 4),
            ],
        )
        self._ports = outermost.ports
        self._health = _Health()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    def answer(
        self, inference: InferenceServicer, models: ModelServicer, kserve: grpc.GenericRpcHandler, pool: DescriptorPool
    ) -> None:
        """Serve `SERVICES` and reflection, before `bind`.

        Args:
            inference: octavo.v1's InferenceService.
            models: octavo.v1's ModelService.
            kserve: the methods of KServe v2.
            pool: the descriptors of KServe's messages.
        """
        inference_pb2_grpc.add_InferenceServiceServicer_to_server(inference, self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(models, self._server)
        self.pass_on(kserve)
        pools: Any = _Pools(descriptor_pool.Default(), pool)
        names = (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, pools)

    def pass_on(self, handler: grpc.GenericRpcHandler) -> None:
        """Give calls of other methods to a handler, before `bind`."""
        self._server.add_generic_rpc_handlers((handler,))

    async def bind(self, addresses: Sequence[str], credentials: grpc.ServerCredentials | None = None) -> list[str]:
        """Listen; the addresses as bound, with the ports that were taken for 0.

        With credentials all of them but unix sockets are encrypted.

        Raises:
            StartError: an address cannot be had.
        """
        await self.tell(serving=False)
        bound = []
        for address in addresses:
            check_listen([address])  # gRPC would take a socket's path from a server that listens on it
            try:
                if credentials and not address.startswith("unix:"):
                    port = self._server.add_secure_port(address, credentials)
                else:
                    port = self._server.add_insecure_port(address)
            except RuntimeError:
                raise StartError(f"cannot listen on {address}") from None
            if address.startswith("unix:"):
                bound.append(address)
            else:
                bound.append(f"{address.rpartition(':')[0]}:{port}")
                self._ports.add(port)
        await self._server.start()
        return bound

    async def tell(self, *, serving: bool) -> None:
        """Tell health whether calls are welcome."""
        answer = health_pb2.HealthCheckResponse
        for service in ("", *SERVICES):
            await self._health.set(service, answer.SERVING if serving else answer.NOT_SERVING)

    async def ready(self) -> None:
        """Tell health that calls are welcome."""
        await self.tell(serving=True)

    async def refuse(self) -> None:
        """Tell health that calls are not welcome any more."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Close the ports, let the calls that are running end within `grace` seconds, and stop."""
        await self.refuse()
        self._health.end_watches()
        await self._server.stop(grace)


class _Pools:
    """Descriptor pools as one: reflection looks in each."""

    def __init__(self, *pools: DescriptorPool) -> None:
        self._pools = pools

    def __getattr__(self, find: str) -> Callable[..., Any]:
        """A method of pools that finds something by its name."""

        def first(*arguments: Any) -> Any:
            for pool in self._pools[:-1]:
                with suppress(KeyError):
                    return getattr(pool, find)(*arguments)
            return getattr(self._pools[-1], find)(*arguments)

        return first


class _Health(health.aio.HealthServicer):
    """Health whose watchers are let go at the end: a stop would wait for them as for calls, all of its grace."""

    def __init__(self) -> None:
        super().__init__()
        self._over = asyncio.Event()

    def end_watches(self) -> None:
        """Let go of all who watch."""
        self._over.set()

    async def List(self, request: Any, context: GrpcContext) -> Any:  # noqa: N802 - the contract's
        """Tell the state of all services; gRPC's own servicer lacks this method."""
        del request
        messages: Any = health_pb2  # whose type stubs are older than this method
        check = health_pb2.HealthCheckRequest
        statuses = {name: await self.Check(check(service=name), context) for name in ("", *SERVICES)}
        return messages.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: GrpcContext) -> None:  # noqa: N802 - the contract's
        """Tell of each change until the client leaves or the server stops."""
        watching = asyncio.ensure_future(super().Watch(request, context))
        over = asyncio.ensure_future(self._over.wait())
        try:
            await asyncio.wait((watching, over), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                await watching  # its fault is the call's, so that the client watches anew
        finally:
            watching.cancel()
            over.cancel()


def _milliseconds(seconds: float) -> int:
    return min(round(1000 * seconds), (1 << 31) - 1)  # gRPC's int32


def check_listen(addresses: Iterable[str]) -> None:
    """Check that all of them can be had.

    Raises:
        StartError: one cannot; the message has the system's words.
    """
    for address in addresses:
        try:
            check_free(address)
        except (OSError, UnicodeError) as error:
            raise StartError(f"cannot listen on {address}: {words_of(error)}; see server.listen") from None


def credentials_of(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    """TLS for a certificate chain and its key in PEM; None where there are none.

    Raises:
        StartError: a file cannot be read, or they do not go together.
    """
    if certificate is None or key is None:
        return None
    try:
        chain = (_read("tls_certificate", certificate), _read("tls_key", key))
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        why = "not in PEM" if error.reason is None else error.reason.replace("_", " ").lower()
        raise StartError(
            f"server.tls_certificate and server.tls_key: {certificate} and {key} are no certificate and its key: {why}"
        ) from None
    return grpc.ssl_server_credentials([chain[::-1]])


def _read(setting: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise StartError(f"server.{setting}: {file}: {error.strerror or error}") from None


def _no_password() -> str:
    """Answer for the terminal, which OpenSSL would ask for a key's password."""
    raise StartError("server.tls_key is encrypted; the server cannot ask for its password")
