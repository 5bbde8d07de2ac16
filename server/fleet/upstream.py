"""A call to a replica for a caller: what is passed on, and what a failure means."""

from dataclasses import dataclass
from typing import Final

import grpc
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from server.errors import DeadlineExceeded, Draining
from server.limits import Context
from server.rpc.call_gate import GrpcContext
from server.status import Reason

RETRY_SECONDS: Final = 0.5  # after which a stream's caller finds another replica

_STATUS: Final = "grpc-status-details-bin"
_OWN: Final = ("grpc-", "user-agent", ":")  # metadata of a connection, not of a call
_CONNECTION: Final = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}


@dataclass(frozen=True, slots=True, eq=False)
class Relayed:
    """What the front's handlers have of a call."""

    call: Context
    grpc: GrpcContext


def forwarded(context: GrpcContext) -> tuple[tuple[str, str | bytes], ...]:
    """The caller's metadata, keys included."""
    return tuple((key, value) for key, value in context.invocation_metadata() or () if not key.startswith(_OWN))


def is_lost(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection failed: no server answered, for Octavo's errors have a status with details."""
    return error.code() in _CONNECTION and _status(error) is None


def has_left(error: grpc.aio.AioRpcError) -> bool:
    """Whether another replica should be asked: this one was lost, or is stopping."""
    return is_lost(error) or _reason(error) == Reason.DRAINING


async def refuse(error: grpc.aio.AioRpcError, context: GrpcContext) -> None:
    """End a call as the replica ended it.

    Raises:
        AbortError: always, unless one of the next.
        DeadlineExceeded: the deadline passed without an answer.
        Draining: replicas were lost.
    """
    if is_lost(error):
        raise broken()
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED and _status(error) is None:
        raise DeadlineExceeded("the deadline passed before a replica answered")
    await context.abort(error.code(), error.details() or "", tuple(error.trailing_metadata() or ()))


def broken() -> Draining:
    """The error of a call that was being answered when its replica was lost."""
    return Draining("the replica that answered has left the fleet: resume, or send again", RETRY_SECONDS)


def _reason(error: grpc.aio.AioRpcError) -> str:
    info = ErrorInfo()
    status = _status(error)
    return next((info.reason for detail in status.details if detail.Unpack(info)), "") if status else ""


def _status(error: grpc.aio.AioRpcError) -> Status | None:
    values = [value for key, value in error.trailing_metadata() or () if key == _STATUS]
    return Status.FromString(values[0]) if values else None
