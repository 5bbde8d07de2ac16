"""The state of a stream of documents, shared by both clients. No I/O, no locks."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from octavo.client import replies, requests
from octavo.client.errors import OctavoError, ServerError, from_status
from octavo.client.results import Analysis, Segment
from octavo.v1 import inference_pb2 as pb

MAX_HELD_CHARACTERS = 32_000_000
"""Limit of unanswered texts; a longer text is sent alone."""

K = TypeVar("K")


class Ledger(Generic[K]):
    """Tracks unanswered documents and collects their outcomes.

    On the wire, documents are identified by numbers, which are unique even if the caller's ids are not.

    Attributes:
        start: the first message of each stream.
        exhausted: there are no further documents.
        draining: why the server reads no more from the current stream.
    """

    def __init__(
        self,
        start: pb.ProcessDocumentsRequest,
        in_flight: int,
        max_document_bytes: int,
        on_segments: Callable[[K, Sequence[Segment]], None] | None = None,
    ) -> None:
        self.start = start
        self.exhausted = False
        self.draining: OctavoError | None = None
        self._ready = False
        self._in_flight = in_flight
        self._max_document_bytes = max_document_bytes
        self._on_segments = on_segments
        self._numbers = itertools.count()
        self._held: dict[str, tuple[K, str]] = {}
        self._characters = 0
        self._unsent: deque[str] = deque()
        self._parts: dict[str, list[pb.AnalyzeResponse]] = {}
        self._outcomes: deque[tuple[K, Analysis | OctavoError]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another document may be added."""
        return len(self._held) < self._in_flight and self._characters < MAX_HELD_CHARACTERS

    @property
    def finished(self) -> bool:
        """Whether all documents were answered."""
        return self.exhausted and not self._held

    def add(self, key: K, text: str) -> None:
        """Add a document. One that cannot be sent gets its outcome immediately."""
        try:
            requests.check_document(text, self._max_document_bytes)
        except OctavoError as error:
            self._outcomes.append((key, error))
            return
        number = str(next(self._numbers))
        self._held[number] = (key, text)
        self._characters += len(text)
        self._unsent.append(number)

    def next_to_send(self) -> Iterator[pb.ProcessDocumentsRequest] | None:
        """The messages of the next document; None if there is nothing to send.

        Nothing is sent until the server is ready, so that a refused stream has not sent a text in vain.
        """
        if self.draining or not self._ready or not self._unsent:
            return None
        number = self._unsent.popleft()
        return requests.document_parts(number, self._held[number][1])

    @property
    def nothing_follows(self) -> bool:
        """Whether nothing more will be sent on the current stream."""
        return self.draining is not None or (self.exhausted and not self._unsent)

    def take(self, response: pb.ProcessDocumentsResponse) -> None:
        """Process a message from the server."""
        match response.WhichOneof("message"):
            case "result":
                self._take_result(response.result)
            case "ready":
                self._ready = True
            case "draining":
                self.draining = from_status(response.draining)

    def outcomes(self) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Yield outcomes that have not been yielded yet."""
        while self._outcomes:
            yield self._outcomes.popleft()

    def reason(self, end: OctavoError) -> OctavoError:
        """The error of an incomplete stream; a draining server's own error, since it says when to retry."""
        return self.draining if self.draining and end.transient else end

    def reopen(self) -> None:
        """Prepare for another stream, which all unanswered documents will be sent to."""
        self._ready, self.draining = False, None
        self._parts.clear()
        self._unsent = deque(self._held)

    def _take_result(self, result: pb.DocumentResult) -> None:
        if result.id not in self._held:
            raise ServerError("the server answered a document that was not sent")
        if result.WhichOneof("outcome") == "ok":
            self._parts.setdefault(result.id, []).append(result.ok)
            if self._on_segments and result.ok.segments:
                self._on_segments(self._held[result.id][0], replies.segments(result.ok.segments))
        if result.more:
            return
        key, text = self._held.pop(result.id)
        self._characters -= len(text)
        self._outcomes.append((key, self._outcome(result, self._parts.pop(result.id, []))))

    def _outcome(self, result: pb.DocumentResult, parts: list[pb.AnalyzeResponse]) -> Analysis | OctavoError:
        if result.WhichOneof("outcome") == "error":
            return from_status(result.error)
        try:
            return replies.joined_analysis(parts)
        except OctavoError as error:
            return error
