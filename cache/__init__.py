"""Arrays under a key, in memory and on disk.

`Store` keeps arrays; `KeyMaker` makes their keys. Depends on neither torch nor text.
"""

from cache.counters import Event, Fault, Stats, Usage
from cache.errors import (
    CacheError,
    ForeignFolderError,
    InvalidSettingError,
    PurgeIncompleteError,
    SecretError,
    SettingsConflictError,
    UntrustedFolderError,
)
from cache.folder import is_cache
from cache.key import HeadFields, Key, KeyMaker, Kind, LayoutFields, RunFields, SegmentFields, TokensFields
from cache.secret import load_secret
from cache.settings import CacheSettings
from cache.store import Purged, Report, Store
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
