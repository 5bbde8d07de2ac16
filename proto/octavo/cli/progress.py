"""Progress and notes on standard error; progress only if it is a terminal."""

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

import click

Advance = Callable[[int], None]
_CLEAR_LINE = "\r\x1b[K"


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Advance]:
    """Show a bar of `length` steps if there is a terminal.

    Call the returned function with the number of steps done, from any thread.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    lock = threading.Lock()
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=max(length // 200, 1)) as bar:

        def advance(steps: int) -> None:
            with lock:
                bar.update(steps)

        yield advance


def note(line: str) -> None:
    """Print a line that is no error, in place of a bar, which follows it."""
    click.echo(f"{_CLEAR_LINE if sys.stderr.isatty() else ''}octavo: {line}", err=True)
