"""Commands for records.

`report` draws records, `compare` compares two, `check` compares this machine with its baseline, `texts` writes
committed records' figures into README and docs/.
"""

from pathlib import Path

import click

from benchmarks.reporting.record import Record, RecordError, read_all

_PATH = click.Path(path_type=Path, exists=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Folder to write to. [default: FOLDER/report]"
)
def report(folder: Path, output: Path | None) -> None:
    """Draw the records of FOLDER (*.json): one page that needs nothing else, and a PNG of each chart."""
    from benchmarks.reporting.page import write_page

    click.echo(write_page(_records(folder), output or folder / "report"))


@click.command(epilog="Exit status: 0 nothing is worse, 1 something is, or is missing, 2 wrong usage.")
@click.argument("before", type=_PATH)
@click.argument("after", type=_PATH)
@click.option("--margin", default=0.05, show_default=True, help="A change of less than this share is none.")
@click.pass_context
def compare(ctx: click.Context, before: Path, after: Path, margin: float) -> None:
    """Hold the record, or the folder of records, AFTER against BEFORE.

    A figure is better or worse when the whole 95 % interval of after over before lies beyond the margin, the same
    when all of it lies within; else its samples do not tell, and more are needed. Between two runs a machine drifts:
    trust ratios that were measured within one run.
    """
    from benchmarks.reporting.compare import Change, table, warnings
    from benchmarks.reporting.compare import compare as compared

    old, new = ({record.scenario: record for record in _records(path)} for path in (before, after))
    if not (shared := [name for name in old if name in new]):
        raise click.UsageError(f"no scenario is in both: {', '.join(sorted(old))}; {', '.join(sorted(new))}")
    worse = False
    for name in shared:
        for warning in warnings(old[name], new[name]):
            click.echo(f"warning: {warning}", err=True)
        comparisons = compared(old[name], new[name], margin)
        worse = worse or any(each.change in {Change.WORSE, Change.GONE} for each in comparisons)
        click.echo(f"{name}\n{table(comparisons)}\n")
    ctx.exit(int(worse))


@click.command(epilog="Exit status: 0 nothing became slower, 1 something did, 2 there is no baseline for this machine.")
@click.option("--update", is_flag=True, help="Measure the baseline of this kind of machine afresh, and write it.")
@click.pass_context
def check(ctx: click.Context, update: bool) -> None:
    """Hold engine and server, as ratios to fixed work, against this machine's baseline (`make bench-check`)."""
    from benchmarks import machine
    from benchmarks.regression import baseline

    if warning := machine.busy(machine.describe()):
        click.echo(f"warning: {warning}", err=True)
    if update:
        click.echo(baseline.update())
        return
    try:
        found = baseline.check()
    except baseline.NoBaselineError as error:
        raise click.UsageError(str(error)) from None
    click.echo(baseline.table(found))
    if found.slower:
        click.echo(f"slower than the baseline: {', '.join(found.slower)}", err=True)
        ctx.exit(1)


@click.command(epilog="Exit status with --check: 0 all is well, 1 something is wrong.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; tell what is wrong with figures and records.")
@click.pass_context
def texts(ctx: click.Context, only_check: bool) -> None:
    """Write the figures of benchmarks/results/ into README.md and docs/, where a comment names them.

    --check requires that the texts say what the records say, and that the records they quote are of one commit, from a
    clean tree, on processors that the texts name, and not older than the code.
    """
    from benchmarks.reporting.provenance import faults
    from benchmarks.reporting.texts import TextError, renewed
    from benchmarks.reporting.texts import texts as named

    if only_check:
        found = faults(named())
        for each in found:
            click.echo(each)
        ctx.exit(int(bool(found)))
    for path in named():
        text = path.read_text(encoding="utf-8")
        try:
            made = renewed(text)
        except TextError as error:
            raise click.ClickException(f"{path}: {error}") from None
        if made != text:
            path.write_text(made, encoding="utf-8")
            click.echo(path)


def _records(path: Path) -> list[Record]:
    """Read records, the oldest first."""
    try:
        return sorted(read_all(path), key=lambda record: record.started)
    except RecordError as error:
        raise click.UsageError(str(error)) from None


COMMANDS = {"report": report, "compare": compare, "check": check, "texts": texts}
