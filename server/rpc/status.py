"""What went wrong, as the wire says it: the only place that maps exceptions to statuses.

A status has a code, a message for a person, an `ErrorInfo` (domain `octavo`, a reason of the closed list, the request
id), a `BadRequest` that names the field where a field is at fault, and for refusals a `RetryInfo` with the time to come
back and a `QuotaFailure` with whose quota it is. INTERNAL is a bug of ours; its message says
nothing of the exception, whose text may hold a user's.
"""

import math
from enum import StrEnum, auto

import grpc
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


# From the narrow to the wide: the first that fits is taken.
MAPPING: tuple[tuple[type[Exception], int, Reason], ...] = (
    (errors.EmptyDocument, Code.INVALID_ARGUMENT, Reason.EMPTY_DOCUMENT),
    (errors.DocumentTooLarge, Code.INVALID_ARGUMENT, Reason.DOCUMENT_TOO_LARGE),
    (errors.ReplyTooLarge, Code.INVALID_ARGUMENT, Reason.REPLY_TOO_LARGE),
    (errors.Malformed, Code.INVALID_ARGUMENT, Reason.MALFORMED_REQUEST),
    (errors.InvalidCall, Code.INVALID_ARGUMENT, Reason.INVALID_OPTION),
    (ChunkingError, Code.INVALID_ARGUMENT, Reason.INVALID_OPTION),
    (errors.UnknownModel, Code.NOT_FOUND, Reason.UNKNOWN_MODEL),
    (errors.FingerprintMismatch, Code.FAILED_PRECONDITION, Reason.FINGERPRINT_MISMATCH),
    (errors.CursorMismatch, Code.FAILED_PRECONDITION, Reason.CURSOR_MISMATCH),
    (errors.Unauthenticated, Code.UNAUTHENTICATED, Reason.UNAUTHENTICATED),
    (errors.PermissionDenied, Code.PERMISSION_DENIED, Reason.PERMISSION_DENIED),
    (errors.RateLimited, Code.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED),
    (errors.QueueFull, Code.UNAVAILABLE, Reason.QUEUE_FULL),
    (errors.Draining, Code.UNAVAILABLE, Reason.DRAINING),
    (errors.DeadlineExceeded, Code.DEADLINE_EXCEEDED, Reason.DEADLINE),
)


def reason_of(error: BaseException) -> tuple[int, Reason]:
    """Code and reason of an exception; what nobody foresaw is INTERNAL."""
    for kind, code, reason in MAPPING:
        if isinstance(error, kind):
            return code, reason
    return Code.INTERNAL, Reason.INTERNAL


def status_of(error: BaseException, request_id: str) -> Status:
    """The status that tells the caller of this exception."""
    code, reason = reason_of(error)
    internal = reason is Reason.INTERNAL
    message = f"internal error; the server's log has it under {request_id}" if internal else str(error)
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


def trailers_of(status: Status) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata with the whole status and, for a stock client's retry policy, a pushback.

    A refusal that knows when to come back says so; a server that stops without knowing leaves the wait to the client's
    own policy; all else would fail again.

    Source: gRPC's richer error model (`grpc-status-details-bin`); gRFC A6 (a negative pushback forbids a retry).
    """
    details = ("grpc-status-details-bin", status.SerializeToString())
    hint, info = RetryInfo(), ErrorInfo()
    for packed in status.details:
        packed.Unpack(info)
        if packed.Unpack(hint):
            return details, ("grpc-retry-pushback-ms", str(hint.retry_delay.ToMilliseconds()))
    return (details,) if info.reason == Reason.DRAINING else (details, ("grpc-retry-pushback-ms", "-1"))


CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def _delay(seconds: float) -> Duration:
    """In whole milliseconds, the pushback's unit, and never too short."""
    delay = Duration()
    delay.FromMilliseconds(math.ceil(seconds * 1000))
    return delay


def _packed(message: Message) -> Any:
    packed = Any()
    packed.Pack(message)
    return packed
