from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cache import Fault, Key, KeyMaker, Kind, Store, Tag

KEYS = KeyMaker(b"deployment secret".ljust(32))
TAG = Tag("tenant", "model", b"document".ljust(16))


class Opener(Protocol):
    """Opens stores in one folder, and closes them after the test; `faults` collects what they report."""

    folder: Path
    faults: list[tuple[Fault, str]]

    def __call__(self, **settings: Any) -> Store: ...


def key(number: int, kind: Kind = Kind.STATE) -> Key:
    return Key(kind, number.to_bytes(32, "big"))


def state(number: int, numbers: int = 30_000) -> NDArray[np.uint16]:
    """Make a state large enough for a file of its own (or, of a few numbers, small enough for the index)."""
    return np.random.default_rng(number).integers(0, 1 << 16, numbers).astype(np.uint16)
