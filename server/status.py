"""What went wrong, as callers are told: the only place that maps exceptions to reasons, codes and HTTP statuses.

A status has a code, a message for a person, an `ErrorInfo` (domain `octavo`, a reason of the closed list, the request
id), a `BadRequest` that names the field where a field is at fault, and for refusals a `RetryInfo` with the time to come
back and a `QuotaFailure` with whose quota it is. INTERNAL is a bug of ours; its message says
nothing of the exception, whose text may hold a user's.
"""

import math
from dataclasses import dataclass
from enum import StrEnum, auto

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status

from chunking import ChunkingError
from server import errors

DOMAIN = "octavo"


class Reason(StrEnum):
    """The closed list of reasons; a promise, documented in docs/errors.md."""

    @staticmethod
    def _generate_next_value_(name: str, start: int, count: int, last_values: list[str]) -> str:  # noqa: ARG004
        return name

    EMPTY_DOCUMENT = auto()
    DOCUMENT_TOO_LARGE = auto()
    REPLY_TOO_LARGE = auto()
    INVALID_OPTION = auto()
    MALFORMED_REQUEST = auto()
    UNKNOWN_MODEL = auto()
    FINGERPRINT_MISMATCH = auto()
    CURSOR_MISMATCH = auto()
    UNAUTHENTICATED = auto()
    PERMISSION_DENIED = auto()
    RATE_LIMITED = auto()
    QUEUE_FULL = auto()
    DRAINING = auto()
    DEADLINE = auto()
    INTERNAL = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """How one kind of error is told in each dialect.

    Attributes:
        code: of `google.rpc.Code`, as over gRPC.
        http: status of an HTTP response, except in TEI's dialect.
        openai: `error.type` of OpenAI's dialect.
        tei: `error_type` of text-embeddings-inference's, which decides its HTTP status.
    """

    error: type[Exception]
    reason: Reason
    code: int
    http: int
    openai: str
    tei: str


BAD, NOT_NOW = "invalid_request_error", "server_error"
UNKNOWN_CALLER, FORBIDDEN = "authentication_error", "permission_error"

# From the narrow to the wide: the first that fits is taken.
MAPPING = (
    Row(errors.EmptyDocument, Reason.EMPTY_DOCUMENT, Code.INVALID_ARGUMENT, 400, BAD, "Empty"),
    Row(errors.DocumentTooLarge, Reason.DOCUMENT_TOO_LARGE, Code.INVALID_ARGUMENT, 413, BAD, "Validation"),
    Row(errors.ReplyTooLarge, Reason.REPLY_TOO_LARGE, Code.INVALID_ARGUMENT, 400, BAD, "Validation"),
    Row(errors.Malformed, Reason.MALFORMED_REQUEST, Code.INVALID_ARGUMENT, 400, BAD, "Validation"),
    Row(errors.InvalidCall, Reason.INVALID_OPTION, Code.INVALID_ARGUMENT, 400, BAD, "Validation"),
    Row(ChunkingError, Reason.INVALID_OPTION, Code.INVALID_ARGUMENT, 400, BAD, "Validation"),
    Row(errors.UnknownModel, Reason.UNKNOWN_MODEL, Code.NOT_FOUND, 404, BAD, "Validation"),
    Row(errors.FingerprintMismatch, Reason.FINGERPRINT_MISMATCH, Code.FAILED_PRECONDITION, 412, BAD, "Validation"),
    Row(errors.CursorMismatch, Reason.CURSOR_MISMATCH, Code.FAILED_PRECONDITION, 412, BAD, "Validation"),
    Row(
        errors.Unauthenticated,
        Reason.UNAUTHENTICATED,
        Code.UNAUTHENTICATED,
        401,
        "authentication_error",
        "Unauthorized",
    ),
    Row(errors.PermissionDenied, Reason.PERMISSION_DENIED, Code.PERMISSION_DENIED, 403, FORBIDDEN, "Forbidden"),
    Row(errors.RateLimited, Reason.RATE_LIMITED, Code.RESOURCE_EXHAUSTED, 429, "rate_limit_error", "Overloaded"),
    Row(errors.QueueFull, Reason.QUEUE_FULL, Code.UNAVAILABLE, 503, NOT_NOW, "Overloaded"),
    Row(errors.Draining, Reason.DRAINING, Code.UNAVAILABLE, 503, NOT_NOW, "Unhealthy"),
    Row(errors.DeadlineExceeded, Reason.DEADLINE, Code.DEADLINE_EXCEEDED, 504, NOT_NOW, "Backend"),
    Row(Exception, Reason.INTERNAL, Code.INTERNAL, 500, NOT_NOW, "Backend"),
)


def row_of(error: BaseException) -> Row:
    """How an exception is told; what nobody foresaw is INTERNAL."""
    return next((row for row in MAPPING if isinstance(error, row.error)), MAPPING[-1])


def reason_of(error: BaseException) -> tuple[int, Reason]:
    """Code and reason of an exception."""
    row = row_of(error)
    return row.code, row.reason


def message_of(error: BaseException, request_id: str) -> str:
    """What the caller is told in words."""
    if row_of(error).reason is Reason.INTERNAL:
        return f"internal error; the server's log has it under {request_id}"
    return str(error)


def status_of(error: BaseException, request_id: str) -> Status:
    """The status that tells the caller of this exception."""
    code, reason = reason_of(error)
    internal = reason is Reason.INTERNAL
    message = message_of(error, request_id)
    metadata = {"request_id": request_id}
    details: list[Message] = []
    field = getattr(error, "field", "")
    if field and not internal:
        details.append(BadRequest(field_violations=[BadRequest.FieldViolation(field=field, description=message)]))
    if isinstance(error, errors.Refused) and error.retry_after is not None:
        details.append(RetryInfo(retry_delay=_delay(error.retry_after)))
    if isinstance(error, errors.RateLimited):
        metadata["quota"] = error.quota
        details.append(QuotaFailure(violations=[QuotaFailure.Violation(subject=error.subject, description=message)]))
    details.insert(0, ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata))
    return Status(code=code, message=message, details=[_packed(detail) for detail in details])


def _delay(seconds: float) -> Duration:
    """In whole milliseconds, the pushback's unit, and never too short."""
    delay = Duration()
    delay.FromMilliseconds(math.ceil(seconds * 1000))
    return delay


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
