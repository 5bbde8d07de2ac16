"""The store's settings."""

from dataclasses import dataclass
from pathlib import Path

from cache.errors import InvalidSettingError

MIB = 1 << 20
GIB = 1 << 30
DAY = 86_400.0

SHARED_SETTINGS = ("size_limit", "min_free_bytes", "time_to_live")
"""Belong to the folder: processes that share it must agree on them."""


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where the store lives and how much it may take.

    Sizes are in bytes, times in seconds.
    """

    folder: Path
    size_limit: int = 4 * GIB  # values and index together; the oldest entries leave first
    min_free_bytes: int = GIB  # of the file system: the store gives way to everybody else
    time_to_live: float = 30 * DAY
    memory_bytes: int = 256 * MIB  # of this process; 0: no memory tier
    queue_bytes: int = 64 * MIB  # waiting to be written; what does not fit is dropped
    lock_timeout: float = 0.05  # how long a look-up waits for the index before it is a miss

    def __post_init__(self) -> None:
        for name, least in (
            ("size_limit", MIB),
            ("min_free_bytes", 0),
            ("memory_bytes", 0),
            ("queue_bytes", 0),
            ("lock_timeout", 0.0),
        ):
            if not getattr(self, name) >= least:
                raise InvalidSettingError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not self.time_to_live > 0:
            raise InvalidSettingError(f"time_to_live must be above 0, not {self.time_to_live}")
