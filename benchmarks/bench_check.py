"""Tests `make bench-check`: undisturbed runs must pass, a real slowdown of 15 % must fail.

Each check does what `make bench-check` does, in fresh processes, against a baseline measured here first. The slowdown
is real: after each run of a part, the core is kept busy for 15 % of the time of that run.

bench_check_true: of checks with one part slowed down, the share that failed on that part only.
bench_check_false: checks that failed without a slowdown.
planted_over: a slowed part's speed over the baseline's, as measured by the first such check.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.figures import Figure, Figures, Outcome
from benchmarks.regression.baseline import Checked, check, update
from benchmarks.regression.measure import RATIOS
from benchmarks.statistics import proportion

_SLOWER = 0.15


@click.option("--quiet", default=20, show_default=True, help="Checks of what is as fast as it was.")
@click.option("--planted", default=1, show_default=True, help="Checks of each part with a slow-down.")
@click.option("--baseline-runs", default=5, show_default=True, help="Runs that make the baseline.")
def run(quiet: int, planted: int, baseline_runs: int) -> Figures:
    """Measure a baseline, then check and check again."""
    with tempfile.TemporaryDirectory(prefix="octavo-baselines-") as scratch:
        folder = Path(scratch)
        update(baseline_runs, folder)
        slowed = {(name, turn): _checked({name: _SLOWER}, folder) for turn in range(planted) for name in RATIOS}
        quietly = [_checked({}, folder) for _ in range(quiet)]
    caught = [each.slower == (name,) for (name, _), each in slowed.items()]
    return {
        "bench_check_true": proportion(caught),
        **{f"planted_over.{name}": each.over[name] for (name, turn), each in slowed.items() if not turn},
        "bench_check_false": Figure(sum(bool(each.slower) for each in quietly), "runs", n=len(quietly)),
        "bench_check_again": Figure(sum(each.processes > 1 for each in quietly), "runs", n=len(quietly)),
        **_spread(quietly),
    }


def _checked(planted: Mapping[str, float], folder: Path) -> Checked:
    found = check(planted, folder)
    speeds = ", ".join(f"{name} {each.value:.3f}" for name, each in found.over.items())
    click.echo(f"{''.join(planted) or 'nothing'} slowed: {speeds} ({found.processes} processes)", err=True)
    return found


def _spread(checks: list[Checked]) -> dict[str, Outcome]:
    """Tell how far quiet runs came from the baseline at most, a part, in per cent of it."""
    return {
        f"quiet_deviation.{name}": Figure(
            max(100 * abs(each.over[name].value - 1) for each in checks), "%", n=len(checks)
        )
        for name in RATIOS
    }
