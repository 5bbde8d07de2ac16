"""A status as gRPC sends it."""

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from server.status import Reason

CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


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
