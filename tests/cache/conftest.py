from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cache import CacheSettings, Fault, Store
from tests.cache.helpers import KEYS, Opener


class _Opener:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.faults: list[tuple[Fault, str]] = []
        self.stores: list[Store] = []

    def __call__(self, **settings: Any) -> Store:
        defaults: dict[str, Any] = {"folder": self.folder, "min_free_bytes": 0, "memory_bytes": 0}
        store = Store(CacheSettings(**defaults | settings), KEYS, lambda *fault: self.faults.append(fault))
        self.stores.append(store)
        return store


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Opener]:
    """Open stores without a memory tier, so that every answer comes from the disk, unless asked otherwise."""
    opener = _Opener(tmp_path / "cache")
    yield opener
    for store in opener.stores:
        store.close()
