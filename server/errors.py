"""What can go wrong with a call, apart from what the leaves raise.

    CallError
    ├── InvalidCall              a field of the request is wrong
    │   ├── EmptyDocument
    │   ├── DocumentTooLarge
    │   ├── ReplyTooLarge
    │   └── Malformed            the bytes are not the message they should be
    ├── UnknownModel
    ├── FingerprintMismatch
    ├── Draining                 the server is stopping
    └── DeadlineExceeded

    StartError                   the server cannot start; one line for its owner

Messages name fields, limits and sizes, never a text. `server.rpc.status` alone turns them into statuses of the wire.
"""


class CallError(Exception):
    """A call that cannot be answered; its message is for the caller."""


class InvalidCall(CallError):
    """The request itself is wrong: the same call would fail again.

    Attributes:
        field: where, as a path into the request's message, such as `options.segmentation.max_tokens`.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class EmptyDocument(InvalidCall):
    """There is no token in the text."""

    def __init__(self, field: str) -> None:
        super().__init__(field, "the document has no token: it is empty, or whitespace and control characters alone")


class DocumentTooLarge(InvalidCall):
    """The text, or the texts of one call together, are over the configured size."""


class ReplyTooLarge(InvalidCall):
    """What was asked for would not fit the reply."""


class Malformed(InvalidCall):
    """The frame does not parse as its message."""

    def __init__(self) -> None:
        super().__init__("", "the request does not parse as its message type")


class UnknownModel(CallError):
    """No such model, or not in that version."""


class FingerprintMismatch(CallError):
    """The caller demands vectors of another fingerprint than this call would give."""


class Draining(CallError):
    """The server is stopping; another one, or this one a little later, will answer."""


class DeadlineExceeded(CallError):
    """The time for the call is over."""


class StartError(Exception):
    """The server cannot start as configured; the message is one line and says what to change."""
