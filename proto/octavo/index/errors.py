"""Exceptions of indexes.

IndexingError
├── NoIndex       the file does not exist, is no index, or cannot be read
├── OtherIndex    the index was made with another fingerprint, folder or settings
├── IndexBusy     another process is changing the index
└── VectorMissing a change relies on a vector that the index no longer has
"""


class IndexingError(Exception):
    """An index cannot be used; the message is one line and names the file."""


class NoIndex(IndexingError):
    """The file does not exist, is no index, or cannot be read."""


class OtherIndex(IndexingError):
    """The index was made with another fingerprint, folder or settings."""


class IndexBusy(IndexingError):
    """Another process is changing the index."""


class VectorMissing(IndexingError):
    """A change relies on a vector that the index no longer has, because the document changed in between."""
