"""A double of the server, and callers of it in both manners."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from octavo.client import AsyncClient, Client
from octavo.client.results import SegmentResult
from tests.client.double import Double, serving


@dataclass(frozen=True)
class Caller:
    """Calls a method of a fresh `Client` or `AsyncClient`; what is asynchronous is awaited."""

    double: Double
    manner: str

    def __call__(self, method: str, *args: Any, client: dict[str, Any] | None = None, **arguments: Any) -> Any:
        def work_sync() -> Any:
            with Client(self.double.address, **(client or {})) as made:
                return getattr(made, method)(*args, **arguments)

        async def work() -> Any:
            async with AsyncClient(self.double.address, **(client or {})) as made:
                return await getattr(made, method)(*args, **arguments)

        return work_sync() if self.manner == "sync" else asyncio.run(work())

    def many(
        self,
        texts: Iterable[str],
        each: Callable[[Any], None] = lambda _: None,
        client: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> list[Any]:
        """All that embed_many yields; `each` is called as it comes."""
        got = []

        async def work() -> None:
            async def feed() -> AsyncIterator[str]:
                for text in texts:
                    yield text

            async with AsyncClient(self.double.address, **(client or {})) as made:
                async for result in made.embed_many(feed(), **arguments):
                    each(result)
                    got.append(result)

        if self.manner == "async":
            asyncio.run(work())
        else:
            with Client(self.double.address, **(client or {})) as made:
                for result in made.embed_many(texts, **arguments):
                    each(result)
                    got.append(result)
        return got

    def process(
        self,
        documents: Iterable[tuple[Any, str]],
        *args: Any,
        each: Callable[[Any], None] = lambda _: None,
        client: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> list[tuple[Any, Any]]:
        """All that process yields; `each` is called as it comes."""
        got = []

        async def work() -> None:
            async def feed() -> AsyncIterator[tuple[Any, str]]:
                for document in documents:
                    await asyncio.sleep(0)
                    yield document

            async with AsyncClient(self.double.address, **(client or {})) as made:
                async for result in made.process(feed(), *args, **arguments):
                    each(result)
                    got.append(result)

        if self.manner == "async":
            asyncio.run(work())
        else:
            with Client(self.double.address, **(client or {})) as made:
                for result in made.process(documents, *args, **arguments):
                    each(result)
                    got.append(result)
        return got

    def stream(
        self,
        *args: Any,
        each: Callable[[SegmentResult], None] = lambda _: None,
        client: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> tuple[list[SegmentResult], Any]:
        """All segments of a stream, and the stream; `each` is called as they come."""

        async def work() -> tuple[list[SegmentResult], Any]:
            async with AsyncClient(self.double.address, **(client or {})) as made:
                got = []
                async with made.stream(*args, **arguments) as stream:
                    async for result in stream:
                        each(result)
                        got.append(result)
                return got, stream

        if self.manner == "async":
            return asyncio.run(work())
        with Client(self.double.address, **(client or {})) as made:
            got = []
            with made.stream(*args, **arguments) as stream:
                for result in stream:
                    each(result)
                    got.append(result)
            return got, stream


@pytest.fixture
def double() -> Iterator[Double]:
    """A running double; each test has one of its own."""
    with serving(Double()) as running:
        yield running


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, double: Double) -> Caller:
    """Both clients."""
    return Caller(double, request.param)
