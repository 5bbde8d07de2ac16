"""Reads the input before the work: counts rows, digests files and infers types of kept columns."""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from octavo.batch.documents import STRING, Columns, kind_of
from octavo.batch.errors import InputError
from octavo.batch.rows import Reading, read
from octavo.batch.sources import Source, first_line, shown

_CHUNK = 1 << 20
_SEED = 8**3


@dataclass(frozen=True, slots=True)
class Digest:
    """An input when the job was started: a keyed digest (BLAKE2b, RFC 7693) of its files' names and bytes."""

    input: str
    files: int
    bytes: int
    digest: str

    def values(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return asdict(self)


def digest(given: str, sources: Iterable[Source], key: bytes) -> Digest:
    """Digest an input.

    Args:
        given: the input's path or URI.
        sources: its files.
        key: the job's key, so that the digest of a short text cannot be recognised.

    Raises:
        InputError: a file cannot be read.
    """
    state, files, size = hashlib.blake2b(key=key, digest_size=16), 0, 0
    for source in sources:
        state.update(f"{source.name}\0{source.size}\0".encode("utf-8", "surrogateescape"))
        files, size = files + 1, size + source.size
        try:
            with source.files.open_input_stream(source.path, compression=None) as stream:
                while chunk := stream.read(_CHUNK):
                    state.update(chunk)
        except OSError as fault:
            raise InputError(f"{source.name}: {first_line(fault)}") from None
    return Digest(shown(given).rstrip("/").rpartition("/")[2], files, size, state.hexdigest())


@dataclass(frozen=True, slots=True)
class Survey:
    """The number of rows of the input and the types of kept columns, as defined in `documents`."""

    rows: int
    kinds: tuple[str, ...]


def survey(sources: Iterable[Source], columns: Columns, reading: Reading) -> Survey:
    """Read all rows once, so that unreadable input is found before the work.

    Raises:
        InputError: a file cannot be read completely.
    """
    kinds: list[str | None] = [None] * len(columns.kept)
    rows = 0
    for source in sources:
        for row in read(source, reading):
            rows += 1
            for index, name in enumerate(columns.kept):
                kinds[index] = kind_of(row.values.get(name), kinds[index])
    return Survey(rows, tuple(kind or STRING for kind in kinds))


def sample(rows: int, size: int) -> Sequence[int]:
    """A sorted random sample of row indices, the same each time; all rows if there are no more than `size`."""
    return range(rows) if size >= rows else sorted(random.Random(_SEED).sample(range(rows), size))  # noqa: S311
