"""The first hour: what a new user meets when something is wrong, and how long the start takes.

partial_unnoticed: a document is read in every way that client and command line have, by a server whose default
deadline is a fraction of the time that it takes, with and without a cache: those that end before the document's end
without a deadline error or an explicit partial, or with segments that do not tile what was read.

outputs_damaged: every command that writes is pointed at files with modes and owners of their own, links, FIFOs, devices
and folders: those that have another kind, mode, owner or link afterwards, whose content a failed command changed, or
where a command hung, wrote invalid content or ended with an unexpected exit code.

tracebacks: ordinary faults of files, disks, addresses, settings, keys and signals, each a line of shell with the real
command, that end in a traceback, hang, or end with another exit code than the documents promise. `tracebacks.KIND` is
each kind's share; those that fail are named on standard error.

ready_x: `octavo serve` with all-MiniLM-L6-v2 until its ready line, over a fresh Python that imports torch and loads the
model's weights; the median of pairs that take turns.
"""

import importlib
from collections.abc import Sequence
from functools import partial

import click

from benchmarks.figures import Figures, Missing, Outcome, attempt

__all__ = ["run"]

PARTS = {
    "partial": "partial_unnoticed",
    "outputs": "outputs_damaged",
    "faults": "tracebacks",
    "start": "ready_x",
}


@click.option("--only", multiple=True, type=click.Choice([*PARTS]), help="This part; repeatable.")
@click.option("--model", default="splade-tiny", show_default=True, help="What is served, but for ready_x.")
def run(only: Sequence[str], model: str) -> Figures:
    """Run the parts one after the other; one that fails leaves the others alone."""
    figures: dict[str, Outcome] = {}
    for part, id_ in PARTS.items():
        if only and part not in only:
            figures[id_] = Missing("left out by --only")
            continue
        click.echo(f"first-hour: {part}", err=True)
        figures |= attempt((id_,), partial(importlib.import_module(f"benchmarks.first_hour.{part}").measure, model))
    return figures
