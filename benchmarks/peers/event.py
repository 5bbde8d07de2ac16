"""The race of the `engine` scenario: starts all contenders, compares their results, keeps their best configurations."""

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import click
import numpy as np

from benchmarks.figures import Figure, Figures, Missing, reason_of
from benchmarks.peers.driver import Team
from benchmarks.peers.lineup import LINEUP, Contender, Workload, sizes_to_try
from benchmarks.peers.protocol import Vectors
from benchmarks.race import Race, Run
from benchmarks.statistics import ratio, summarise

_LEAST_COSINE = 0.95  # to what transformers makes in fp32; onnxruntime's int8 has about 0.985


@dataclass(frozen=True, slots=True)
class Best:
    """A contender's fastest way with a workload, and its seconds, one a round."""

    way: str
    seconds: list[float]


class Event:
    """All contenders of the line-up, started and loaded, with the workloads in their hands."""

    def __init__(
        self, workloads: Sequence[Workload], cores: int, *, install: bool, lineup: Sequence[Contender] = LINEUP
    ) -> None:
        self.workloads = {workload.name: workload for workload in workloads}
        self.told: dict[str, dict[str, Any]] = {}
        """What each contender reports of itself: scheme, kernels, versions."""
        self.cosines: dict[str, Figure] = {}
        self._cores, self._install, self._lineup = cores, install, {each.name: each for each in lineup}
        self._teams: dict[str, Team] = {}
        self._missing: dict[str, Missing] = {}
        self._race = Race({})
        self._stack = ExitStack()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-engine-")))

    def __enter__(self) -> Self:
        for contender in self._lineup.values():
            try:
                self._admit(contender)
            except Exception as error:  # noqa: BLE001  one that cannot start is missing; the others race
                self._missing[contender.name] = Missing(reason_of(error))
        self._compare_vectors()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def race(self, rounds: int, at_most: float) -> None:
        """Warm up, run every way once, and race the two fastest ways of each contender and workload."""
        runs = {name: run for contender in self._lineup.values() for name, run in self._ways(contender).items()}
        self._race = Race(runs)
        click.echo(f"warming up {len(runs)} variants …", err=True)
        self._race.warm_up()
        self._race.keep_fastest(count=2)
        click.echo(f"racing {len(self._race.variants)} variants …", err=True)
        self._race.measure(rounds, at_most)

    def best(self, contender: str, workload: str) -> Best:
        """Choose the fastest way by its median.

        Raises:
            LookupError: the contender did not finish; the message says why.
        """
        if contender in self._missing:
            raise LookupError(self._missing[contender].reason)
        name = self._race.fastest(f"{contender}/{workload}")
        if name is None:
            failed = [miss.reason for name, miss in self._race.missing.items() if name.startswith(f"{contender}/")]
            raise LookupError(failed[0] if failed else f"{contender} did not run {workload}")
        return Best(name.rpartition("/")[2], self._race.seconds[name])

    def over(self, workload: str, *contenders: str, ours: str = "octavo") -> Figure:
        """How many times faster ours is than the fastest of the contenders; each of them must have run."""
        fastest = min((self.best(name, workload) for name in contenders), key=lambda best: median(best.seconds))
        return ratio(fastest.seconds, self.best(ours, workload).seconds)

    def speeds(self) -> Figures:
        """Tokens a second of everyone at their best; the id names the way."""
        figures: dict[str, Figure | Missing] = {}
        for contender in self._lineup.values():
            for workload in (name for name in contender.on if name in self.workloads):
                try:
                    best = self.best(contender.name, workload)
                except LookupError as error:
                    figures[f"speed.{contender.name}.{workload}"] = Missing(str(error))
                    continue
                speeds = [self.workloads[workload].tokens / seconds for seconds in best.seconds]
                figures[f"speed.{contender.name}.{workload}.{best.way}"] = summarise(speeds, "tokens/s")
        return figures

    def team(self, contender: str) -> Team:
        """Give the processes of a contender.

        Raises:
            LookupError: it did not start; the message says why.
        """
        if contender in self._missing:
            raise LookupError(self._missing[contender].reason)
        return self._teams[self._lineup[contender].peer]

    def _admit(self, contender: Contender) -> None:
        click.echo(f"loading {contender.name} …", err=True)
        if contender.peer not in self._teams:
            size = self._cores if contender.peer != "octavo" else 1
            team = self._stack.enter_context(Team(contender.peer, size, self._scratch, install=self._install))
            for workload in self.workloads.values():
                team.give(workload.name, workload.segments)
            self._teams[contender.peer] = team
        for folder in {self.workloads[name].folder for name in contender.on if name in self.workloads}:
            model = loaded_name(contender.name, folder)
            told = self._teams[contender.peer].load(model, folder, alone=not contender.a_core_each, **contender.options)
            self.told[model] = told

    def _compare_vectors(self) -> None:
        """Exclude contenders that compute something else."""
        if "naive" not in self._lineup or "naive" in self._missing:
            return
        expected = self._vectors("naive")
        for contender in self._lineup.values():
            if contender.name in self._missing or contender.name == "naive":
                continue
            try:
                made = self._vectors(contender.name)
            except Exception as error:  # noqa: BLE001  as above
                self._missing[contender.name] = Missing(reason_of(error))
                continue
            norms = np.linalg.norm(made, axis=1) * np.linalg.norm(expected, axis=1)
            cosines = (made * expected).sum(axis=1) / norms
            self.cosines[f"cosine.{contender.name}"] = Figure(float(cosines.mean()), "", n=len(cosines))
            if cosines.min() < _LEAST_COSINE:
                self._missing[contender.name] = Missing(f"its vectors are others: cosine {cosines.min():.3f} to fp32")

    def _vectors(self, contender: str) -> Vectors:
        model = loaded_name(contender, self.workloads["check"].folder)
        return self.team(contender).vectors(model, "check", self._cores)

    def _ways(self, contender: Contender) -> dict[str, Run]:
        """Every way to run each of the contender's workloads, by contender/workload/way."""
        if contender.name in self._missing:
            return {}
        team, ways = self._teams[contender.peer], {}
        for workload in (self.workloads[name] for name in contender.on if name in self.workloads):
            model = loaded_name(contender.name, workload.folder)
            for batch in sizes_to_try(contender.alone, workload):
                ways[f"{contender.name}/{workload.name}/{_way(batch)}"] = _alone(
                    team, model, workload.name, batch, self._cores
                )
            for batch in sizes_to_try(contender.a_core_each, workload):
                ways[f"{contender.name}/{workload.name}/{_way(batch)}-a-core"] = _a_core_each(
                    team, model, workload.name, batch
                )
        return ways


def loaded_name(contender: str, folder: Path) -> str:
    """Name a contender's model in its workers."""
    return f"{contender}@{folder.name}"


def _way(batch: int) -> str:
    return f"batch{batch}" if batch else "streams"


def _alone(team: Team, model: str, workload: str, batch: int, threads: int) -> Run:
    return lambda: team.run(model, workload, batch, threads)[0]


def _a_core_each(team: Team, model: str, workload: str, batch: int) -> Run:
    return lambda: team.run_a_core_each(model, workload, batch)
