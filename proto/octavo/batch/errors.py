"""Exceptions of jobs.

BatchError
├── InputError      the input cannot be read (a bad row does not raise)
├── OutputError     the output cannot be written, or contains other files
├── OtherJob        the output belongs to a job with other options or inputs
├── TooManyErrors   more rows failed than --max-errors allows
└── Unserved        no server is left
"""

from typing import Self

from octavo.client import OctavoError


class BatchError(Exception):
    """A job that cannot continue; the message is one line. Completed parts are kept."""


class InputError(BatchError):
    """The input cannot be read; the message names the file."""


class OutputError(BatchError):
    """The output cannot be written, or contains other files."""


class OtherJob(BatchError):
    """The output belongs to a job with other options or inputs; the message names them."""


class TooManyErrors(BatchError):
    """More rows failed than allowed."""


class Unserved(BatchError):
    """No server is left; has the address and error of the last one."""

    def __init__(self, address: str, error: OctavoError) -> None:
        super().__init__(f"{address}: {error}")
        self.address = address
        self.error = error

    def __reduce__(self) -> tuple[type[Self], tuple[str, OctavoError]]:
        return type(self), (self.address, self.error)
