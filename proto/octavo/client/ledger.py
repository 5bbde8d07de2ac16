"""The account of many documents that travel through one stream, which both clients keep alike. No I/O, no locks."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

from octavo.client import replies, requests
from octavo.client.errors import OctavoError, ServerError, from_status
from octavo.client.results import Analysis
from octavo.v1 import inference_pb2 as pb

MAX_HELD_CHARACTERS = 32_000_000
"""Of texts that are not answered yet; a longer one is alone."""

K = TypeVar("K")


class Ledger(Generic[K]):
    """Which documents were taken on and not answered yet, and what has come of their answers.

    On the wire a document has a number for an id, which is unique whatever the caller's ids are.

    Attributes:
        start: the first message of each stream.
        exhausted: there will be no further documents.
        draining: why the server of the present stream reads no more.
    """

    def __init__(self, start: pb.ProcessDocumentsRequest, in_flight: int, max_document_bytes: int) -> None:
        self.start = start
        self.exhausted = False
        self.draining: OctavoError | None = None
        self._ready = False
        self._in_flight = in_flight
        self._max_document_bytes = max_document_bytes
        self._numbers = itertools.count()
        self._held: dict[str, tuple[K, str]] = {}
        self._characters = 0
        self._unsent: deque[str] = deque()
        self._parts: dict[str, list[pb.AnalyzeResponse]] = {}
        self._outcomes: deque[tuple[K, Analysis | OctavoError]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another document may be taken on."""
        return len(self._held) < self._in_flight and self._characters < MAX_HELD_CHARACTERS

    @property
    def finished(self) -> bool:
        """Whether all documents were answered."""
        return self.exhausted and not self._held

    def add(self, key: K, text: str) -> None:
        """Takes a document on. One that cannot be sent has its outcome at once."""
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
        """The messages of the next document; None while there is none to be sent.

        None is before the server says that it is ready: who is refused need not have sent a text in vain.
        """
        if self.draining or not self._ready or not self._unsent:
            return None
        number = self._unsent.popleft()
        return requests.document_parts(number, self._held[number][1])

    @property
    def nothing_follows(self) -> bool:
        """Whether the present stream has been given all that it will be."""
        return self.draining is not None or (self.exhausted and not self._unsent)

    def take(self, response: pb.ProcessDocumentsResponse) -> None:
        """Enters what the server says."""
        match response.WhichOneof("message"):
            case "result":
                self._take_result(response.result)
            case "ready":
                self._ready = True
            case "draining":
                self.draining = from_status(response.draining)

    def outcomes(self) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Gives out, once, what has become of documents since."""
        while self._outcomes:
            yield self._outcomes.popleft()

    def reason(self, end: OctavoError) -> OctavoError:
        """Why a stream that ended so did not answer all; a server that drains has said when to come back."""
        return self.draining if self.draining and end.transient else end

    def reopen(self) -> None:
        """Prepares for another stream, to which everything unanswered is to be sent."""
        self._ready, self.draining = False, None
        self._parts.clear()
        self._unsent = deque(self._held)

    def _take_result(self, result: pb.DocumentResult) -> None:
        if result.id not in self._held:
            raise ServerError("the server answered a document that it was not sent")
        if result.WhichOneof("outcome") == "ok":
            self._parts.setdefault(result.id, []).append(result.ok)
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
