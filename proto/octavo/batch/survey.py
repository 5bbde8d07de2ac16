"""A look at the input before the work: how many rows, which files, and what the kept columns hold."""

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
    """What one input was when the job began: its files' names and bytes in one keyed digest (BLAKE2b, RFC 7693)."""

    input: str
    files: int
    bytes: int
    digest: str

    def values(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def digest(given: str, sources: Iterable[Source], key: bytes) -> Digest:
    """Read an input's bytes.

    Args:
        given: what the input is called.
        sources: its files.
        key: of the job, so that the digest of a short text is not the same everywhere.

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
    """How many rows the input has, and what its kept columns hold, one of `documents`' kinds each."""

    rows: int
    kinds: tuple[str, ...]


def survey(sources: Iterable[Source], columns: Columns, reading: Reading) -> Survey:
    """Read all rows once.

    Raises:
        InputError: a file cannot be read to its end; better known now than at night.
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
    """So many of the rows' indices, in order, the same ones each time; all of them where there are no more."""
    return range(rows) if size >= rows else sorted(random.Random(_SEED).sample(range(rows), size))  # noqa: S311
