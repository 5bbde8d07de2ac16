"""Whether `make bench-check` can be trusted: quiet runs pass it, a real slow-down of 15 % does not.

Each check is what `make bench-check` does, in fresh processes, against a baseline that is measured here first. The
slow-down is real: after each run of a part the core is kept busy for 15 % of the time that the run took.

bench_check_true: of checks with a slow-down planted in one part, the share that failed on that part and no other.
bench_check_false: checks without one that failed.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import click

from benchmarks.figures import Figure, Figures
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
        slowed = [(name, _checked({name: _SLOWER}, folder)) for _ in range(planted) for name in RATIOS]
        quietly = [_checked({}, folder) for _ in range(quiet)]
    return {
        "bench_check_true": proportion([each.slower == (name,) for name, each in slowed]),
        "bench_check_false": Figure(sum(bool(each.slower) for each in quietly), "runs", n=len(quietly)),
    }


def _checked(planted: Mapping[str, float], folder: Path) -> Checked:
    found = check(planted, folder)
    speeds = ", ".join(f"{name} {each.value:.3f}" for name, each in found.over.items())
    click.echo(f"{''.join(planted) or 'nothing'} slowed: {speeds} ({found.processes} processes)", err=True)
    return found
