"""When the machine will be done with the work it accepted; early refusals come from here.

A call that would miss its deadline in the queue is refused at once, with a time to come back, before it costs
anything. Under overload the machine then works only on calls that will be answered in time.

`Speed` is what the machine does, `Demand` what clients ask of it, `TokenEstimate` what a text will cost before it is
read, and `Reservation` what one call was accepted for. `Forecast` puts them together.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.auth.clients import Client
from server.errors import QueueFull
from server.types import BULK_SHARE, Priority

SAFETY = 1.15  # underestimating wastes a whole document, overestimating only refuses one
LEAST_RETRY_SECONDS = 0.05

SPEED_MEMORY_SECONDS = 5.0  # of computing; older runs have faded to a third

DEMAND_MEMORY_SECONDS = 6.0
"""Requests of this age count a third.

With 2 seconds, two long documents of a polite client looked like a flood: 3 in 100 such calls were refused at 60 % of
the capacity, 13 beside a flood; with 6, none. A flood of five times the capacity is seen within a second either way,
and forgotten after about twenty.
"""

LEAST_DEMAND = 1.0  # tokens a second; clients that ask for less are forgotten

ESTIMATE_CALLS = 16  # texts of a client to remember; with fewer, nothing is estimated
SAMPLE_SECONDS = 1.0
"""A client's text that the estimate would refuse is read anyway so often, to notice a change.

Not one in so many: of a flood of 80 calls a second nine were read, which took 0.03 of a core (Zen 5).
"""


class Speed:
    """Tokens a second of all threads together, over recent runs of layers."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._tokens = 0.0
        self._seconds = 0.0  # of threads

    def observe(self, tokens: int, seconds: float, threads: int) -> None:
        """Learn from a run of layers, heads not included."""
        if seconds <= 0:
            return
        fade = math.exp(-seconds * threads / SPEED_MEMORY_SECONDS)
        self._tokens = fade * self._tokens + tokens
        self._seconds = fade * self._seconds + seconds * threads

    @property
    def tokens_a_second(self) -> float:
        """0.0 while unknown."""
        return self._tokens * self._threads / self._seconds if self._seconds else 0.0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a client can expect.

    Attributes:
        within_share: whether it asks for no more than its share; such clients go first.
        rate: tokens a second that it gets.
        behind: clients that go after it.
    """

    within_share: bool
    rate: float
    behind: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Asked:
    tokens: float
    at: float
    weight: float


class Demand:
    """Tokens a second that each client asks for, granted or refused; older requests fade."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}

    def ask(self, client: Client, tokens: int) -> None:
        """Count a request."""
        now = time.monotonic()
        asked = self._rate(client.name, now) * DEMAND_MEMORY_SECONDS
        self._asked[client.name] = _Asked(asked + tokens, now, client.plan.weight)

    def outlook(self, client: Client, speed: float) -> Outlook:
        """The part of a machine's speed that a client gets while the others go on as they do.

        A client that asks for less than its weighted share gets what it asks for; the others share the rest (max-min
        fairness; Bertsekas and Gallager, Data Networks, 1992). The queue's present content says too little: a client
        with an empty queue may return at any time and then goes before those that received more service.
        """
        now = time.monotonic()
        rates = {name: self._rate(name, now) for name in self._asked}
        for name, rate in rates.items():
            if rate < LEAST_DEMAND:
                del self._asked[name]
        others = [(name, rates[name], asked.weight) for name, asked in self._asked.items() if name != client.name]
        others.sort(key=lambda other: other[1] / other[2])
        left, weights = speed, client.plan.weight + sum(weight for *_, weight in others)
        satisfied = 0
        for _, rate, weight in others:
            if rate * weights >= left * weight:
                break
            left -= rate
            weights -= weight
            satisfied += 1
        fair = left * client.plan.weight / weights
        if rates.get(client.name, 0.0) > fair:
            return Outlook(within_share=False, rate=fair, behind=frozenset())
        return Outlook(within_share=True, rate=left, behind=frozenset(name for name, *_ in others[satisfied:]))

    def _rate(self, name: str, now: float) -> float:
        if (asked := self._asked.get(name)) is None:
            return 0.0
        return asked.tokens * math.exp((asked.at - now) / DEMAND_MEMORY_SECONDS) / DEMAND_MEMORY_SECONDS


class TokenEstimate:
    """How many tokens a client's text will cost at least, by its recent ones, so that it can be refused unread.

    Reading costs a twentieth of computing: at five times the capacity, a quarter of the machine would go into reading
    texts that are then refused.
    """

    def __init__(self) -> None:
        self._ratios: dict[str, deque[float]] = {}  # tokens per character
        self._sampled: dict[str, float] = {}  # when, by client

    def learn(self, name: str, characters: int, tokens: int) -> None:
        """Remember a text that was read and looked up."""
        if characters:
            self._ratios.setdefault(name, deque(maxlen=ESTIMATE_CALLS)).append(tokens / characters)

    def least(self, name: str, characters: int) -> int:
        """Tokens to compute for a text at least, if it is like the client's recent ones.

        0 for a client with a recent text that the cache knew.
        """
        ratios = self._ratios.get(name, ())
        return int(min(ratios) * characters) if len(ratios) == ESTIMATE_CALLS else 0

    def is_sample(self, name: str) -> bool:
        """Whether a text that the estimate would refuse is read anyway."""
        now = time.monotonic()
        if now - self._sampled.get(name, -math.inf) < SAMPLE_SECONDS:
            return False
        self._sampled[name] = now
        return True


class Reservation:
    """What one call was accepted for and has not received yet, in tokens to compute."""

    def __init__(self, forecast: "Forecast", client: Client, priority: Priority) -> None:
        self._forecast = forecast
        self._client = client
        self._priority = priority
        self._promised = 0  # of segments that were not begun
        self._open = 0  # promised or begun
        self._due: float | None = None  # the deadline, until the first segment's turn
        self._characters = 0  # of the texts that were announced

    @property
    def waiting(self) -> int:
        """Tokens reserved by all of the client's calls."""
        return self._forecast.waiting(self._client)

    def foresee(self, characters: int, deadline: float) -> None:
        """Refuse a call before its texts are read if the token estimate says that it would be refused after.

        Raises:
            QueueFull: the texts would not be computed by the deadline.
        """
        self._characters = characters
        tokens = self._forecast.estimate.least(self._client.name, characters)
        try:
            self._forecast.check(self._client, self._priority, tokens, deadline)
        except QueueFull:
            if not self._forecast.estimate.is_sample(self._client.name):
                self._ask(tokens)
                raise

    def promise(self, tokens: int, deadline: float) -> None:
        """Accept work that is known beforehand.

        Raises:
            QueueFull: it would not be computed by the deadline.
        """
        self._forecast.estimate.learn(self._client.name, self._characters, tokens)
        self._ask(tokens)
        self._forecast.check(self._client, self._priority, tokens, deadline)
        self._promised += tokens
        self._due = deadline
        self._grow(tokens)

    def begin(self, tokens: int) -> None:
        """A segment goes to the queue, promised before or not."""
        if self._promised >= tokens:
            self._promised -= tokens
        else:
            self._ask(tokens)
            self._grow(tokens)

    def reconsider(self) -> None:
        """When the first segment's turn comes: refuse the call if that is too late for the rest.

        Clients that arrive later and ask for their share can break promises. A call whose promise is broken is refused
        before anything is computed for it, and leaves the machine to the others.

        Raises:
            QueueFull: the promise would not be kept.
        """
        if self._due is not None:
            self._forecast.check_turn(self._client, self._priority, self._open, self._due)
            self._due = None

    def settle(self, tokens: int) -> None:
        """A segment that was begun is computed, or will not be."""
        self._grow(-min(tokens, self._open))

    def close(self) -> None:
        """Nothing more will be computed for this call."""
        self._grow(-self._open)

    def _ask(self, tokens: int) -> None:
        """Count what the client asks for, granted or not."""
        self._forecast.demand[self._priority].ask(self._client, tokens)

    def _grow(self, tokens: int) -> None:
        self._open += tokens
        self._forecast.change(self._client, self._priority, tokens)


class Forecast:
    """The sum of all reservations, and when the machine will have computed them.

    Attributes:
        speed: the machine's.
        estimate: of tokens in texts that were not read yet.
        demand: what clients ask for, in each class.
    """

    def __init__(self, threads: int) -> None:
        self.speed = Speed(threads)
        self.estimate = TokenEstimate()
        self.demand = {priority: Demand() for priority in Priority}
        self._tokens = {priority: Counter[str]() for priority in Priority}  # by client, without zeros
        self._weights: dict[str, float] = {}

    @contextmanager
    def reserve(self, client: Client, priority: Priority) -> Iterator[Reservation]:
        """Hold a call's reservation while it lasts."""
        reservation = Reservation(self, client, priority)
        try:
            yield reservation
        finally:
            reservation.close()

    def waiting(self, client: Client) -> int:
        """Tokens that a client has reserved."""
        return sum(waiting[client.name] for waiting in self._tokens.values())

    def check(self, client: Client, priority: Priority, tokens: int, deadline: float) -> None:
        """Refuse a call that cannot be computed by its deadline, after what its client has reserved already.

        Raises:
            QueueFull: it would have to wait too long; says when the queue will be short enough, unless the call would
                take too long alone.
        """
        left = deadline - time.monotonic()
        alone = SAFETY * tokens / self.speed.tokens_a_second if self.speed.tokens_a_second else 0.0
        if alone > left:
            raise QueueFull(
                f"the call needs about {alone:.1f} s of the machine, and its deadline leaves {max(0.0, left):.1f} s: "
                "allow it more time, or send less at once",
                retry_after=None,
            )
        if tokens:
            self.check_turn(client, priority, self._tokens[priority][client.name] + tokens, deadline)

    def check_turn(self, client: Client, priority: Priority, tokens: int, deadline: float) -> None:
        """Refuse a call whose turn comes too late.

        Raises:
            QueueFull: its tokens would not be computed by its deadline.
        """
        left = deadline - time.monotonic()
        seconds = self.seconds_until_done(client, priority, tokens)
        if seconds > left:
            raise QueueFull(
                f"the machine has about {seconds:.1f} s of work until this call is done, which has {left:.1f} s left",
                retry_after=max(LEAST_RETRY_SECONDS, seconds - left),
            )

    def seconds_until_done(self, client: Client, priority: Priority, own: int) -> float:
        """About how long until so many tokens of a client are computed.

        Bulk waits for interactive work except for its share, and clients above their share wait for those within.
        Besides that, the client's work proceeds at the rate that the others' recent demand leaves, and not before what
        they have reserved now, counting for each at most as much as its own.
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
        return SAFETY * (before / speed + max((own + others) / speed, own / outlook.rate))

    def within_share(self, client: Client, priority: Priority) -> bool:
        """Whether a client asks for no more than its share of the machine."""
        speed = self.speed.tokens_a_second
        return not speed or self.demand[priority].outlook(client, speed).within_share

    def change(self, client: Client, priority: Priority, tokens: int) -> None:
        """Add to a client's reserved tokens, or subtract from them."""
        waiting = self._tokens[priority]
        waiting[client.name] += tokens
        self._weights[client.name] = client.plan.weight
        if not waiting[client.name]:
            del waiting[client.name]
            if not any(client.name in tokens for tokens in self._tokens.values()):
                del self._weights[client.name]
