"""An index in one SQLite file.

Vectors are BLOBs, and a search compares the query with all of them: exact, and fast enough for the texts of one
machine (100,000 segments take a few tenths of a second). It needs no extension, which many Pythons cannot load.
"""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from octavo.client import Change, Held
from octavo.files import PRIVATE
from octavo.index.errors import IndexBusy, NoIndex, OtherIndex, VectorMissing

_FORMAT = 1
_APPLICATION = 0x0C7A_0001  # marks the file as ours
_BUSY_SECONDS = 30.0
_ROWS = 8192  # vectors compared at a time
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT, about TEXT NOT NULL);
CREATE INDEX documents_by_source ON documents (source);
CREATE TABLE segments (
    document INTEGER NOT NULL REFERENCES documents ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest BLOB NOT NULL,
    char_start INTEGER NOT NULL,
    char_end INTEGER NOT NULL,
    PRIMARY KEY (document, position)
) WITHOUT ROWID;
CREATE INDEX segments_by_digest ON segments (digest);
CREATE TABLE vectors (digest BLOB NOT NULL UNIQUE, vector BLOB NOT NULL);
"""
_HELD = "SELECT digest FROM segments JOIN documents ON document = number WHERE {} = ? ORDER BY document, position"

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Hit:
    """A segment that resembles a query, `text[char_start:char_end]` of its document when it was indexed."""

    document_id: str
    char_start: int
    char_end: int
    score: float
    about: str


class Store:
    """The documents of an index, their segments and vectors. Thread-safe; a `SegmentIndex`.

    `about` is a string that the index's owner keeps with a document. Documents can share a `source`: then a new one
    reuses the segments of the others.

    Args:
        path: the SQLite file; None: in memory.
        create: make the file if it does not exist.

    Raises:
        NoIndex: there is no index, or it cannot be read.
    """

    def __init__(self, path: Path | None, *, create: bool = False) -> None:
        self.path = path
        self._lock = threading.RLock()
        if path and create:
            _make_private(path)
        try:
            self._connection = _connect(path)
        except sqlite3.Error as fault:
            raise NoIndex(f"{self.name}: {_explained(fault)}") from fault
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return str(self.path or "the index")

    @property
    def settings(self) -> dict[str, Any]:
        """What the index is made from; empty for a new one."""
        found: dict[str, Any] = json.loads(self._meta("settings") or "{}")
        return found

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Record what the index is made from.

        Raises:
            OtherIndex: it is made from something else.
        """
        with self._transaction():
            for name, value in self.settings.items():
                if settings.get(name) != value:
                    raise OtherIndex(
                        f"{self.name} was made with {name} {_shown(value)}, not {_shown(settings.get(name))}: use the "
                        "same, or make a new index"
                    )
            self._set_meta("settings", json.dumps(dict(settings)))

    def move(self, name: str, value: str) -> None:
        """Replace one of the settings."""
        with self._transaction():
            self._set_meta("settings", json.dumps({**self.settings, name: value}))

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of all vectors; None while there are none."""
        return self._meta("fingerprint")

    def held(self, document_id: str) -> Held | None:
        """What the index has of a document. Of a new one it has no digests, but a fingerprint to comply with."""
        return self._held(_HELD.format("id"), document_id)

    def held_of_source(self, source: str) -> Held | None:
        """What the index has of all documents of a source."""
        return self._held(_HELD.format("source"), source)

    def apply(self, document_id: str, change: Change, about: str = "", source: str | None = None) -> None:
        """Make the index have the document as it is now, in one transaction.

        Raises:
            OtherIndex: the change has another fingerprint.
            VectorMissing: a segment has no vector, and the index has none either.
        """
        with self._transaction():
            self._check_fingerprint(change.fingerprint)
            number = self._document(document_id, about, source)
            before = self._digests(number)
            self._connection.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                ((each.digest, _blob(each.vector)) for each in change.segments if each.vector is not None),
            )
            self._connection.execute("DELETE FROM segments WHERE document = ?", (number,))
            self._connection.executemany(
                "INSERT INTO segments VALUES (?, ?, ?, ?, ?)",
                ((number, i, each.digest, each.start, each.end) for i, each in enumerate(change.segments)),
            )
            self._drop_unused(before)
            self._check_vectors(number, document_id)

    def clear(self, document_id: str, about: str = "", source: str | None = None) -> None:
        """Have the document without segments."""
        with self._transaction():
            number = self._document(document_id, about, source)
            before = self._digests(number)
            self._connection.execute("DELETE FROM segments WHERE document = ?", (number,))
            self._drop_unused(before)

    def note(self, document_id: str, about: str) -> None:
        """Replace what is kept about a document."""
        with self._transaction():
            self._connection.execute("UPDATE documents SET about = ? WHERE id = ?", (about, document_id))

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Remove documents and return the ids of those that existed."""
        return [each for each in ids if self._delete(each)]

    def abouts(self) -> dict[str, str]:
        """What is kept about each document, by id."""
        with self._lock:
            return dict(self._connection.execute("SELECT id, about FROM documents ORDER BY id"))

    def about(self, document_id: str) -> str | None:
        """What is kept about a document; None if the index does not have it."""
        with self._lock:
            row = self._connection.execute("SELECT about FROM documents WHERE id = ?", (document_id,)).fetchone()
        return row[0] if row else None

    def nearest(self, query: Vector, count: int) -> list[Hit]:
        """The segments with the highest dot products with the query, best first."""
        with self._lock:
            best: list[tuple[float, bytes]] = []
            rows = self._connection.execute("SELECT digest, vector FROM vectors")
            while some := rows.fetchmany(_ROWS):
                scores = np.frombuffer(b"".join(blob for _, blob in some), "<f4").reshape(len(some), -1) @ query
                top = np.argsort(-scores, kind="stable")[:count]
                best = sorted([*best, *((float(scores[i]), some[i][0]) for i in top)], reverse=True)[:count]
            return [hit for score, digest in best for hit in self._hits(digest, score)][:count]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Check the file's format, or create the tables of a new one."""
        with self._transaction():
            (application,) = self._connection.execute("PRAGMA application_id").fetchone()
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            (tables,) = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if not tables:
                for statement in _SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
            elif application != _APPLICATION:
                raise NoIndex(f"{self.name} is another program's database")
            elif version != _FORMAT:
                raise NoIndex(f"{self.name} has format {version}, and this version reads {_FORMAT}: make a new index")

    def _check_fingerprint(self, fingerprint: str) -> None:
        held = self.fingerprint
        if held is None:
            self._set_meta("fingerprint", fingerprint)
        elif held != fingerprint:
            raise OtherIndex(
                f"{self.name} has vectors of fingerprint {held}, which cannot be compared with those of {fingerprint}: "
                "use the model that made it, or make a new index"
            )

    def _check_vectors(self, number: int, document_id: str) -> None:
        select = "SELECT count(*) FROM segments WHERE document = ? AND digest NOT IN (SELECT digest FROM vectors)"
        (missing,) = self._connection.execute(select, (number,)).fetchone()
        if missing:
            raise VectorMissing(f"{self.name} no longer has {missing:,} vectors of {document_id}: sync it again")

    def _held(self, select: str, value: str) -> Held | None:
        with self._lock:
            digests = tuple(digest for (digest,) in self._connection.execute(select, (value,)))
            fingerprint = self.fingerprint
            return Held(fingerprint, digests) if fingerprint else None

    def _document(self, document_id: str, about: str, source: str | None) -> int:
        """Insert or update the row of a document and return its number."""
        insert = (
            "INSERT INTO documents (id, about, source) VALUES (?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET about = excluded.about, source = excluded.source RETURNING number"
        )
        (number,) = self._connection.execute(insert, (document_id, about, source)).fetchone()
        return int(number)

    def _delete(self, document_id: str) -> bool:
        with self._transaction():
            row = self._connection.execute("SELECT number FROM documents WHERE id = ?", (document_id,)).fetchone()
            if row is None:
                return False
            before = self._digests(row[0])
            self._connection.execute("DELETE FROM documents WHERE number = ?", row)
            self._drop_unused(before)
            return True

    def _digests(self, number: int) -> set[bytes]:
        return {row[0] for row in self._connection.execute("SELECT digest FROM segments WHERE document = ?", (number,))}

    def _drop_unused(self, digests: Iterable[bytes]) -> None:
        """Delete the vectors of digests that no segment has any more."""
        delete = "DELETE FROM vectors WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM segments WHERE digest = ?)"
        self._connection.executemany(delete, ((digest, digest) for digest in digests))

    def _hits(self, digest: bytes, score: float) -> Iterator[Hit]:
        """The places of a digest."""
        select = (
            "SELECT id, char_start, char_end, about FROM segments JOIN documents ON document = number "
            "WHERE digest = ? ORDER BY id, position"
        )
        for document_id, start, end, about in self._connection.execute(select, (digest,)):
            yield Hit(document_id, start, end, score, about)

    def _meta(self, key: str) -> str | None:
        with self._lock:
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _set_meta(self, key: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Keep other processes from changing the index meanwhile. The lock ends with the process, however that ends.

    Raises:
        IndexBusy: another process has it.
        NoIndex: the folder does not exist or cannot be written to.
    """
    import fcntl  # noqa: PLC0415 - not on Windows, where help must work

    try:
        descriptor = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    except OSError as fault:
        raise NoIndex(f"{path}: {fault.strerror}") from fault
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise IndexBusy(f"{path} is being changed by another process: wait until that has ended") from None
    try:
        yield
    finally:
        os.close(descriptor)


def _make_private(path: Path) -> None:
    """Create the file for its owner alone: spans and vectors tell about the texts. SQLite's other files follow it."""
    try:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
    except OSError as fault:
        raise NoIndex(f"{path}: {fault.strerror}") from fault


def _connect(path: Path | None) -> sqlite3.Connection:
    if path and path.exists() and not path.is_file():  # SQLite would put a journal beside a device
        raise NoIndex(f"{path}: the file is not an index")
    target = f"{path.absolute().as_uri()}?mode=rw" if path else ":memory:"
    connection = sqlite3.connect(
        target, uri=path is not None, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut the last ones
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _blob(vector: NDArray[Any]) -> bytes:
    return vector.astype("<f4").tobytes()


def _shown(value: object) -> str:
    return "unset" if value is None else str(value)


def _explained(fault: sqlite3.Error) -> str:
    name = getattr(fault, "sqlite_errorname", "")
    known = {
        "SQLITE_CANTOPEN": "there is no index: make one with 'octavo index sync'",
        "SQLITE_NOTADB": "the file is not an index",
    }
    return known.get(name, str(fault))
