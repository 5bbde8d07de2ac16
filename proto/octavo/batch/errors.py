"""What can go wrong with a job.

BatchError
├── InputError      the input cannot be read at all; a bad row is no error of the job's
├── OutputError     the output cannot be written, or holds what is not this job's
├── OtherJob        the output was begun with other options or inputs
├── TooManyErrors   more rows failed than --max-errors allows
└── Unserved        no server is left to do the rest
"""

from octavo.client import OctavoError


class BatchError(Exception):
    """A job that cannot go on; the message is one line. What is done stays done."""


class InputError(BatchError):
    """The input cannot be read; the message names the file."""


class OutputError(BatchError):
    """The output cannot be written, or holds what is not this job's."""


class OtherJob(BatchError):
    """The output was begun with other options or inputs; the message names each."""


class TooManyErrors(BatchError):
    """More rows failed than allowed."""


class Unserved(BatchError):
    """No server is left to do the rest: the last one's address, and what went wrong with it."""

    def __init__(self, address: str, error: OctavoError) -> None:
        super().__init__(f"{address}: {error}")
        self.address = address
        self.error = error
