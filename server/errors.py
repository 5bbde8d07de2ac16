"""What can go wrong with a call, apart from what the leaves raise.

    CallError
    ├── InvalidCall              a field of the request is wrong
    │   ├── EmptyDocument
    │   ├── DocumentTooLarge
    │   ├── ReplyTooLarge
    │   └── Malformed            the bytes are not the message they should be
    ├── UnknownModel
    ├── FingerprintMismatch
    ├── CursorMismatch
    ├── Unauthenticated          nobody that we know, or nobody at all
    ├── PermissionDenied         known, but not allowed to do this
    ├── Refused                  what was asked for is fine, the time for it is not
    │   ├── RateLimited          the client has used up what its plan allows
    │   ├── QueueFull            the server has more work than it can do in time
    │   └── Draining             the server is stopping
    └── DeadlineExceeded

    StartError                   the server cannot start; one line for its owner

Messages name fields, limits and sizes, never a text. `server.status` alone maps them to what callers are told.
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


class CursorMismatch(CallError):
    """The cursor belongs to another stream."""


class Unauthenticated(CallError):
    """Credentials are missing or not valid. Which part of them is wrong is not told."""


class PermissionDenied(CallError):
    """The client is known, but its plan does not include this."""


class Refused(CallError):
    """Not now: the same call may be answered later.

    Attributes:
        retry_after: seconds until then; None: unknown.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(Refused):
    """The client would get more than its plan allows; with no `retry_after`, at any time.

    Attributes:
        subject: whose quota it is, such as `client:acme`.
        quota: which one, by the plan's setting, such as `tokens_per_minute`.
    """

    def __init__(self, message: str, retry_after: float | None, *, subject: str, quota: str) -> None:
        super().__init__(message, retry_after)
        self.subject = subject
        self.quota = quota


class QueueFull(Refused):
    """The server has more work than it can do in time, whoever calls."""


class Draining(Refused):
    """The server is stopping; another one, or this one a little later, will answer."""


class DeadlineExceeded(CallError):
    """The time for the call is over."""


class StartError(Exception):
    """The server cannot start as configured; the message is one line and says what to change."""


def words_of(error: OSError | UnicodeError) -> str:
    """Return the system's words for a fault if it has some, else the exception's."""
    return getattr(error, "strerror", None) or str(error)
