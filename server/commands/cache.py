"""`octavo cache`: inspect, verify, warm and purge the layer cache, also while the server runs."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from cache import KeyMaker, Kind, PurgeIncompleteError, Store
from octavo.cli.connection import connected
from octavo.cli.documents import outcomes, reader, succeeded
from octavo.cli.exits import FAILED
from octavo.cli.group import PluginGroup, file_names
from octavo.cli.options import call_options, check_call_options, in_flight_option, task_options, tasks_of
from octavo.cli.texts import refuse_stdin_twice
from octavo.client import Embed
from server.auth.clients import ANONYMOUS
from server.commands.options import FAILURE, cache_options, configuration, fail
from server.config.schema import Settings
from server.errors import StartError
from server.inference.storage import open_existing_store, secret

KIB = 1024
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


@click.group(cls=PluginGroup)
def cache() -> None:
    """Inspect, verify, warm and purge the layer cache.

    Use the server's --config or --cache-dir, so that the command finds the same folder and secret.
    """


def _with_store(command: Callable[[Settings, Store], None], options: dict[str, Any]) -> None:
    settings = configuration(**options).settings
    try:
        with open_existing_store(settings.cache) as store:
            command(settings, store)
    except StartError as error:
        fail(FAILURE, str(error))


@cache.command()
@cache_options
def stats(**options: Any) -> None:
    """Print the cache's entries and size by kind."""

    def show(settings: Settings, store: Store) -> None:
        held = store.stats()
        click.echo(f"{settings.cache.dir}: {_size(held.disk_bytes)} of {_size(settings.cache.size_limit_bytes)}")
        for kind in Kind:
            usage = held.disk.get(kind)
            entries, size = (usage.entries, usage.bytes) if usage else (0, 0)
            click.echo(f"{kind.label:>8}  {entries:>10,} entries  {_size(size):>10}")
        if not held.disk_usable:
            fail(FAILURE, "the cache's disk is disabled")

    _with_store(show, options)


@cache.command()
@click.option("--fix", is_flag=True, help="Remove invalid entries.")
@cache_options
def verify(fix: bool, **options: Any) -> None:
    """Read and check every entry. Exits with 1 if anything is wrong, or if the check did not finish.

    Entries written with another secret are invalid. To recompute and compare cached answers, set cache.verify on the
    server.
    """

    def check(_: Settings, store: Store) -> None:
        report = store.check(fix=fix)
        index = "sound" if report.index_sound else "damaged" if report.finished else "not found sound"
        click.echo(
            f"{report.valid:,} valid, {report.invalid:,} invalid, {report.orphans:,} files without a row, index {index}"
        )
        if not report.finished:
            fail(FAILURE, "the check did not finish: some entries were not checked; try again")
        if not fix and (report.invalid or report.orphans or not report.index_sound):
            fail(
                FAILURE,
                "the cache is damaged; answers are not affected, as damaged entries are misses; remove them with --fix",
            )

    _with_store(check, options)


@cache.command()
@click.argument(
    "paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True, path_type=Path)
)
@task_options(Embed)
@in_flight_option
@call_options
@click.option(
    "--config",
    metavar="FILE",
    shell_complete=file_names,
    help="With --local: the server's settings file. [default: OCTAVO_CONFIG]",
)
@click.option("--cache-dir", metavar="DIR", shell_complete=file_names, help="With --local: the cache's folder.")
@click.pass_context
def warm(
    ctx: click.Context,
    /,
    paths: tuple[Path, ...],
    config: str | None,
    cache_dir: str | None,
    **options: Any,
) -> None:
    r"""Compute documents, so that later calls find them in the server's cache.

    Works like "octavo embed", with the same options, messages and exit codes, but writes no vectors. A folder stands
    for all files below it.

    \b
    octavo cache warm --server unix:/run/octavo/socket corpus/
    octavo cache warm --local --cache-dir /var/cache/octavo corpus/
    """
    files = [str(file) for path in paths for file in _files(path)]
    check_call_options(ctx)
    if not files:
        raise click.UsageError("no files in " + ", ".join(map(str, paths)))
    refuse_stdin_twice(files)
    server = {"--config": config, "--cache-dir": cache_dir}
    arguments = [each for option, value in server.items() if value is not None for each in (option, value)]
    if arguments and not options["local"]:
        raise click.UsageError(f"{arguments[0]} requires --local: other servers have their own settings")
    read = reader(files, options["encoding"])
    failed: list[str] = []
    with connected(options, arguments) as client:
        tasks = tasks_of([("embed", None)], {**options, "segments": False})
        results = outcomes(client, files, read, tasks, options)
        usage = [answer.summary.usage for _, answer in succeeded(results, failed)]
    computed, cached = sum(each.computed_tokens for each in usage), sum(each.cached_tokens for each in usage)
    count = f"{len(usage):,} {'document' if len(usage) == 1 else 'documents'}"
    click.echo(f"{count}, {computed:,} tokens computed, {cached:,} already cached")
    if failed:
        ctx.exit(FAILED)


def _files(path: Path) -> Iterable[Path]:
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


@cache.command()
@click.option(
    "--document",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Entries written for this text.",
)
@click.option("--model", "model", metavar="NAME", help="Entries of this model.")
@click.option(
    "--tenant",
    metavar="NAME",
    help="Entries of this tenant; with --document, the tenant that sent the text (anonymous).",
)
@click.option("--older-than", metavar="AGE", help="Entries older than 90s, 30m, 12h, 7d.")
@click.option("--all", "everything", is_flag=True, help="All entries.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings file (TOML).")
@click.option("--cache-dir", metavar="DIR", shell_complete=file_names, help="The cache's folder.")
def purge(
    document: Path | None,
    model: str | None,
    tenant: str | None,
    older_than: str | None,
    everything: bool,
    config: Path | None,
    cache_dir: str | None,
) -> None:
    """Remove entries from disk and from the memory of every process that uses the folder.

    Removes entries that match all given options. An entry shared by documents belongs to the one that wrote it last.
    """
    if not everything and not (document or model or tenant or older_than):
        raise click.UsageError("choose what to remove: --document, --model, --tenant, --older-than or --all")

    def take(settings: Settings, store: Store) -> None:
        digest = None
        if document:
            keys = KeyMaker(secret(settings.cache))
            digest = keys.document(tenant or ANONYMOUS.tenant, document.read_bytes())
        try:
            gone = store.purge(
                tenant=tenant, model=model, document=digest, older_than=_age(older_than) if older_than else None
            )
        except PurgeIncompleteError as error:
            fail(FAILURE, str(error))
        counts = ", ".join(f"{gone.disk.get(kind, 0):,} {kind.label}" for kind in Kind)
        click.echo(f"removed: {counts}")

    _with_store(take, {"config": config, "cache_dir": cache_dir, "assignments": []})


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not match:
        raise click.BadParameter("must be like 90s, 30m, 12h or 7d", param_hint="--older-than")
    return float(match[1]) * UNITS[match[2]]


def _size(count: int) -> str:
    size, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB"):
        if size >= KIB:
            size, unit = size / KIB, larger
    return f"{size:,.1f} {unit}"
