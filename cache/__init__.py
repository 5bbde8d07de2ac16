"""Arrays under a key, in memory and on disk.

`Store` keeps arrays; `KeyMaker` makes their keys. Depends on neither torch nor text.
"""

from cache.errors import (
    CacheError,
    Fault,
    ForeignFolderError,
    InvalidSettingError,
    PurgeIncompleteError,
    SecretError,
    SettingsConflictError,
    UntrustedFolderError,
)
from cache.folder import CacheSettings, is_cache
from cache.key import HeadFields, Key, KeyMaker, Kind, LayoutFields, RunFields, SegmentFields, TokensFields, load_secret
from cache.stats import Event, Purged, Report, Stats, Usage
from cache.store import Store
from cache.tag import Tag

__all__ = [
    "CacheError",
    "CacheSettings",
    "Event",
    "Fault",
    "ForeignFolderError",
    "HeadFields",
    "InvalidSettingError",
    "Key",
    "KeyMaker",
    "Kind",
    "LayoutFields",
    "PurgeIncompleteError",
    "Purged",
    "Report",
    "RunFields",
    "SecretError",
    "SegmentFields",
    "SettingsConflictError",
    "Stats",
    "Store",
    "Tag",
    "TokensFields",
    "UntrustedFolderError",
    "Usage",
    "is_cache",
    "load_secret",
]
