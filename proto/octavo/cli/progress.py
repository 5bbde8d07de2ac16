"""Progress and notes on standard error; progress only if it is a terminal."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

import click

IDLE_SECONDS = 10.0
_CLEAR_LINE = "\r\x1b[K"

Advance = Callable[[int], None]


@contextlib.contextmanager
def progress(length: int, label: str, idle: str = "") -> Iterator[Advance]:
    """Show a bar of `length` steps if there is a terminal.

    Call the returned function with the number of steps done, from any thread. If it is not called for a while, a note
    says so, with `idle` for an explanation.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    steps = max(length // 200, 1)
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=steps) as bar:
        idleness = _Idleness(idle)

        def advance(steps: int) -> None:
            with idleness.lock:
                idleness.since = time.monotonic()
                bar.update(steps)

        with idleness.told() if idle else contextlib.nullcontext():
            yield advance


class _Idleness:
    """Tells from time to time that nothing has happened."""

    def __init__(self, explanation: str) -> None:
        self.lock = threading.Lock()  # of the terminal's line and the next field
        self.since = time.monotonic()
        self._explanation = explanation

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Watch in a thread until the end of the block."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), name="octavo-idle", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        start, wait = self.since, IDLE_SECONDS
        while not ended.wait(max(start + wait - time.monotonic(), 0)):
            with self.lock:
                if self.since > start:
                    start, wait = self.since, IDLE_SECONDS
                else:
                    note(f"nothing for {wait:,.0f} s: {self._explanation}")
                    wait *= 2


def note(line: str) -> None:
    """Print a line that is no error, in place of a bar, which follows it."""
    click.echo(f"{_CLEAR_LINE if sys.stderr.isatty() else ''}octavo: {line}", err=True)
