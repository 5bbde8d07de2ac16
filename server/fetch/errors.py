"""What can go wrong with fetching.

FetchError (Exception)
├── ArchiveError    an archive lacks a file, or has one that would leave its folder
├── DownloadError   the registry's client failed, or gave something else than what is pinned
└── UnknownItem     nothing of that name in the manifest
"""


class FetchError(Exception):
    """Base of all errors of this package; the message is for people."""


class ArchiveError(FetchError):
    """An archive that is not what the manifest says of it."""


class DownloadError(FetchError):
    """A package that could not be had."""


class UnknownItem(FetchError):
    """A name that the manifest does not have."""
