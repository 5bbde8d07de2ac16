"""`octavo index`."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from octavo.cli.connection import connected, failure
from octavo.cli.exits import FAILED, Failure, complain
from octavo.cli.group import PluginGroup, file_names
from octavo.cli.options import (
    call_arguments,
    check_call_options,
    connection_options,
    in_flight_option,
    job_options,
    local_option,
    server_option,
    timeout_option,
)
from octavo.cli.output import glimpse, json_line
from octavo.cli.progress import progress
from octavo.client import FingerprintMismatch, OctavoError
from octavo.index.errors import IndexingError, OtherIndex
from octavo.index.files import TEXT_FILES, Scan, scan
from octavo.index.folder import FolderSync, Tally
from octavo.index.search import Passage, search
from octavo.index.store import Store, exclusive

_IDLE = "the server may have a queue of other calls, or your limit is used up"
_WATCH_SECONDS = 1.0
_WATCH_SHARE = 20  # scans of a large folder take at most this part of the time
_RETRY_SECONDS = 5.0
_SETTINGS = ("model", "input_type", "policy", "max_tokens", "min_tokens", "encoding")
_DEFAULTS = {**dict.fromkeys(_SETTINGS), "encoding": "utf-8", "input_type": "passage"}

store_option = click.option(
    "--store", required=True, metavar="PATH", shell_complete=file_names, help="The index: one file."
)
format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)


@click.group(cls=PluginGroup)
def index() -> None:
    r"""Keep a local index of a folder's texts, and search it.

    \b
    octavo index sync notes/ --store notes.index
    octavo index search "who keeps the light?" --store notes.index
    """


@index.command("sync")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@store_option
@click.option(
    "--glob",
    "include",
    multiple=True,
    default=TEXT_FILES,
    show_default=True,
    metavar="PATTERN",
    help='Files to index, by name or by path in the folder, such as "docs/**/*.md". Repeatable.',
)
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Files or folders to leave out. Repeatable.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done and computed.")
@click.option("--watch", is_flag=True, help="Go on, and sync whenever a file changes.")
@format_option
@server_option
@job_options
@in_flight_option
@timeout_option
@click.pass_context
def sync_folder(ctx: click.Context, /, folder: str, store: str, **options: Any) -> None:
    r"""Make an index have a folder's texts as they are now.

    Sends only files that changed, and the server computes only segments that changed. Hidden files are skipped. A file
    that fails is named on standard error, and the index keeps what it had of it. The command can be killed at any
    time: the next one goes on. Model, segmentation and encoding are those of the first sync.

    \b
    octavo index sync notes/ --store notes.index
    octavo index sync . --store docs.index --glob 'docs/**/*.md' --exclude node_modules --watch
    octavo index sync notes/ --store notes.index --dry-run

    Exit codes: 0 success, 1 files failed, or the index cannot be used, 2 wrong usage, or settings that differ from
    those of the index, 3 no server can be reached, 130 interrupted.
    """
    check_call_options(ctx)
    if options["watch"] and options["dry_run"]:
        raise click.UsageError("--watch and --dry-run exclude each other", ctx)
    path, root = Path(store), Path(folder).resolve()
    with _explained(ctx), _opened(path, dry_run=options["dry_run"]) as opened:
        options |= _configured(ctx, opened, root)
        with connected(options) as client:
            run = FolderSync(
                client,
                opened,
                {**call_arguments(options), "priority": "bulk"},
                options["encoding"],
                options["timeout"],
                options["in_flight"],
                options["dry_run"],
            )
            if options["watch"]:
                _watch(run, root, options)
            tally = _once(run, _scan(root, options), options, set())
    if tally.files["failed"]:
        ctx.exit(FAILED)


@index.command("search")
@click.argument("query")
@store_option
@click.option("-k", "count", type=click.IntRange(min=1), default=5, show_default=True, help="Number of passages.")
@format_option
@connection_options
@local_option
@timeout_option
@click.pass_context
def search_folder(ctx: click.Context, /, query: str, store: str, count: int, form: str, **options: Any) -> None:
    r"""Find the passages of an index that resemble a query most, best first.

    Passages are read from the files, which must not have changed since the last sync.

    \b
    octavo index search "who keeps the light?" --store notes.index
    octavo index search "lighthouse" --store notes.index -k 20 --format json | jq -r .file
    """
    with _explained(ctx), Store(Path(store)) as opened:
        if not opened.fingerprint:
            raise Failure(f"{store} is empty: fill it with 'octavo index sync'")
        options = {**_DEFAULTS, "cache_mode": None, **opened.settings, **options}
        check_call_options(ctx)
        with connected(options) as client:
            try:
                found = search(client, opened, query, count, call_arguments(options), options["timeout"])
            except FingerprintMismatch as fault:
                raise OtherIndex(
                    f"{store} has vectors of fingerprint {opened.fingerprint}, and the server would compute others: "
                    "search with a server of the model that made the index"
                ) from fault
    for passage in found:
        click.echo(_json_text(dataclasses.asdict(passage)) if form == "json" else _text(passage))


@contextlib.contextmanager
def _explained(ctx: click.Context) -> Iterator[None]:
    """Convert errors of indexes to the command's."""
    try:
        yield
    except OtherIndex as fault:
        raise click.UsageError(str(fault), ctx) from fault
    except IndexingError as fault:
        raise Failure(str(fault)) from fault


@contextlib.contextmanager
def _opened(path: Path, *, dry_run: bool) -> Iterator[Store]:
    """Open an index for a sync. A dry run changes and creates nothing."""
    with contextlib.ExitStack() as stack:
        if not dry_run:
            stack.enter_context(exclusive(path))
        yield stack.enter_context(Store(None if dry_run and not path.exists() else path, create=not dry_run))


def _configured(ctx: click.Context, store: Store, folder: Path) -> dict[str, Any]:
    """The settings of the index, or for a new one those of the options."""
    known = store.settings
    given = {
        name: ctx.params[name]
        for name in _SETTINGS
        if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT and ctx.params[name] is not None
    }
    settings = {**_DEFAULTS, **known, **given, "folder": str(folder)}
    if known and not Path(known.get("folder", "")).exists():
        store.move("folder", str(folder))
    store.configure(settings)
    return {name: settings[name] for name in _SETTINGS}


def _scan(folder: Path, options: dict[str, Any]) -> Scan:
    return scan(folder, options["include"], options["exclude"])


def _once(run: FolderSync, found: Scan, options: dict[str, Any], told: set[tuple[str, str]]) -> Tally:
    """Sync once and print the result; errors that were `told` before are not repeated."""
    tally = Tally()
    each = options["watch"] or options["dry_run"]
    with progress(sum(file.size for file in found.files.values()), f"{len(found.files):,} files", _IDLE) as advance:
        for outcome in run.run(found):
            tally.add(outcome)
            if outcome.error and (outcome.name, outcome.error) not in told:
                told.add((outcome.name, outcome.error))
                complain(f"{outcome.name}: {outcome.error}")
            elif each and options["form"] == "text" and outcome.state in {"added", "changed", "deleted"}:
                click.echo(f"{outcome.state} {outcome.name}")
            advance(outcome.size)
    if tally.moved or not options["watch"]:
        click.echo(_summary(tally, options["form"]))
    return tally


def _watch(run: FolderSync, folder: Path, options: dict[str, Any]) -> None:
    """Sync whenever the folder changes, until interrupted. While the server cannot be reached, keep trying."""
    told: set[tuple[str, str]] = set()
    seen: Scan | None = None
    while True:
        start = time.monotonic()
        found = _scan(folder, options)
        wait = max(_WATCH_SECONDS, _WATCH_SHARE * (time.monotonic() - start))
        if found != seen or not found.is_settled:
            try:
                _once(run, found, options, told)
                seen = found
            except OctavoError as fault:  # the server cannot be reached
                wait = max(wait, _RETRY_SECONDS)
                complain(failure(fault, run.client.address).format_message())
        time.sleep(wait)


def _summary(tally: Tally, form: str) -> str:
    if form == "json":
        return _json_text(dataclasses.asdict(tally))
    files = ", ".join(f"{count:,} {state}" for state, count in tally.files.items())
    return (
        f"{files}\n{tally.new_segments:,} new segments, {tally.reused_segments:,} reused; of {tally.tokens:,} tokens "
        f"{tally.computed_tokens:,} computed, {tally.cached_tokens:,} from the server's cache"
    )


def _json_text(value: dict[str, Any]) -> str:
    return json_line(value).decode().rstrip("\n")


def _text(passage: Passage) -> str:
    lines = f":{passage.lines[0]}-{passage.lines[1]}" if passage.lines else ""
    place = click.style(f"{passage.file}{lines}", bold=True)
    shown = passage.problem if passage.text is None else glimpse(passage.text, 240)
    return f"{place}  {passage.score:.4f}  characters {passage.char_start:,} to {passage.char_end:,}\n    {shown}"
