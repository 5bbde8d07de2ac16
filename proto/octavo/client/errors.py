"""What can go wrong with a call.

OctavoError
├── InvalidArgument (also a ValueError)    the fields are named in `violations`
│   ├── DocumentTooLarge                   also raised before anything is sent
│   └── ReplyTooLarge                      use `stream`
├── NotFound
│   └── UnknownModel
├── FailedPrecondition
│   └── FingerprintMismatch
├── Unauthenticated
├── PermissionDenied
├── ResourceExhausted                      `retry_after` seconds, where the server says
├── Unavailable                            cannot be reached, or refuses for now
├── DeadlineExceeded (also a TimeoutError) the caller's timeout or the server's default deadline has passed
├── Cancelled
├── IncompleteStream                       a stream ended before it had said everything
├── DocumentsFailed                        some of `process`'s documents, with the error of each
└── ServerError                            a fault of the server, or of what stands between
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"
ERROR_DOMAIN = "octavo"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of the request, as a path ("options.window"), and what is wrong with it."""

    field: str
    description: str


class OctavoError(Exception):
    """A call that failed; `str()` is one line.

    `code` is gRPC's, None when the fault was found before sending. `reason` is the server's ("UNKNOWN_MODEL"), empty
    when the fault is not the server's. `retry_after` are the seconds to wait that the server asks for; `transient`
    says whether the same call may succeed later. `metadata` is what the server adds to the reason; its `request_id`
    finds the call in the server's log.
    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[FieldViolation] = (),
        retry_after: float | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.transient = transient
        self.request_id = self.metadata.get("request_id", "")

    def __str__(self) -> str:
        parts = [self.message, *(self._unsaid(each) for each in self.violations)]
        return " ".join(" ".join(parts).split()) or self.reason or type(self).__name__

    def number(self, index: int) -> None:
        """Says which of several texts this is about. Each was a request of its own, in which it was the first."""
        self.message = f"texts[{index}]: {self.message}"
        self.args = (self.message,)
        self.violations = tuple(
            FieldViolation(each.field.replace("documents[0].text", f"texts[{index}]"), each.description)
            for each in self.violations
        )

    def _unsaid(self, violation: FieldViolation) -> str:
        """What the message does not say of a field already."""
        if violation.description not in self.message:
            return f"({violation.field}: {violation.description})"
        return "" if violation.field in self.message else f"({violation.field})"


class InvalidArgument(OctavoError, ValueError):
    """The request is at fault; sending it again does not help."""


class DocumentTooLarge(InvalidArgument):
    """The document has more bytes of UTF-8 than the server takes."""


class ReplyTooLarge(InvalidArgument):
    """The answer would not fit one message; `stream` sends it in parts."""


class NotFound(OctavoError):
    """There is no such thing."""


class UnknownModel(NotFound):
    """The server serves no model of that name and version."""


class FailedPrecondition(OctavoError):
    """The server's state is not what the call demands."""


class FingerprintMismatch(FailedPrecondition):
    """The vectors could not share an index with those of the expected fingerprint."""


class Unauthenticated(OctavoError):
    """The server does not know who calls."""


class PermissionDenied(OctavoError):
    """The caller may not do that."""


class ResourceExhausted(OctavoError):
    """A limit is reached."""


class Unavailable(OctavoError):
    """The server cannot be reached, or refuses for now."""


class DeadlineExceeded(OctavoError, TimeoutError):
    """The call's timeout, or without one the server's default deadline, passed before the answer was complete."""


class Cancelled(OctavoError):
    """The call was cancelled, or its client closed."""


class IncompleteStream(OctavoError):
    """The stream ended before it had said everything."""


class DocumentsFailed(OctavoError):
    """All documents were answered, some of them with an error: `errors` has their ids and what is wrong with each."""

    def __init__(self, errors: Iterable[tuple[object, OctavoError]]) -> None:
        self.errors = tuple(errors)
        first, error = self.errors[0]
        count = len(self.errors)
        super().__init__(f"{count:,} {'document' if count == 1 else 'documents'} failed, {first!r} first: {error}")


class ServerError(OctavoError):
    """A fault of the server, or of what stands between it and us."""


_BY_REASON: dict[str, type[OctavoError]] = {
    "DOCUMENT_TOO_LARGE": DocumentTooLarge,
    "REPLY_TOO_LARGE": ReplyTooLarge,
    "UNKNOWN_MODEL": UnknownModel,
    "FINGERPRINT_MISMATCH": FingerprintMismatch,
}
_BY_CODE: dict[grpc.StatusCode, type[OctavoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: Cancelled,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def from_call(fault: grpc.RpcError) -> OctavoError:
    """The error of a failed call, of grpc's or of grpc.aio's."""
    call = cast("grpc.Call", fault)  # both have its methods
    trailers = dict(call.trailing_metadata() or ())
    status = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    if isinstance(rich := trailers.get(DETAILS_KEY), bytes):
        status.details.extend(status_pb2.Status.FromString(rich).details)
    return from_status(status, pushback=_milliseconds(trailers.get(PUSHBACK_KEY)))


def from_status(status: status_pb2.Status, pushback: float | None = None) -> OctavoError:
    """The error that a google.rpc.Status describes; `pushback` are seconds, negative for 'do not retry'."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    details = _Details.of(status.details)
    kind = _BY_REASON.get(details.reason) or _BY_CODE.get(code, ServerError)
    retry_after = details.retry_after if pushback is None else max(pushback, 0.0)
    refused_for_good = pushback is not None and pushback < 0
    return kind(
        status.message,
        code=code,
        reason=details.reason,
        metadata=details.metadata,
        violations=details.violations,
        retry_after=None if refused_for_good else retry_after,
        transient=not refused_for_good and _is_transient(code, details.reason, retry_after),
    )


def _is_transient(code: grpc.StatusCode, reason: str, retry_after: float | None) -> bool:
    """Whether to try again.

    Two need a hint when: RESOURCE_EXHAUSTED, which gRPC itself reports for messages too large, and QUEUE_FULL, which
    has none where the call would never fit.
    """
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or reason == "QUEUE_FULL":
        return retry_after is not None
    return code is grpc.StatusCode.UNAVAILABLE


def _milliseconds(value: str | bytes | None) -> float | None:
    """A pushback in seconds. gRPC reads what it cannot parse as 'do not retry'."""
    if value is None:
        return None
    try:
        return int(value) / 1000
    except ValueError:
        return -1.0


@dataclass(slots=True)
class _Details:
    """What a status carries beside its code and message."""

    reason: str = ""
    metadata: Mapping[str, str] | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None

    @classmethod
    def of(cls, packed: Iterable[Any]) -> "_Details":
        """Reads the kinds that we know and passes over the others."""
        found = cls()
        for each in packed:
            if each.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo.FromString(each.value)
                if info.domain == ERROR_DOMAIN:
                    found.reason, found.metadata = info.reason, dict(info.metadata)
            elif each.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                request = error_details_pb2.BadRequest.FromString(each.value)
                found.violations = tuple(FieldViolation(v.field, v.description) for v in request.field_violations)
            elif each.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                delay = error_details_pb2.RetryInfo.FromString(each.value).retry_delay
                found.retry_after = delay.seconds + delay.nanos * 1e-9
        return found
