"""What can go wrong with the store.

    CacheError
    ├── InvalidSettingError (ValueError)   a setting makes no sense; names it
    ├── SettingsConflictError              another live process uses this folder with other settings; names them
    ├── ForeignFolderError                 the folder holds things that are not ours
    ├── UntrustedFolderError               other users may write to the folder
    ├── SecretError                        the deployment secret is missing its protection or its form
    ├── PurgeIncompleteError               memory was purged, the disk could not be
    └── EntryError (ValueError)            a stored value must not be used
        ├── CorruptEntryError              its bytes, or the row that led to it, are not what was stored
        ├── OldFormatError                 another version of the format wrote it
        └── ExpiredEntryError              its time to live is over

Only the first six reach a caller: a stored value that must not be used is a miss.
"""


class CacheError(Exception):
    """The base of this package's errors."""


class InvalidSettingError(CacheError, ValueError):
    """A setting makes no sense; the message starts with its name."""


class SettingsConflictError(CacheError):
    """Another live process shares the folder under other settings; the message names them."""


class ForeignFolderError(CacheError):
    """The folder holds files that are not the store's, so the store does not use it."""


class UntrustedFolderError(CacheError):
    """Other users may write to the folder, or own it; the message says what to do."""


class SecretError(CacheError):
    """The deployment's secret cannot be trusted or read."""


class PurgeIncompleteError(CacheError):
    """Entries may remain on the disk; purge again when it can be written."""


class EntryError(CacheError, ValueError):
    """A stored value must not be used."""


class CorruptEntryError(EntryError):
    """The bytes are not those that were stored under this key."""


class OldFormatError(EntryError):
    """The value was written in another version of the format."""


class ExpiredEntryError(EntryError):
    """The value's time to live is over."""
