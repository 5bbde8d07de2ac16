"""How much the machine has been promised, and when it will be done with it: early refusals come from here.

A call that would miss its deadline in the queue is told so at once, with the time to come back, before it costs
anything: under overload the machine then works for calls that will be answered in time.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from server.auth.clients import Client
from server.errors import QueueFull
from server.scheduling.demand import Demand
from server.scheduling.habits import Habits
from server.scheduling.speed import Speed
from server.types import BULK_SHARE, Priority

CAUTION = 1.15  # an estimate that is missed costs a whole document, one that is too careful a refusal


class Reservation:
    """What one call was promised and has not got yet, in tokens to compute."""

    def __init__(self, backlog: "Backlog", client: Client, priority: Priority) -> None:
        self._backlog = backlog
        self._client = client
        self._priority = priority
        self._promised = 0  # of segments that were not begun
        self._open = 0  # promised or begun
        self._due: float | None = None  # the promise's deadline, until the turn of its first segment
        self._characters = 0  # of the texts that were foreseen

    @property
    def waiting(self) -> int:
        """Tokens that all of the client's calls were promised and have not got yet."""
        return self._backlog.waiting(self._client)

    def foresee(self, characters: int, deadline: float) -> None:
        """Refuse a call before its texts are read, if they will be refused when they were: by the client's last ones.

        Raises:
            QueueFull: they would not be done by the deadline.
        """
        self._characters = characters
        tokens = self._backlog.habits.least(self._client.name, characters)
        try:
            self._backlog.check(self._client, self._priority, tokens, deadline)
        except QueueFull:
            if not self._backlog.habits.read_anyway(self._client.name):
                self._ask(tokens)
                raise

    def promise(self, tokens: int, deadline: float) -> None:
        """Take on work that is known beforehand.

        Raises:
            QueueFull: it would not be done by the deadline.
        """
        self._backlog.habits.learn(self._client.name, self._characters, tokens)
        self._ask(tokens)
        self._backlog.check(self._client, self._priority, tokens, deadline)
        self._promised += tokens
        self._due = deadline
        self._grow(tokens)

    def begin(self, tokens: int) -> None:
        """A segment goes to the queue, be it one that was promised or another."""
        if self._promised >= tokens:
            self._promised -= tokens
        else:
            self._ask(tokens)
            self._grow(tokens)

    def reconsider(self) -> None:
        """Refuse the call after all, now that its first segment's turn has come, if that is too late for the rest.

        Others who come and ask for their share break promises. One that cannot be kept any more is told before
        anything is computed for it, and leaves the machine to those that can.

        Raises:
            QueueFull: the promise would not be kept.
        """
        if self._due is not None:
            self._backlog.check_turn(self._client, self._priority, self._open, self._due)
            self._due = None

    def settle(self, tokens: int) -> None:
        """A segment that was begun is computed, or will not be."""
        self._grow(-min(tokens, self._open))

    def close(self) -> None:
        """Nothing more will be computed for this call."""
        self._grow(-self._open)

    def _ask(self, tokens: int) -> None:
        """Count what the client would like, whether or not it can be promised."""
        self._backlog.demand[self._priority].ask(self._client, tokens)

    def _grow(self, tokens: int) -> None:
        self._open += tokens
        self._backlog.change(self._client, self._priority, tokens)


class Backlog:
    """The sum of all claims, and when the machine will have worked them off.

    Attributes:
        speed: the machine's.
        habits: what clients' texts come to.
        demand: what clients ask for, in each class.
    """

    def __init__(self, threads: int) -> None:
        self.speed = Speed(threads)
        self.habits = Habits()
        self.demand = {priority: Demand() for priority in Priority}
        self._tokens = {priority: Counter[str]() for priority in Priority}  # by client; no client without tokens
        self._weights: dict[str, float] = {}

    @contextmanager
    def reserve(self, client: Client, priority: Priority) -> Iterator[Reservation]:
        """Keep a call's reservation while it lasts."""
        reservation = Reservation(self, client, priority)
        try:
            yield reservation
        finally:
            reservation.close()

    def waiting(self, client: Client) -> int:
        """Tokens that a client was promised and has not got yet."""
        return sum(waiting[client.name] for waiting in self._tokens.values())

    def check(self, client: Client, priority: Priority, tokens: int, deadline: float) -> None:
        """Refuse a call that cannot be computed by its deadline, after what its client has waiting already.

        Raises:
            QueueFull: it would have to wait too long; says when the queue will be short enough.
        """
        if tokens:
            self.check_turn(client, priority, self._tokens[priority][client.name] + tokens, deadline)

    def check_turn(self, client: Client, priority: Priority, tokens: int, deadline: float) -> None:
        """Refuse a call whose turn has come, but too late.

        Raises:
            QueueFull: its tokens would not be computed by its deadline.
        """
        left = deadline - time.monotonic()
        seconds = self.seconds_until_done(client, priority, tokens)
        if seconds > left:
            raise QueueFull(
                f"the machine has about {seconds:.1f} s of work until this call is done, which has {left:.1f} s left",
                retry_after=max(0.05, seconds - left),
            )

    def seconds_until_done(self, client: Client, priority: Priority, own: int) -> float:
        """About how long until so many tokens of a client will be computed.

        Bulk waits for what is interactive, but for its share, and whoever wants more than his share for those who do
        not. Beside that, the client's work goes at the rate that the others leave, as they have asked of late; and not
        before what they have waiting now, of each at most as much as his own.
        """
        speed = self.speed.tokens_a_second
        if not speed:
            return 0.0
        outlook = self.demand[priority].outlook(client, speed)
        waiting, weight = self._tokens[priority], client.plan.weight
        others = sum(
            min(theirs, own * self._weights[name] / weight)
            for name, theirs in waiting.items()
            if name != client.name and name not in outlook.behind
        )
        if priority is Priority.BULK:
            before = min(self._tokens[Priority.INTERACTIVE].total(), (own + others) / BULK_SHARE)
        else:
            before = min(self._tokens[Priority.BULK].total(), (own + others) * BULK_SHARE)
        return CAUTION * (before / speed + max((own + others) / speed, own / outlook.rate))

    def is_modest(self, client: Client, priority: Priority) -> bool:
        """Whether a client asks for no more than its share of the machine, if there is more than one."""
        speed = self.speed.tokens_a_second
        return not speed or self.demand[priority].outlook(client, speed).modest

    def change(self, client: Client, priority: Priority, tokens: int) -> None:
        """Add to a client's share of the backlog, or take from it."""
        waiting = self._tokens[priority]
        waiting[client.name] += tokens
        self._weights[client.name] = client.plan.weight
        if not waiting[client.name]:
            del waiting[client.name]
            if not any(client.name in tokens for tokens in self._tokens.values()):
                del self._weights[client.name]
