"""The replicas that a fleet knows: which are there, which have just failed, and a channel to each."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import grpc

from server.fleet.router import Router

LOST_SECONDS: Final = 1.0  # in which a replica that failed or stops gets no calls, unless it comes back elsewhere
CONNECT_SECONDS: Final = 3.0
KEEPALIVE_MS: Final = 20_000  # of silence, after which a replica is asked whether it lives

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),  # replicas bound requests and replies
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS // 4),
    ("grpc.enable_retries", 0),  # ours know the other replicas
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(frozen=True, slots=True)
class Replica:
    """A server of the fleet. Its name stays when it is started again at another address."""

    name: str
    address: str
    channel: grpc.aio.Channel


class Replicas:
    """Chooses a replica for each document. Belongs to one event loop.

    Args:
        grace_seconds: in which calls to a replica that left may end.
        clock: monotonic, in seconds.
    """

    def __init__(self, grace_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._grace = grace_seconds
        self._clock = clock
        self._known: dict[str, Replica] = {}
        self._lost: dict[str, float] = {}  # addresses, and until when
        self._router: Router | None = None
        self._routed: set[str] = set()  # names that the router has
        self._arrived = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many replicas take calls now."""
        return len(self._usable())

    def update(self, found: Iterable[tuple[str, str]]) -> None:
        """Set the fleet's replicas: names with addresses. Of two with the same name, one goes by its address."""
        addresses: dict[str, str] = {}
        for name, address in sorted(found):
            addresses[address if name in addresses else name] = address
        for name, replica in list(self._known.items()):
            if addresses.get(name) != replica.address:
                self._leave(self._known.pop(name))
        for name, address in addresses.items():
            if name not in self._known:
                channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
                self._known[name] = Replica(name, address, channel)
                self._arrived.set()

    async def choose(self, key: int, tokens: float) -> Replica:
        """A replica for a document of about so many tokens, which is connected; waits until there is one."""
        while True:
            replica = await self._route(key, tokens)
            if await _connects(replica.channel):
                return replica
            self.lose(replica)
            self.settle(replica, tokens, 0)

    def settle(self, replica: Replica, tokens: float, charged: float) -> None:
        """Correct a replica's load by what a document cost."""
        if self._router:
            self._router.settle(replica.name, tokens, charged)

    def lose(self, replica: Replica) -> None:
        """Send nothing to a replica for a moment: it failed, or is stopping."""
        self._lost[replica.address] = self._clock() + LOST_SECONDS

    async def close(self) -> None:
        """Cancel all calls."""
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*(replica.channel.close() for replica in self._known.values()))

    async def _route(self, key: int, tokens: float) -> Replica:
        while not (usable := self._usable()):
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOST_SECONDS / 4):
                    await self._arrived.wait()
        if self._router is None:
            self._router = Router(usable)
        elif self._routed != usable.keys():
            self._router.replace(usable)
        self._routed = set(usable)
        return usable[self._router.route(key, tokens)]

    def _usable(self) -> dict[str, Replica]:
        now = self._clock()
        self._lost = {address: until for address, until in self._lost.items() if until > now}
        return {name: replica for name, replica in self._known.items() if replica.address not in self._lost}

    def _leave(self, replica: Replica) -> None:
        task = asyncio.create_task(replica.channel.close(self._grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Whether a channel is connected, or soon is."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
                    return False
                await channel.wait_for_state_change(state)
            return True
    return False
