"""Shows a job's progress on standard error: a bar on a terminal, otherwise a line from time to time."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any, Self

from octavo.batch.summary import Tally

LINE_SECONDS = 30.0
_RECENT_SECONDS = 60.0  # window for the displayed speed


class Progress:
    """The progress of a run over `rows`, some of which may be done already."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._bar: Any = None
        self._started = self._lined = time.monotonic()
        self._marks: deque[tuple[float, int, int]] = deque([(self._started, 0, 0)])  # time, tokens, rows of this run

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from tqdm import tqdm  # noqa: PLC0415 - only needed on a terminal

            self._bar = tqdm(total=self._rows, unit="doc", file=sys.stderr, dynamic_ncols=True, smoothing=0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def done_before(self, rows: int) -> None:
        """Subtract rows that earlier runs have done."""
        self._rows -= rows
        if self._bar is not None:
            self._bar.total = self._rows
            self._bar.refresh()

    def advance(self, run: Tally) -> None:
        """Show what the run has done so far."""
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(run.documents - self._bar.n)
            if now - self._lined >= 1:
                self._bar.set_postfix_str(self._figures(run, now), refresh=False)
                self._lined = now
        elif now - self._lined >= LINE_SECONDS:
            self._lined = now
            self.say(f"{run.documents:,} of {self._rows:,} documents, {self._figures(run, now)}{self._left(run)}")

    def say(self, line: str) -> None:
        """Print a line without disturbing the bar."""
        if self._bar is not None:
            self._bar.write(f"octavo: {line}", file=sys.stderr)
        else:
            sys.stderr.write(f"octavo: {line}\n")
            sys.stderr.flush()

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
