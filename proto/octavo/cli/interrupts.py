"""Ctrl-C while a command starts or ends.

Python drops a KeyboardInterrupt that arrives where exceptions are ignored, such as in a callback of its import system.
A command that starts spends seconds in imports, and a server that missed the signal would run for ever.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


def end_at_once() -> None:
    """Make SIGINT end the process without cleaning up, unless it is ignored or handled already."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Make SIGINT raise KeyboardInterrupt again, for code that cleans up."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ending_at_once() -> Iterator[None]:
    """As `end_at_once`, for a block."""
    end_at_once()
    try:
        yield
    finally:
        raise_again()


def _end(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    os._exit(128 + number)  # as shells report a signal
