"""Who calls, and whether there is room for the call: settled before its request is read, however it comes in."""

import math
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from server.auth.authenticator import Authenticator, Caller
from server.auth.clients import Client
from server.errors import DeadlineExceeded
from server.health.drain import Drain
from server.limits.admission import Admission, Slot


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a call has beside its messages.

    Attributes:
        request_id: 32 hexadecimal digits, also in the server's log.
        deadline: of the monotonic clock, in seconds: the caller's, else the server's default. A stream of requests
            whose caller set none has no end, but may not stall.
    """

    request_id: str
    client: Client
    deadline: float
    slot: Slot


class Gate:
    """Authenticates and admits calls.

    Attributes:
        default_deadline: seconds that a call has whose caller set no deadline, and the longest that a peer may stall.
    """

    def __init__(
        self, authenticator: Authenticator, admission: Admission, drain: Drain, default_deadline_seconds: float
    ) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._drain = drain
        self.default_deadline = default_deadline_seconds

    @property
    def is_draining(self) -> bool:
        """Whether the server is stopping."""
        return self._drain.begun

    def identify(self, caller: Caller) -> Client:
        """Tell who calls, by what the connection shows.

        Raises:
            Draining, Unauthenticated: the caller is not let in.
        """
        self._drain.check()
        client = self._authenticator.identify(caller)
        structlog.contextvars.bind_contextvars(client=client.name)  # until the task ends: for its last log line too
        return client

    @asynccontextmanager
    async def enter(
        self, client: Client, time_left: float | None, request_id: str, *, streams_requests: bool = False
    ) -> AsyncGenerator[Context, None]:
        """Let a call in, and hold its place while it is answered.

        Args:
            client: who calls.
            time_left: seconds until the caller's deadline; None if it set none.
            request_id: the call's.
            streams_requests: whether any number of requests follow.

        Raises:
            RateLimited, QueueFull, DeadlineExceeded: the call is not let in.
        """
        if time_left is not None and time_left <= 0:
            raise DeadlineExceeded("the deadline had passed when the call arrived")
        default = math.inf if streams_requests else self.default_deadline
        deadline = time.monotonic() + (default if time_left is None else time_left)
        async with self._admission.enter(client, streams_requests=streams_requests) as slot:
            yield Context(request_id, client, deadline, slot)
