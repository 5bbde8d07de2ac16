"""Shows a job's progress on standard error: a bar on a terminal, otherwise a line from time to time."""

import sys
import time
from collections import deque
from collections.abc import Hashable, Sequence
from types import TracebackType
from typing import Any, Self

import click

from octavo.batch.summary import Tally
from octavo.cli.progress import note
from octavo.client import Segment

LINE_SECONDS = 30.0
_BAR_SECONDS = 0.1
_STEPS = 1000  # of the bar for each document, so that it moves within a long one
_RECENT_SECONDS = 60.0  # window for the displayed speed


class Progress:
    """The progress of a run over `rows`, some of which may be done already.

    If it is not `shown`, only what `say` is given is printed.
    """

    def __init__(self, rows: int, *, shown: bool = True) -> None:
        self._rows = rows
        self._shown = shown
        self._done = 0.0
        self._within: dict[Hashable, tuple[float, int]] = {}  # part that is computed, and tokens, of each document
        self._bar: Any = None
        self._started = self._lined = time.monotonic()
        self._marks: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])  # time, tokens, rows of this run

    def __enter__(self) -> Self:
        if self._shown and sys.stderr.isatty():
            self._bar = click.progressbar(
                length=self._rows * _STEPS,
                label="documents",
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
            self._move()
            self._bar.__exit__(kind, fault, trace)

    def done_before(self, rows: int) -> None:
        """Subtract rows that earlier runs have done."""
        self._rows -= rows
        if self._bar is not None:
            self._bar.length = self._rows * _STEPS

    @property
    def watched(self) -> bool:
        """Whether a bar shows what is computed of a document."""
        return self._bar is not None

    def within(self, document: Hashable, length: int, segments: Sequence[Segment]) -> None:
        """Count further segments of a document of so many characters; those of a further attempt begin at 0 again."""
        first, last = segments[0], segments[-1]
        _, before = self._within.get(document, (0.0, 0)) if first.index else (0.0, 0)
        self._within[document] = last.char_end / length, before + sum(each.token_count for each in segments)

    def done(self, document: Hashable) -> None:
        """A document is answered, and counts in the run from now on."""
        self._within.pop(document, None)

    def advance(self, run: Tally) -> None:
        """Show what the run has done so far."""
        now, self._done = time.monotonic(), run.documents + sum(part for part, _ in self._within.values())
        if self._bar is not None:
            if now - self._lined >= _BAR_SECONDS:
                self._move(f"{run.documents:,} of {self._rows:,}, {self._figures(run, now)}")
                self._lined = now
        elif self._shown and now - self._lined >= LINE_SECONDS:
            self._lined = now
            self.say(f"{run.documents:,} of {self._rows:,} documents, {self._figures(run, now)}{self._left(run)}")

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        note(line)

    def _move(self, figures: str | None = None) -> None:
        """Show what is done; the bar does not go back when a document begins again."""
        self._bar.update(max(round(self._done * _STEPS) - self._bar.pos, 0), figures)

    def _figures(self, run: Tally, now: float) -> str:
        done = run.tokens["tokens"] + sum(tokens for _, tokens in self._within.values())
        self._marks.append((now, done, run.documents))
        while len(self._marks) > 1 and now - self._marks[0][0] > _RECENT_SECONDS:
            self._marks.popleft()
        then, tokens, _ = self._marks[0]
        speed = max(done - tokens, 0) / max(now - then, 1e-9)
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
