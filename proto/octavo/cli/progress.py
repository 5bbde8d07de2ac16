"""Shows progress on standard error if it is a terminal."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import click


@contextlib.contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """Show a bar of `length` steps if there is a terminal. Call the returned function with the number of steps done."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=max(length // 200, 1)) as bar:
        yield bar.update
