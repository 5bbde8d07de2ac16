"""Converts rows to documents: an id, a text and kept columns, or a problem."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from octavo.batch.rows import INVALID, Problem, Reading, Row, read
from octavo.batch.sources import TEXT, Source

TEXT_COLUMN, ID_COLUMN = "text", "id"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are read.

    Attributes:
        text: the column of the text.
        id: the column of the id. None: "id" if it exists, else ids are generated.
        kept: columns that are copied to the output.
    """

    text: str = TEXT_COLUMN
    id: str | None = None
    kept: tuple[str, ...] = ()

    def reading(self, encoding: str, most_bytes: int) -> Reading:
        """Convert to options for the readers of files."""
        named = (self.text, *([self.id] if self.id else []), *self.kept)
        return Reading(named, () if self.id else (ID_COLUMN,), encoding, most_bytes)


@dataclass(frozen=True, slots=True)
class Document:
    """A row of the input; if it has a problem, it is not computed."""

    id: str
    text: str
    kept: tuple[Any, ...]
    problem: Problem | None = None


def documents(sources: Iterable[Source], columns: Columns, reading: Reading) -> Iterator[Document]:
    """Read all rows of all files in order. Of rows with the same id, all but the first have a problem.

    Raises:
        InputError: a file cannot be read completely.
    """
    with _Ids() as ids:
        for source in sources:
            for row in read(source, reading):
                document = document_of(row, columns, source.format, reading.most_bytes)
                if document.problem is None and not ids.add(document.id):
                    document = Document(
                        document.id, "", document.kept, Problem("DUPLICATE_ID", "an earlier row has the same id")
                    )
                yield document


def document_of(row: Row, columns: Columns, form: str, most_bytes: int) -> Document:
    """Convert a row of a file of this format."""
    made_up = row.source if form == TEXT else f"{row.source}:{row.number}"
    kept = tuple(row.values.get(name) for name in columns.kept)
    if row.problem:
        return Document(made_up, "", kept, row.problem)
    name = _id(row.values, columns, made_up, form)
    if isinstance(name, Problem):
        return Document(made_up, "", kept, name)
    text = _text(row.values, columns.text, most_bytes)
    return Document(name, "", kept, text) if isinstance(text, Problem) else Document(name, text, kept)


def _id(values: Mapping[str, Any], columns: Columns, made_up: str, form: str) -> str | Problem:
    column = columns.id or ID_COLUMN
    value = values.get(column)
    if value is None or value == "":
        missing = columns.id and form != TEXT
        return Problem("MISSING_ID", f"the column {column!r} is empty") if missing else made_up
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        return Problem("WRONG_TYPE", f"the column {column!r} is neither a string nor a whole number")
    return whole_characters(str(value))


def _text(values: Mapping[str, Any], column: str, most_bytes: int) -> str | Problem:
    value = values.get(column)
    if value is None:
        return Problem("MISSING_TEXT", f"the column {column!r} is empty or missing")
    try:
        # In Parquet, strings may be stored as plain bytes.
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:
        return INVALID
    if not isinstance(text, str):
        return Problem("WRONG_TYPE", f"the column {column!r} is not a string")
    return _problem(text, most_bytes) or text


def _problem(text: str, most_bytes: int) -> Problem | None:
    """Find what a server would refuse, before sending it."""
    if not text.strip():
        return Problem("EMPTY_DOCUMENT", "the text has no token")
    try:
        size = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError as fault:
        return Problem("INVALID_UTF8", f"lone surrogate at character {fault.start:,}")
    return (
        Problem("DOCUMENT_TOO_LARGE", f"the text has {size:,} bytes, more than {most_bytes:,}")
        if size > most_bytes
        else None
    )


def whole_characters(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode, with question marks."""
    return text.encode("utf-8", "replace").decode()


class _Ids:
    """The ids seen so far, in bounded memory: beyond a few megabytes SQLite uses a temporary file."""

    def __init__(self) -> None:
        # An abandoned generator may be closed by another thread.
        self._seen = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._seen.execute("PRAGMA journal_mode = OFF")
        self._seen.execute("PRAGMA cache_size = -4096")  # KiB
        self._seen.execute("CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._seen.execute("BEGIN")

    def add(self, name: str) -> bool:
        """Add an id; False if it was added before."""
        return self._seen.execute("INSERT OR IGNORE INTO ids VALUES (?)", (name.encode(),)).rowcount == 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seen.close()


# Types of kept columns. Only Parquet declares them, so they are inferred from values.

BOOLEAN, INTEGER, NUMBER, STRING, JSON = "bool", "int64", "double", "string", "json"
_WIDER = {(INTEGER, NUMBER): NUMBER, (NUMBER, INTEGER): NUMBER}


def kind_of(value: Any, known: str | None) -> str | None:
    """The type for this value and all previous ones; None while all were null."""
    if value is None:
        return known
    kind = next((kind for kind, types in _KINDS if isinstance(value, types)), JSON)
    if kind == INTEGER and not -(2**63) <= value < 2**63:
        kind = JSON
    return kind if known in {None, kind} else _WIDER.get((str(known), kind), JSON)


_KINDS: Sequence[tuple[str, type]] = ((BOOLEAN, bool), (INTEGER, int), (NUMBER, float), (STRING, str))


def kept_value(value: Any, kind: str) -> Any:
    """Convert a value to its column's type; lists and objects become JSON."""
    if value is None:
        return None
    if kind == JSON:
        return whole_characters(json.dumps(value, ensure_ascii=False, default=str))
    return whole_characters(value) if kind == STRING else float(value) if kind == NUMBER else value
