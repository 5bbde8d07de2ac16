"""An event loop on a simulated clock: where a real one would wait, time jumps."""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import numpy as np
import pytest

from server.types import Computed, Work

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START = 1_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    """Passes the time that it is asked to wait for."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "the loop has nothing left to do and would wait for ever"
        self._clock.now += max(0.0, timeout)
        return super().select(0)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`time.monotonic` has to be the clock's while it lives. Executors start no threads: each run takes a fixed time.

    Attributes:
        run_seconds: how long what begins now takes an executor.
        no_threads_until: until when executors refuse what begins.
    """

    def __init__(self, clock: Clock, run_seconds: float) -> None:
        super().__init__(_Selector(clock))
        self.run_seconds = run_seconds
        self.no_threads_until = 0.0

    def run_in_executor(self, executor: object, function: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call the function at once; its outcome is known `run_seconds` later, whether or not it is still wanted."""
        check_threads(self)
        future: asyncio.Future[T] = self.create_future()
        outcome: partial[None]
        try:
            outcome = partial(future.set_result, function(*args))
        except Exception as error:  # noqa: BLE001 - it is the future's
            outcome = partial(future.set_exception, error)
        self.call_later(self.run_seconds, lambda: None if future.done() else outcome())
        return future


class SameThread(Executor):
    """In the place of an executor that is used without the loop: runs what it is given at once."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function."""
        check_threads(self._loop)
        future: Future[T] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - it is the future's
            future.set_exception(error)
        return future


def check_threads(loop: SimulatedLoop) -> None:
    """Refuse what begins, as an executor does that cannot start a thread."""
    if time.monotonic() < loop.no_threads_until:
        raise RuntimeError("can't start new thread")


class Simulation:
    """A loop and its clock, from construction to `close`."""

    def __init__(self, run_seconds: float = 0.01) -> None:
        self.clock = Clock()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(time, "monotonic", self.clock.time)
        self.loop = SimulatedLoop(self.clock, run_seconds)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(main)

    def close(self) -> None:
        self.loop.close()
        self._patch.undo()


def simulate(main: Coroutine[Any, Any, T], run_seconds: float = 0.01) -> T:
    """Run a coroutine on a simulated clock."""
    simulation = Simulation(run_seconds)
    try:
        return simulation.run(main)
    finally:
        simulation.close()


class Machine:
    """In a runner's place: notes what it computed; some segments fail."""

    layers = 1

    def __init__(self, batch_tokens: int = 100) -> None:
        self.batch_tokens = batch_tokens
        self.computed: list[bytes] = []
        self.poison: set[bytes] = set()

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        self.computed += [work.key for work in works]
        if self.poison & {work.key for work in works}:
            raise ArithmeticError
        now = time.monotonic()
        return [Computed({1: np.frombuffer(work.key, np.uint8)}, {}, now, now, now) for work in works]
