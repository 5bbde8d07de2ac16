"""Measures variants in turns: warm-up, then A B C A B C …, so that the machine's drift affects all equally."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.figures import Missing, reason_of

Run = Callable[[], float]
"""Does the work once and returns the seconds that it took, by whoever can tell best (a worker times itself)."""


def timed(work: Callable[[], object]) -> Run:
    """Turn a piece of work into a run that is timed from here."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


@dataclass(slots=True)
class Race:
    """Interleaved rounds of named variants; one that fails leaves the race and is kept with the reason.

    `seconds` holds each variant's samples, one a round in the order of the rounds: index i of any two is one round.
    """

    variants: dict[str, Run]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    missing: dict[str, Missing] = field(default_factory=dict)

    def warm_up(self, passes: int = 1) -> None:
        """Run unmeasured passes: lazy set-up, caches and clocks settle."""
        for _ in range(passes):
            self._pass()

    def measure(self, rounds: int, at_most: float = float("inf"), at_least: int = 3) -> None:
        """Run up to `rounds` rounds; none is begun after `at_most` seconds once `at_least` are done."""
        start = time.perf_counter()
        for done in range(rounds):
            if done >= at_least and time.perf_counter() - start > at_most:
                return
            for name, seconds in self._pass().items():
                self.seconds.setdefault(name, []).append(seconds)

    def keep_fastest(self, groups: Mapping[str, str], count: int) -> None:
        """Look at everything once, then go on with the `count` fastest variants of each group.

        One pass decides who has no chance, never who is best. `groups` maps a variant to its group; the look's
        times are forgotten.
        """
        looked = self._pass()
        for group in set(groups.values()):
            members = sorted((name for name in looked if groups[name] == group), key=looked.__getitem__)
            for slow in members[count:]:
                del self.variants[slow]

    def _pass(self) -> dict[str, float]:
        taken: dict[str, float] = {}
        for name, run in list(self.variants.items()):
            try:
                taken[name] = run()
            except Exception as error:  # noqa: BLE001  a contender may fail in any way; the others race on
                self.missing[name] = Missing(reason_of(error))
                self.seconds.pop(name, None)
                del self.variants[name]
        return taken
