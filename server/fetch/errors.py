"""Exceptions of fetching.

FetchError (Exception)
├── ArchiveError      an archive lacks a file, or has one with a path outside its folder
├── DownloadError     the registry or hub cannot be reached, or the content is not the pinned one
├── UnknownItem       the manifest has no such name
└── UnsupportedModel  a repository's model cannot be served
"""


class FetchError(Exception):
    """Base of all errors of this package; the message is for users."""


class ArchiveError(FetchError):
    """An archive does not match the manifest."""


class DownloadError(FetchError):
    """A package or a model could not be downloaded."""


class UnknownItem(FetchError):
    """The manifest has no such name."""


class UnsupportedModel(FetchError):
    """A repository's model cannot be served."""
