"""The outcomes of a schedule's calls, and figures computed from them.

All times are seconds after the schedule's start. Latency starts when a call was planned, not when it was sent:
otherwise a generator that waits for a slow server would omit the very calls that suffer (coordinated omission).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

REFUSED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED"})


@dataclass(frozen=True, slots=True)
class Answer:
    """How one call went; `code` is the name of gRPC's status."""

    caller: int
    tokens: int
    planned: float
    sent: float
    ended: float
    code: str

    @property
    def ok(self) -> bool:
        """Whether it was answered."""
        return self.code == "OK"

    @property
    def latency(self) -> float:
        """Seconds from the planned arrival to the end."""
        return self.ended - self.planned

    def in_time(self, deadline: float) -> bool:
        """Whether it was answered within `deadline` seconds of its planned arrival."""
        return self.ok and self.latency <= deadline


@dataclass(frozen=True, slots=True)
class Look:
    """A counter as it was at some moment between two times."""

    began: float
    ended: float
    count: float


def of_callers(answers: Iterable[Answer], callers: Iterable[int]) -> list[Answer]:
    """Keep some callers' answers."""
    wanted = frozenset(callers)
    return [answer for answer in answers if answer.caller in wanted]


def goodput(answers: Iterable[Answer], since: float, until: float, deadline: float = float("inf")) -> float:
    """Tokens a second of documents that were answered in time and whose answer came between the two times."""
    good = (each.tokens for each in answers if each.in_time(deadline) and since < each.ended <= until)
    return sum(good) / (until - since)


def accepted(answers: Iterable[Answer]) -> list[Answer]:
    """Keep the calls that were taken on: all that were not refused.

    A refusal costs its caller nothing and says when to come back. A call that was taken on and dies at its deadline
    has cost both sides: it counts as late, like one that is answered after its deadline.

    Raises:
        ValueError: all were refused.
    """
    taken = [answer for answer in answers if answer.code not in REFUSED]
    if not taken:
        raise ValueError("all calls were refused")
    return taken


def latencies(answers: Sequence[Answer]) -> list[float]:
    """Each call's latency; one that was not answered counts as the longest of all.

    Raises:
        ValueError: one in a hundred was not answered, so that nothing can be said of the 99th percentile.
    """
    failed = [answer for answer in answers if not answer.ok]
    if 100 * len(failed) >= len(answers):
        codes = ", ".join(sorted({answer.code for answer in failed}))
        raise ValueError(f"{len(failed)} of {len(answers)} calls were not answered: {codes}")
    answered = [answer.latency for answer in answers if answer.ok]
    return answered + [max(answered)] * len(failed)


def most_granted(looks: Sequence[Look], seconds: float) -> float:
    """The most that a counter grew in any time so long.

    Bounded from above: windows begin and end with looks and are not shorter than `seconds`.

    Raises:
        ValueError: it was not looked at for so long.
    """
    most, end = None, 0
    for start in looks:
        while end < len(looks) and looks[end].began - start.ended < seconds:
            end += 1
        if end == len(looks):
            break
        most = max(most or 0.0, looks[end].count - start.count)
    if most is None:
        raise ValueError(f"the counter was not watched for {seconds:g} s")
    return most
