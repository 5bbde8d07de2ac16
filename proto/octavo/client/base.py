"""The base of both clients: construction, requests and checks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from octavo.client import requests
from octavo.client.arguments import (
    CallArguments,
    DocumentArguments,
    EmbedArguments,
    RankArguments,
    SegmentArguments,
    Task,
)
from octavo.client.channel import MAX_DOCUMENT_BYTES, authorization, channel_options, checked_address
from octavo.client.ledger import Ledger
from octavo.client.requests import Request
from octavo.client.results import Segment
from octavo.client.retry import Attempts, Retry
from octavo.v1 import inference_pb2 as pb


class BaseClient(ABC):
    """Calls one server.

    Every call takes `timeout` in seconds (None: no limit) and the keyword arguments of `CallArguments`. Transient
    errors are retried within the timeout, as `retry` says; other errors are raised as OctavoError.

    Args:
        address: HOST:PORT, [IPV6]:PORT or unix:PATH.
        token: the client's key, "oct_…" as printed by `octavo keys add`; sent with each call, never shown.
        credentials: TLS credentials, such as from grpc.ssl_channel_credentials; None: no encryption.
        insecure_token: allow sending the token unencrypted to another machine, where others can read it.
        retry: when to retry.
        max_document_bytes: larger documents are refused before they are sent.

    Raises:
        ValueError: the address or token is malformed, or the token would be sent unencrypted.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        insecure_token: bool = False,
        retry: Retry | None = None,
        max_document_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> None:
        self.address = checked_address(address)
        self.max_document_bytes = max_document_bytes
        self._metadata = authorization(address, token, encrypted=credentials is not None, insecure_token=insecure_token)
        self._retry = retry or Retry()
        self._open(credentials, channel_options(address, max_document_bytes))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @abstractmethod
    def _open(self, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]) -> None:
        """Create the channel and stubs."""

    def _attempts(self, timeout: float | None) -> Attempts:
        return Attempts(self._retry, timeout)

    def _embed_request(self, text: str, arguments: EmbedArguments) -> pb.EmbedRequest:
        return requests.embed_request(text, self.max_document_bytes, arguments)

    def _task_request(self, request: type[Request], kind: type[Task], text: str, arguments: CallArguments) -> Request:
        return requests.task_request(request, kind, text, self.max_document_bytes, arguments)

    def _rank_request(self, query: str, texts: Sequence[str], arguments: RankArguments) -> pb.RankRequest:
        return requests.rank_request(query, texts, self.max_document_bytes, arguments)

    def _segment_request(self, text: str, arguments: SegmentArguments) -> pb.SegmentRequest:
        return requests.segment_request(text, self.max_document_bytes, arguments)

    def _analyze_request(self, text: str, tasks: Mapping[str, Task], arguments: DocumentArguments) -> pb.AnalyzeRequest:
        return requests.analyze_request(text, tasks, self.max_document_bytes, **arguments)

    def _stream_request(
        self, text: str, tasks: Mapping[str, Task] | None, arguments: DocumentArguments
    ) -> pb.StreamSegmentsRequest:
        return requests.stream_request(text, tasks, self.max_document_bytes, **arguments)

    def _check_many(self, in_flight: int, arguments: EmbedArguments) -> None:
        """Check arguments when `embed_many` is called instead of when its first result is requested."""
        _check_in_flight(in_flight)
        self._embed_request("", arguments)

    def _ledger(
        self,
        tasks: Mapping[str, Task] | None,
        segments: bool,
        on_segments: Callable[[Any, Sequence[Segment]], None] | None,
        in_flight: int,
        arguments: CallArguments,
    ) -> Ledger[Any]:
        _check_in_flight(in_flight)
        start = requests.process_start(tasks, segments=segments, **arguments)
        return Ledger(start, in_flight, self.max_document_bytes, on_segments)


def _check_in_flight(in_flight: int) -> None:
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, not {in_flight}")
