"""Runs each attacker in its own process, at the lowest priority."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.managers import SyncManager
from threading import Event
from typing import TypeAlias

from benchmarks.endpoint import Endpoint

_NICE = 19
_SECONDS = 30.0  # that an attacker may take to stop

Attack: TypeAlias = Callable[[Endpoint, Event, Event], dict[str, float]]
"""Attacks the endpoint's server; sets the first event once all has been tried, holds on until the second is set, and
returns what it counted."""


@dataclass(frozen=True, slots=True)
class Attacker:
    """A running attack."""

    spent: Event
    over: Event
    counted: "Future[dict[str, float]]"

    def is_spent(self) -> bool:
        """Whether the attack has been made in full and is only held."""
        return self.spent.is_set() or self.counted.done()

    def stop(self) -> dict[str, float]:
        """End the attack; return its counts."""
        self.over.set()
        return self.counted.result(_SECONDS)


@contextmanager
def attacking(attack: Attack, target: Endpoint) -> Iterator[Attacker]:
    """Attack until the block ends."""
    context = multiprocessing.get_context("spawn")
    with SyncManager(ctx=context) as manager, ProcessPoolExecutor(1, context, initializer=_humble) as process:
        process.submit(os.getpid).result()  # start-up does not count as part of the attack
        spent, over = manager.Event(), manager.Event()
        attacker = Attacker(spent, over, process.submit(attack, target, spent, over))
        try:
            yield attacker
        finally:
            over.set()


def _humble() -> None:
    os.nice(_NICE)
