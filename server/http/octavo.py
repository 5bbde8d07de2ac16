"""The methods of octavo.v1, as the dialects call them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import Message

from octavo.v1 import inference_pb2 as pb
from server.errors import EmptyDocument
from server.http.errors import Headers
from server.http.token_ids import Decode
from server.inference.models import Catalogue
from server.inference.service import Service
from server.limits import Context
from server.scheduling.fair_queue import FairGate
from server.types import Priority
from server.v1.inference import InferenceServicer

M = TypeVar("M", bound=Message)
T = TypeVar("T")

INPUT_TYPES = {"query": pb.INPUT_TYPE_QUERY, "passage": pb.INPUT_TYPE_PASSAGE, None: pb.INPUT_TYPE_UNSPECIFIED}
READERS = 2  # threads for texts that are only tokenised
AT_ONCE = 32  # documents of a call, in methods that take one
PARSED_ASIDE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a call.

    Attributes:
        max_inputs: texts.
        max_concurrent: calls of all clients, for those who ask.
    """

    max_inputs: int
    max_concurrent: int
    max_document_bytes: int
    max_reply_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Octavo:
    """Calls the methods in this process.

    Attributes:
        inference: the service; its unary methods return a message, or its bytes if that is long.
        decode: reads the token ids of OpenAI's clients; None: they are refused.
        readers: places of those who tokenise.
    """

    inference: InferenceServicer
    service: Service
    catalogue: Catalogue
    limits: Bounds
    decode: Decode | None = None
    readers: FairGate = field(default_factory=lambda: FairGate(READERS))

    async def aside(self, context: Context, work: Callable[[], T]) -> T:
        """Run what takes long off the event loop, when it is the client's turn."""
        async with self.readers.entered(context.client, Priority.INTERACTIVE):
            return await asyncio.to_thread(work)

    async def embed(
        self, texts: Sequence[str], options: pb.CallOptions, embed: pb.EmbedOptions, context: Context
    ) -> pb.EmbedResponse:
        """Embed texts, none of which is empty.

        Raises:
            EmptyDocument: one of them is.
        """
        documents = [pb.Document(text=text) for text in texts]
        request = pb.EmbedRequest(documents=documents, options=options, embed=embed)
        response = await _whole(self.inference.Embed(request, context), pb.EmbedResponse)
        for i, result in enumerate(response.results):
            if result.HasField("status"):
                raise EmptyDocument(f"documents[{i}].text")
        return response

    async def rank(
        self, texts: Sequence[str], options: pb.CallOptions, rank: pb.RankOptions, context: Context, top_k: int = 0
    ) -> pb.RankResponse:
        """Rank texts; those without a token come last."""
        documents = [pb.Document(text=text) for text in texts]
        request = pb.RankRequest(documents=documents, options=options, rank=rank, top_k=top_k)
        return await _whole(self.inference.Rank(request, context), pb.RankResponse)

    async def analyze(
        self, texts: Sequence[str], options: pb.CallOptions, task: pb.Task, context: Context
    ) -> list[pb.AnalyzeResponse]:
        """Run a task over each text."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(i: int, text: str) -> pb.AnalyzeResponse:
            request = pb.AnalyzeRequest(document=pb.Document(text=text), options=options, tasks=[task])
            async with gate:
                try:
                    return await _whole(self.inference.Analyze(request, context), pb.AnalyzeResponse)
                except EmptyDocument:
                    raise EmptyDocument(f"documents[{i}].text") from None

        tasks = [asyncio.ensure_future(one(*each)) for each in enumerate(texts)]
        try:
            return await asyncio.gather(*tasks)  # raises the first fault
        finally:
            for each in tasks:
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _whole(reply: Awaitable[Any], kind: type[M]) -> M:
    made: M | bytes = await reply
    if not isinstance(made, bytes):
        return made
    if len(made) > PARSED_ASIDE_BYTES:
        parsed: M = await asyncio.to_thread(kind.FromString, made)
        return parsed
    return kind.FromString(made)


def reading_headers(segments: int | None, usage: pb.Usage, fingerprint: str, left_out: int = 0) -> Headers:
    """What was read: all of it, however long, but for the characters that the caller wanted left out.

    Rank does not tell the number of segments.
    """
    return [
        *([] if segments is None else [(b"x-octavo-segments", b"%d" % segments)]),
        (b"x-octavo-tokens", b"%d" % usage.tokens),
        (b"x-octavo-cached-tokens", b"%d" % usage.cached_tokens),
        (b"x-octavo-fingerprint", fingerprint.encode()),
        *([(b"x-octavo-truncated-characters", b"%d" % left_out)] if left_out else []),
    ]
