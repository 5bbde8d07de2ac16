"""A fleet's front, put together: settings and replicas in, a running listener out."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from server.app import RESTART_SECONDS, operators_listener
from server.auth.authenticator import Authenticator
from server.config.schema import LimitSettings, Settings
from server.fleet.proxy import Proxy
from server.fleet.replicas import Replicas
from server.fleet.upstream import Relayed
from server.front_ends import limits_of
from server.health.drain import Drain
from server.health.liveness import Liveness
from server.limits import Admission, Gate, Limiter
from server.rpc.call_gate import CallGate
from server.rpc.interceptor import Outermost
from server.rpc.listener import Listener, check_listen, credentials_of
from server.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class Front:
    """A fleet's listener, on these addresses."""

    addresses: list[str]
    metrics: Metrics
    _replicas: Replicas
    _listener: Listener
    _drain: Drain

    async def update(self, found: Iterable[tuple[str, str]]) -> None:
        """Set the fleet's replicas: names with addresses."""
        self._replicas.update(found)
        if not self._drain.begun:
            await self._listener.tell(serving=len(self._replicas) > 0)

    async def stop(self, delay_seconds: float, grace_seconds: float) -> None:
        """Refuse new calls for a while, so that balancers notice, then give those that run some time."""
        self._drain.begin()
        await self._listener.refuse()
        await asyncio.sleep(delay_seconds)
        await self._listener.stop(grace_seconds)


@asynccontextmanager
async def fronting(settings: Settings, replicas: int) -> AsyncIterator[Front]:
    """A fleet's front on the running loop, without replicas yet, for as many as `replicas`.

    Callers, keys and bounds are checked here as a server does, before a request is read. A client's calls per second
    and calls at a time are counted here too, for the whole fleet.

    Raises:
        StartError: what was configured cannot be served.
    """
    async with AsyncExitStack() as stack:
        metrics, drain = Metrics(CollectorRegistry()), Drain(RESTART_SECONDS)
        server, limits = settings.server, _limits(settings.limits, replicas)
        limiter = Limiter(limits, metrics)
        stack.push_async_callback(limiter.close)
        admission = Admission(limiter, limits, metrics)
        gate = Gate(Authenticator(settings), admission, drain, server.default_deadline_seconds)
        known = Replicas(server.default_deadline_seconds)
        stack.push_async_callback(known.close)
        if settings.metrics.listen:
            reason = lambda: "stopping" if drain.begun else "" if len(known) else "no replica"  # noqa: E731
            stack.enter_context(operators_listener(settings.metrics.listen, metrics, Liveness(), reason))
        outermost = Outermost(metrics, CallGate(gate, admission), Relayed)
        listener = Listener(limits_of(settings), server.max_connection_age_seconds, outermost)
        listener.pass_on(Proxy(known))
        check_listen(server.listen)
        addresses = await listener.bind(server.listen, credentials_of(server.tls_certificate, server.tls_key))
        front = Front(addresses, metrics, known, listener, drain)
        stack.push_async_callback(front.stop, 0, 0)
        yield front


def _limits(settings: LimitSettings, replicas: int) -> LimitSettings:
    """A server's limits for so many; counted here alone, since replicas charge what they share through Redis."""
    return settings.model_copy(
        update={
            "storage": SecretStr("memory"),
            "max_concurrent": settings.max_concurrent * replicas,
            "max_bulk_streams": settings.max_bulk_streams * replicas,
            "max_bytes_in_flight": settings.max_bytes_in_flight * replicas,
        }
    )
