"""The input in stretches, each of which becomes a file of the output. Where they end follows from the input alone."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from octavo.batch.documents import Document

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """When a part is full: at so many rows, or after the row with which its texts have so many characters."""

    rows: int
    characters: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a document's row goes."""

    part: int
    row: int
    last: bool  # of its part


def placed(documents: Iterable[Document], size: Size, chosen: Sequence[int] | None) -> Iterator[tuple[Place, Document]]:
    """Give each document its place; of all where `chosen` is None, else of those with these indices, in order."""
    part = row = characters = 0
    for document, following in _with_next(_chosen(documents, chosen)):
        characters += len(document.text)
        last = following is None or row + 1 == size.rows or characters >= size.characters
        yield Place(part, row, last), document
        row += 1
        if last:
            part, row, characters = part + 1, 0, 0


def _chosen(documents: Iterable[Document], indices: Sequence[int] | None) -> Iterable[Document]:
    if indices is None:
        return documents
    wanted: Container[int] = indices if isinstance(indices, range) else frozenset(indices)
    return (document for index, document in enumerate(documents) if index in wanted)


def _with_next(items: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each with the one after it, None after the last."""

    def ended() -> Iterator[T | None]:
        yield from items
        yield None

    for item, following in pairwise(ended()):
        assert item is not None
        yield item, following


@dataclass(frozen=True, slots=True)
class Share:
    """One machine's part of a job that several do: the parts whose number leaves this remainder."""

    index: int = 0
    count: int = 1

    def has(self, part: int) -> bool:
        """Whether the part is this machine's."""
        return part % self.count == self.index


class OpenPart(Generic[T]):
    """A part whose rows come in any order."""

    def __init__(self) -> None:
        self._rows: dict[int, T] = {}
        self._size: int | None = None

    def expect(self, place: Place) -> None:
        """A row is under way; the last one tells how many there are."""
        if place.last:
            self._size = place.row + 1

    def put(self, row: int, record: T) -> None:
        """A row has come."""
        self._rows[row] = record

    @property
    def complete(self) -> bool:
        """Whether all rows have come."""
        return len(self._rows) == self._size

    def records(self) -> list[T]:
        """The rows in their order."""
        return [self._rows[row] for row in range(len(self._rows))]
