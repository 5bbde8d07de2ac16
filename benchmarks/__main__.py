"""`python -m benchmarks SCENARIO [--json FILE] […]`: runs a scenario, prints its table, writes its record.

`python -m benchmarks report | compare | check | texts`: works with records.
"""

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

try:
    from benchmarks import machine
except ModuleNotFoundError as missing:
    raise SystemExit(f"{missing.name} is not installed: `make bench` installs what the benchmarks need") from None
from benchmarks.commands import COMMANDS
from benchmarks.figures import Figures, Missing, attempt, reason_of
from benchmarks.registry import Scenario, scenarios
from benchmarks.reporting.record import Record, write
from benchmarks.reporting.table import table
from benchmarks.targets import of_scenario

EPILOG = "Exit status: 0 all figures hold what they must, 1 one does not or is missing, 2 wrong usage."


class Scenarios(click.Group):
    """The scenarios as subcommands; only the one that is asked for is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name what can be listed and for completion."""
        del ctx
        return [*scenarios(), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Build the scenario's command, its options taken from its `run`."""
        del ctx
        if cmd_name in COMMANDS:
            return COMMANDS[cmd_name]
        found = scenarios().get(cmd_name)
        return _command(found) if found else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one line a scenario, from the sources alone."""
        del ctx
        with formatter.section("Scenarios"):
            if known := scenarios():
                formatter.write_dl([(scenario.name, scenario.summary) for scenario in known.values()])
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in COMMANDS.items()])


@click.group(cls=Scenarios, invoke_without_command=True, epilog=EPILOG)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Measure Octavo on this machine. `python -m benchmarks SCENARIO --help` tells a scenario's options."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _command(scenario: Scenario) -> click.Command:
    run, options = scenario.load()
    json_option = click.Option(
        ["--json", "json_path"],
        type=click.Path(path_type=Path, dir_okay=False, writable=True),
        help="Write the record (machine, versions, commit, settings, figures) to this file.",
    )

    def execute(json_path: Path | None, **settings: Any) -> None:
        record = _measure(scenario, run, settings)
        click.echo(table(record))
        if json_path:
            write(record, json_path)
        if record.misses:
            click.echo(f"missed: {', '.join(record.misses)}", err=True)
            sys.exit(1)

    return click.Command(
        scenario.name, callback=execute, params=[*options, json_option], help=scenario.description, epilog=EPILOG
    )


def _measure(scenario: Scenario, run: Any, settings: dict[str, Any]) -> Record:
    described = machine.describe()
    if warning := machine.busy(described):
        click.echo(f"warning: {warning}", err=True)
    started, start = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    figures = _figures(scenario.name, lambda: run(**settings))
    seconds = round(time.perf_counter() - start, 1)
    return Record(scenario.name, described, machine.versions(), machine.commit(), settings, started, seconds, figures)


def _figures(name: str, measure: Callable[[], Figures]) -> Figures:
    """Collect what the scenario promises, and what else it gives; one that promises nothing must still give some."""
    promised = tuple(of_scenario(name))
    if promised:
        return attempt(promised, measure)
    try:
        return measure() or {name: Missing("the scenario gave no figure")}
    except Exception as error:  # noqa: BLE001  reported as the scenario's failure
        return {name: Missing(reason_of(error))}


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
