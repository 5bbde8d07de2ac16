"""Splits the input into parts, each of which becomes a file of the output. The split depends only on the input."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Generic, TypeVar

from octavo.batch.documents import Document

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """Size limits: a part ends when it has this many rows, or with the row that reaches this many characters."""

    rows: int
    characters: int


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a document's row in the output.

    Attributes:
        last: it is the last row of its part.
    """

    part: int
    row: int
    last: bool


def placed(documents: Iterable[Document], size: Size, chosen: Sequence[int] | None) -> Iterator[tuple[Place, Document]]:
    """Assign places to documents: all if `chosen` is None, else those with these indices."""
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
    """Yield each item with the next one; None after the last."""

    def ended() -> Iterator[T | None]:
        yield from items
        yield None

    for item, following in pairwise(ended()):
        assert item is not None
        yield item, following


@dataclass(frozen=True, slots=True)
class Share:
    """One machine's share of a job: the parts whose number modulo `count` is `index`."""

    index: int = 0
    count: int = 1

    def has(self, part: int) -> bool:
        """Whether the part belongs to this share."""
        return part % self.count == self.index


class OpenPart(Generic[T]):
    """A part whose rows arrive in any order."""

    def __init__(self) -> None:
        self._rows: dict[int, T] = {}
        self._size: int | None = None

    def expect(self, place: Place) -> None:
        """Announce a row; the last one determines the number of rows."""
        if place.last:
            self._size = place.row + 1

    def put(self, row: int, record: T) -> None:
        """Add a row."""
        self._rows[row] = record

    @property
    def complete(self) -> bool:
        """Whether all rows were added."""
        return len(self._rows) == self._size

    def records(self) -> list[T]:
        """The rows in order."""
        return [self._rows[row] for row in range(len(self._rows))]
