"""Variants measured side by side: warm-up, then A B C A B C …, so that drift of the machine affects all alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

from benchmarks.figures import Missing, reason_of

Run = Callable[[], float]
"""Does the work once and returns the seconds that it took; a worker process times itself."""


def timed(work: Callable[[], object]) -> Run:
    """Turn a piece of work into a run that is timed from here."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


@dataclass(slots=True)
class Race:
    """Interleaved rounds of named variants; one that fails is dropped and its reason kept.

    ``seconds`` holds each variant's samples, one a round in the order of the rounds: index i of any two is one round.
    """

    variants: dict[str, Run]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, Missing] = field(default_factory=dict)

    def warm_up(self, passes: int = 1) -> None:
        """Run unmeasured passes: lazy set-up, caches and clocks settle."""
        for _ in range(passes):
            self._pass()

    def measure(self, rounds: int, at_most: float = float("inf"), at_least: int = 3) -> None:
        """Run up to ``rounds`` rounds; none is begun after ``at_most`` seconds once ``at_least`` are done."""
        start = time.perf_counter()
        for done in range(rounds):
            if done >= at_least and time.perf_counter() - start > at_most:
                return
            for name, seconds in self._pass().items():
                self.seconds.setdefault(name, []).append(seconds)

    def keep_fastest(self, count: int) -> None:
        """Run everything once and keep the ``count`` fastest ways of each group; variants are named GROUP/WAY.

        One pass only drops hopeless variants; its times are not kept.
        """
        groups: dict[str, list[str]] = {}
        looked = self._pass()
        for name in sorted(looked, key=looked.__getitem__):
            groups.setdefault(_group(name), []).append(name)
        for slow in (name for members in groups.values() for name in members[count:]):
            del self.variants[slow]

    def fastest(self, group: str) -> str | None:
        """Choose the way of a group whose median is least; None if none has finished."""
        finished = [name for name in self.seconds if _group(name) == group]
        return min(finished, key=lambda name: median(self.seconds[name]), default=None)

    def _pass(self) -> dict[str, float]:
        taken: dict[str, float] = {}
        for name, run in list(self.variants.items()):
            try:
                taken[name] = run()
            except Exception as error:  # noqa: BLE001  any failure of one contender; the others continue
                self.missing[name] = Missing(reason_of(error))
                self.seconds.pop(name, None)
                del self.variants[name]
        return taken


def _group(variant: str) -> str:
    return variant.rpartition("/")[0]


def raced(variants: Mapping[str, Run], rounds: int) -> dict[str, list[float]]:
    """Warm up and race variants that must all finish; the seconds of each, one a round.

    Raises:
        RuntimeError: one failed.
    """
    race = Race(dict(variants))
    race.warm_up()
    race.measure(rounds)
    for name, missing in race.missing.items():
        raise RuntimeError(f"{name}: {missing.reason}")
    return race.seconds
