"""The inference service: a call in, answers out. Doors convert what they speak into calls, and answers into replies."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeVar

from server.errors import EmptyDocument, InvalidCall
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage, within
from server.inference.known import KnownDigests
from server.inference.pipeline import Document, Pipeline, Prepared, Result
from server.inference.tasks import RankTask, Size
from server.scheduling.forecast import Reservation

T = TypeVar("T")

DOCUMENTS_AT_ONCE = 32  # of one call; enough to pack short ones into full runs
MARGIN_SECONDS = 1.0  # before a stream's deadline, for its summary; a tenth of the time left if that is less


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A document for a call; `field` is where the request has its text."""

    call: Call
    text: str
    field: str


Grow = Callable[[Sequence[tuple[Call, Size]]], None]
"""Told the documents' sizes while they are read; raises once a door can't answer so much in one reply."""


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A document that was read to its end.

    Attributes:
        groups: its segments, as they were read.
        usage: its tokens; those that may have to be computed count as computed.
    """

    document: Document
    groups: list[list[Prepared]]
    usage: Usage
    size: Size

    def of(self, calls: Mapping[Call, Call]) -> "Cut":
        """The same cut for the call that its own became."""
        return replace(self, document=replace(self.document, call=calls[self.document.call]))

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

    async def segment(self, job: Job, timings: Timings, grow: Grow) -> tuple[Iterator[Prepared], Usage]:
        """Cut a document, and tell what it would cost; the model does not run.

        Returns:
            Its segments, and its usage, in which those tokens count as computed for which a layer would run.
        """
        async with self._reserved(job.call) as reservation:
            cut = await self._cut(job, timings, reservation, lambda size: grow([size]))
            uncached = 0
            for group in cut.groups:
                known = await self._pipeline.known(cut.document, group)
                sizes = [prepared.segment.processed_tokens for prepared in group]
                uncached += sum(size for size, is_known in zip(sizes, known, strict=True) if not is_known)
        return cut.segments, replace(cut.usage, computed=uncached)

    async def analyze(self, jobs: Sequence[Job], timings: Timings, grow: Grow) -> list[Answer]:
        """Answer jobs over one document, each in one pass over its trunk."""
        answers = []
        for answer in await self.answer(jobs, timings, grow):
            if isinstance(answer, EmptyDocument):
                raise answer
            answers.append(answer)
        return answers

    async def answer(self, jobs: Sequence[Job], timings: Timings, grow: Grow) -> list[Answer | EmptyDocument]:
        """Answer jobs of one caller, who waits for all of them; an empty document is a fault of its own.

        Queries are answered once everything is cut and admitted, if there is a document for them.
        """
        call = jobs[0].call
        async with self._reserved(call) as reservation:
            if not call.known:  # else the text's length says nothing of the work
                reservation.foresee(sum(len(job.text) for job in jobs), call.deadline)
            cuts: list[Cut | EmptyDocument] = []
            sizes: list[tuple[Call, Size]] = []
            for job in jobs:
                try:
                    cut = await self._cut(
                        job, timings, reservation, lambda size: grow([*sizes, size]), eager=len(jobs) == 1
                    )
                    cuts.append(cut)
                    sizes.append((job.call, cut.size))
                except EmptyDocument as fault:
                    cuts.append(fault)
            whole = [cut for cut in cuts if isinstance(cut, Cut)]
            calls = dict.fromkeys(cut.document.call for cut in whole)
            queries = {call: await self._cut_queries(call, timings, reservation) for call in calls}
            usage = sum((cut.usage for cut in chain(whole, *queries.values())), Usage())
            await self._pipeline.admit(call, reservation, usage.computed, usage.cached)
            resolved = {call: await self._resolved(call, cut) for call, cut in queries.items()}
            return await self._answer_all(cut if isinstance(cut, EmptyDocument) else cut.of(resolved) for cut in cuts)

    async def resolve(self, calls: Sequence[Call], timings: Timings) -> Sequence[Call]:
        """Answer the queries of a stream's calls: segments can be scored then."""
        async with self._reserved(calls[0]) as reservation:
            return [await self._resolved(call, await self._cut_queries(call, timings, reservation)) for call in calls]

    async def stream(
        self, calls: Sequence[Call], text: str, timings: Timings
    ) -> AsyncGenerator[tuple[int, Result], None]:
        """Answer calls over one document segment by segment, each in order, until shortly before the deadline.

        Yields:
            Number of the call, and its next result: the one whose segment ends first.

        Raises:
            DeadlineExceeded: only the deadline is near, with time for a summary of what there is.
        """
        deadline = calls[0].deadline
        last_moment = deadline - min(MARGIN_SECONDS, 0.1 * (deadline - timings.began))
        async with AsyncExitStack() as stack:
            reservation = stack.enter_context(self._pipeline.reserve(calls[0]))
            coming: dict[int, Result] = {}
            passes = []
            for call in calls:
                results = self.results(call, text, timings, reservation)
                passes.append(await stack.enter_async_context(aclosing(results)))
            behind = list(range(len(calls)))  # whose next result is not here
            while behind or coming:
                for i in behind:
                    async with within(last_moment):
                        result = await anext(passes[i], None)
                    if result is not None:
                        coming[i] = result
                if coming:
                    i = min(coming, key=lambda i: coming[i].prepared.segment.end)
                    yield i, coming.pop(i)
                    behind = [i]
                else:
                    behind = []

    async def take(self, answer: Answer, result: Result) -> SegmentAnswer:
        """Let an answer take in its next segment, off the event loop if that takes long."""
        if answer.call.is_slow:
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
        async with aclosing(self._pipeline.results(document, self._pipeline.read(document, eager=True))) as results:
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
        job: Job,
        timings: Timings,
        reservation: Reservation,
        grow: Callable[[tuple[Call, Size]], None],
        *,
        eager: bool = False,
    ) -> Cut:
        document = self._pipeline.open(job.call, job.text, timings, reservation)
        groups: list[list[Prepared]] = []
        count, kept, usage, size = 0, 0, Usage(), Size(0, 0, 0)
        text_bytes = len(job.text) if job.text.isascii() else len(job.text.encode())
        async with aclosing(self._pipeline.read(document, eager=eager)) as reading:
            async for group in reading:
                groups.append(group)
                count += len(group)
                kept += sum(prepared.kept is not None for prepared in group)
                usage += _usage_of(group)
                size = Size(count, usage.tokens, text_bytes, kept)
                grow((job.call, size))
        if not count:
            raise EmptyDocument(job.field)
        return Cut(document, groups, usage, size)

    async def _cut_queries(self, call: Call, timings: Timings, reservation: Reservation) -> list[Cut]:
        jobs = [
            Job(replace(call, frame=task.frame, tasks=(task.vectors,), known=KnownDigests()), task.query, task.field)
            for task in call.tasks
            if isinstance(task, RankTask)
        ]
        try:
            return [await self._cut(job, timings, reservation, lambda _: None) for job in jobs]
        except EmptyDocument as fault:
            raise InvalidCall(fault.field, "a query has at least one token") from fault

    async def _resolved(self, call: Call, queries: Sequence[Cut]) -> Call:
        """The call whose tasks know what their queries were answered."""
        answers = [await self._answer(query) for query in queries]
        given = iter(answers)
        tasks = [
            task.given(next(given).of_document()[0]) if isinstance(task, RankTask) else task for task in call.tasks
        ]
        return replace(call, tasks=tuple(tasks), asked=sum((answer.usage for answer in answers), Usage()))

    async def _answer_all(self, cuts: Iterable[Cut | EmptyDocument]) -> list[Answer | EmptyDocument]:
        gate = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

        async def answer(cut: Cut | EmptyDocument) -> Answer | EmptyDocument:
            if isinstance(cut, EmptyDocument):
                return cut
            async with gate:
                return await self._answer(cut)

        coming = [answer(cut) for cut in cuts]
        if len(coming) == 1:
            return [await coming[0]]
        tasks = [asyncio.ensure_future(each) for each in coming]
        try:
            return await asyncio.gather(*tasks)  # raises the first fault
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, cut: Cut) -> Answer:
        answer = Answer(cut.document.call, cut.document.text)
        async with aclosing(self._pipeline.results(cut.document, _stream_of(cut.groups))) as results:
            async for result in results:
                await self.take(answer, result)
        return answer


def _usage_of(group: Sequence[Prepared]) -> Usage:
    """A document is added up as it comes in: at once, the longest would keep the event loop for 0.1 s."""
    return sum((prepared.usage(computed=not prepared.complete) for prepared in group), Usage())


async def _stream_of(groups: Sequence[list[Prepared]]) -> AsyncIterator[list[Prepared]]:
    for group in groups:
        yield group
