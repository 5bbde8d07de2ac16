"""Shows a job's progress on standard error: a bar on a terminal, otherwise a line from time to time."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

import click

from octavo.batch.summary import Tally
from octavo.cli.progress import note

LINE_SECONDS = 30.0
_BAR_SECONDS = 0.1
_RECENT_SECONDS = 60.0  # window for the displayed speed


class Progress:
    """The progress of a run over `rows`, some of which may be done already."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._done = 0
        self._bar: Any = None
        self._started = self._lined = time.monotonic()
        self._marks: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])  # time, tokens, rows of this run

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = click.progressbar(
                length=self._rows,
                label="documents",
                show_pos=True,
                item_show_func=lambda figures: figures,
                update_min_steps=0,  # figures change also while no document is done
                file=sys.stderr,
            )
            self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._done - self._bar.pos)
            self._bar.__exit__(kind, fault, trace)

    def done_before(self, rows: int) -> None:
        """Subtract rows that earlier runs have done."""
        self._rows -= rows
        if self._bar is not None:
            self._bar.length = self._rows

    def advance(self, run: Tally) -> None:
        """Show what the run has done so far."""
        now, self._done = time.monotonic(), run.documents
        if self._bar is not None:
            if now - self._lined >= _BAR_SECONDS:
                self._bar.update(run.documents - self._bar.pos, self._figures(run, now))
                self._lined = now
        elif now - self._lined >= LINE_SECONDS:
            self._lined = now
            self.say(f"{run.documents:,} of {self._rows:,} documents, {self._figures(run, now)}{self._left(run)}")

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        note(line)

    def _figures(self, run: Tally, now: float) -> str:
        self._marks.append((now, run.tokens["tokens"], run.documents))
        while len(self._marks) > 1 and now - self._marks[0][0] > _RECENT_SECONDS:
            self._marks.popleft()
        then, tokens, _ = self._marks[0]
        speed = (run.tokens["tokens"] - tokens) / max(now - then, 1e-9)
        errors = f", {run.failed:,} errors" if run.failed else ""
        return f"{speed:,.0f} tokens/s, {100 * run.hits:.0f} % hits{errors}"

    def _left(self, run: Tally) -> str:
        then, _, rows = self._marks[0]
        done = run.documents - rows
        if done <= 0:
            return ""
        seconds = (self._rows - run.documents) * (time.monotonic() - then) / done
        return f", {clock(seconds)} left"


def clock(seconds: float) -> str:
    """Format a duration as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
