"""The inference service: a call in, answers out. Doors convert what they speak into calls, and answers into replies."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from server.errors import EmptyDocument
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage, within
from server.inference.pipeline import Document, Pipeline, Prepared, Result
from server.scheduling.forecast import Reservation

T = TypeVar("T")

DOCUMENTS_AT_ONCE = 32  # of one call; enough to pack short ones into full runs
MARGIN_SECONDS = 1.0  # before a stream's deadline, for its summary; a tenth of the time left if that is less


Grow = Callable[[Sequence[int]], None]
"""Told the documents' numbers of segments while they are read; raises once a door can't answer so much in one reply."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A document that was read to its end.

    Attributes:
        groups: its segments, as they were read.
        count: how many they are.
        usage: its tokens; those that may have to be computed count as computed.
    """

    document: Document
    groups: list[list[Prepared]]
    count: int
    usage: Usage

    @property
    def segments(self) -> Iterator[Prepared]:
        """All segments in order."""
        return chain.from_iterable(self.groups)


class Service:
    """Answers calls. Whatever is wrong with one is raised as a `CallError`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def price(self, usage: Usage) -> float:
        """What a call's tokens are charged at."""
        return self._pipeline.price(usage.computed, usage.cached)

    async def segment(
        self, call: Call, text: str, field: str, timings: Timings, grow: Grow
    ) -> tuple[Iterator[Prepared], Usage]:
        """Cut a document, and tell what it would cost; the model does not run.

        Returns:
            Its segments, and its usage, in which those tokens count as computed for which a layer would run.
        """
        async with self._reserved(call) as reservation:
            cut = await self._cut(call, text, field, timings, reservation, lambda count: grow([count]))
            uncached = 0
            for group in cut.groups:
                known = await self._pipeline.known(cut.document, group)
                sizes = [prepared.segment.processed_tokens for prepared in group]
                uncached += sum(size for size, is_known in zip(sizes, known, strict=True) if not is_known)
        return cut.segments, replace(cut.usage, computed=uncached)

    async def analyze(self, call: Call, text: str, field: str, timings: Timings, grow: Grow) -> Answer:
        """Answer the call's tasks over one document, in one pass."""
        (answer,) = await self.embed(call, [text], [field], timings, grow)
        if isinstance(answer, EmptyDocument):
            raise answer
        return answer

    async def embed(
        self, call: Call, texts: Sequence[str], fields: Sequence[str], timings: Timings, grow: Grow
    ) -> list[Answer | EmptyDocument]:
        """Answer the call's tasks over each document; an empty one is a fault of its own."""
        async with self._reserved(call) as reservation:
            reservation.foresee(sum(map(len, texts)), call.deadline)
            cuts: list[Cut | EmptyDocument] = []
            counts: list[int] = []
            for text, field in zip(texts, fields, strict=True):
                try:
                    cut = await self._cut(call, text, field, timings, reservation, lambda count: grow([*counts, count]))
                    cuts.append(cut)
                    counts.append(cut.count)
                except EmptyDocument as fault:
                    cuts.append(fault)
                    counts.append(0)
            usage = sum((cut.usage for cut in cuts if isinstance(cut, Cut)), Usage())
            await self._pipeline.admit(call, reservation, usage.computed, usage.cached)
            return await self._answer_all(cuts)

    async def stream(self, call: Call, text: str, timings: Timings) -> AsyncGenerator[Result, None]:
        """Answer segment by segment, in order, until shortly before the deadline.

        Raises:
            DeadlineExceeded: only the deadline is near, with time for a summary of what there is.
        """
        last_moment = call.deadline - min(MARGIN_SECONDS, 0.1 * (call.deadline - timings.began))
        with self._pipeline.reserve(call) as reservation:
            async with aclosing(self.results(call, text, timings, reservation)) as results:
                while True:
                    async with within(last_moment):
                        result = await anext(results, None)
                    if result is None:
                        return
                    yield result

    async def take(self, answer: Answer, result: Result) -> SegmentAnswer:
        """Let an answer take in its next segment, off the event loop if there are many spans."""
        if answer.call.has_many_spans:
            return await self.aside(answer.call, lambda: answer.take(result))
        return answer.take(result)

    async def aside(self, call: Call, work: Callable[[], T]) -> T:
        """Run what takes long off the event loop, when it is the client's turn."""
        return await self._pipeline.aside(call, work)

    def reserve(self, call: Call) -> AbstractContextManager[Reservation]:
        """What a stream of documents takes of the machine's time."""
        return self._pipeline.reserve(call)

    async def results(
        self, call: Call, text: str, timings: Timings, reservation: Reservation
    ) -> AsyncGenerator[Result, None]:
        """Answer one document of a stream of them, segment by segment, in order."""
        document = self._pipeline.open(call, text, timings, reservation)
        async with aclosing(self._pipeline.results(document, self._pipeline.read(document))) as results:
            async for result in results:
                yield result

    @asynccontextmanager
    async def _reserved(self, call: Call) -> AsyncIterator[Reservation]:
        """A call's time, and its reservation of the machine's."""
        with self._pipeline.reserve(call) as reservation:
            async with within(call.deadline):
                yield reservation

    async def _cut(
        self,
        call: Call,
        text: str,
        field: str,
        timings: Timings,
        reservation: Reservation,
        grow: Callable[[int], None],
    ) -> Cut:
        document = self._pipeline.open(call, text, timings, reservation)
        groups: list[list[Prepared]] = []
        count, usage = 0, Usage()
        async with aclosing(self._pipeline.read(document)) as reading:
            async for group in reading:
                groups.append(group)
                count += len(group)
                usage += _usage_of(group)
                grow(count)
        if not count:
            raise EmptyDocument(field)
        return Cut(document, groups, count, usage)

    async def _answer_all(self, cuts: Sequence[Cut | EmptyDocument]) -> list[Answer | EmptyDocument]:
        gate = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

        async def answer(cut: Cut | EmptyDocument) -> Answer | EmptyDocument:
            if isinstance(cut, EmptyDocument):
                return cut
            async with gate:
                return await self._answer(cut)

        if len(cuts) == 1:
            return [await answer(cuts[0])]
        tasks = [asyncio.ensure_future(answer(cut)) for cut in cuts]
        try:
            return await asyncio.gather(*tasks)  # raises the first fault
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, cut: Cut) -> Answer:
        answer = Answer(cut.document.call)
        async with aclosing(self._pipeline.results(cut.document, _stream_of(cut.groups))) as results:
            async for result in results:
                await self.take(answer, result)
        return answer


def _usage_of(group: Sequence[Prepared]) -> Usage:
    """A document is added up as it comes in: at once, the longest would keep the event loop for 0.1 s."""
    tokens, processed, computed = 0, 0, 0
    for prepared in group:
        tokens += prepared.segment.tokens
        processed += prepared.segment.processed_tokens
        computed += 0 if prepared.complete else prepared.segment.processed_tokens
    return Usage(tokens, processed, computed)


async def _stream_of(groups: Sequence[list[Prepared]]) -> AsyncIterator[list[Prepared]]:
    for group in groups:
        yield group
