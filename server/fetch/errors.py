"""Exceptions of fetching.

FetchError (Exception)
├── ArchiveError    an archive lacks a file, or has one with a path outside its folder
├── DownloadError   the registry's client failed, or the archive is not the pinned one
└── UnknownItem     the manifest has no such name
"""


class FetchError(Exception):
    """Base of all errors of this package; the message is for users."""


class ArchiveError(FetchError):
    """An archive does not match the manifest."""


class DownloadError(FetchError):
    """A package could not be downloaded."""


class UnknownItem(FetchError):
    """The manifest has no such name."""
