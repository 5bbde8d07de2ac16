"""The client's exceptions.

OctavoError
├── InvalidArgument (also a ValueError)    `violations` names the fields
│   ├── DocumentTooLarge                   also raised before sending
│   └── ReplyTooLarge                      use `stream`
├── NotFound
│   └── UnknownModel
├── FailedPrecondition
│   └── FingerprintMismatch
├── Unauthenticated
├── PermissionDenied
├── ResourceExhausted                      `retry_after` is set if the server gives it
├── Unavailable                            the server cannot be reached or is temporarily refusing calls
├── DeadlineExceeded (also a TimeoutError) the timeout or the server's default deadline has passed
├── Cancelled
├── IncompleteStream                       a stream ended before it was complete
├── DocumentsFailed                        some documents of `process` failed; has the error of each
└── ServerError                            an error of the server or of a proxy
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
    """A field of the request, as a path such as "options.window", and what is wrong with it."""

    field: str
    description: str


class OctavoError(Exception):
    """A failed call; `str()` is one line.

    Attributes:
        code: gRPC's status code; None if the error was found before sending.
        reason: the server's reason, such as "UNKNOWN_MODEL"; empty if the server gave none.
        metadata: the server's details of the reason.
        violations: the fields that are invalid.
        retry_after: seconds to wait as requested by the server.
        transient: whether the same call may succeed later.
        request_id: identifies the call in the server's log.
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
        """The part of a violation that the message does not mention."""
        if violation.description not in self.message:
            return f"({violation.field}: {violation.description})"
        return "" if violation.field in self.message else f"({violation.field})"


class InvalidArgument(OctavoError, ValueError):
    """The request is invalid; retrying does not help."""


class DocumentTooLarge(InvalidArgument):
    """The document has more bytes of UTF-8 than the server accepts."""


class ReplyTooLarge(InvalidArgument):
    """The reply would not fit in one message; use `stream`."""


class NotFound(OctavoError):
    """The requested resource does not exist."""


class UnknownModel(NotFound):
    """The server has no model of this name and version."""


class FailedPrecondition(OctavoError):
    """The server's state does not meet the call's conditions."""


class FingerprintMismatch(FailedPrecondition):
    """The vectors cannot share an index with those of the expected fingerprint."""


class Unauthenticated(OctavoError):
    """The token is missing or invalid."""


class PermissionDenied(OctavoError):
    """The caller is not allowed to do this."""


class ResourceExhausted(OctavoError):
    """A limit was reached."""


class Unavailable(OctavoError):
    """The server cannot be reached or is temporarily refusing calls."""


class DeadlineExceeded(OctavoError, TimeoutError):
    """The call's timeout, or the server's default deadline if there is none, passed before the reply was complete."""


class Cancelled(OctavoError):
    """The call was cancelled or its client was closed."""


class IncompleteStream(OctavoError):
    """The stream ended before it was complete."""


class DocumentsFailed(OctavoError):
    """All documents were answered, some with an error.

    Attributes:
        errors: the id and error of each failed document.
    """

    def __init__(self, errors: Iterable[tuple[object, OctavoError]]) -> None:
        self.errors = tuple(errors)
        first, error = self.errors[0]
        count = len(self.errors)
        super().__init__(f"{count:,} {'document' if count == 1 else 'documents'} failed, {first!r} first: {error}")


class ServerError(OctavoError):
    """An error of the server or of a proxy."""


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
    """Convert the error of a failed call, from grpc or grpc.aio."""
    call = cast("grpc.Call", fault)  # both kinds have its methods
    trailers = dict(call.trailing_metadata() or ())
    status = status_pb2.Status(code=call.code().value[0], message=call.details() or "")
    if isinstance(rich := trailers.get(DETAILS_KEY), bytes):
        status.details.extend(status_pb2.Status.FromString(rich).details)
    return from_status(status, pushback=_milliseconds(trailers.get(PUSHBACK_KEY)))


def from_status(status: status_pb2.Status, pushback: float | None = None) -> OctavoError:
    """Convert a google.rpc.Status; `pushback` is in seconds, negative for 'do not retry'."""
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
    """Whether to retry.

    Two cases are only transient with a retry delay: RESOURCE_EXHAUSTED, which gRPC also reports for messages that are
    too large, and QUEUE_FULL, which has no delay if the call would never fit.
    """
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or reason == "QUEUE_FULL":
        return retry_after is not None
    return code is grpc.StatusCode.UNAVAILABLE


def _milliseconds(value: str | bytes | None) -> float | None:
    """A pushback in seconds. As in gRPC, an invalid value means 'do not retry'."""
    if value is None:
        return None
    try:
        return int(value) / 1000
    except ValueError:
        return -1.0


@dataclass(slots=True)
class _Details:
    """The details of a status."""

    reason: str = ""
    metadata: Mapping[str, str] | None = None
    violations: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None

    @classmethod
    def of(cls, packed: Iterable[Any]) -> "_Details":
        """Read the known kinds of details and ignore others."""
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
