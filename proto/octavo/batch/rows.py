"""Reads the rows of a file one by one, in bounded memory. A bad row has a problem and does not affect others.

Lines are not read by pyarrow, which gives up a whole block of rows, or the file, for one bad line.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from octavo.batch.errors import InputError
from octavo.batch.sources import TEXT, Source, first_line

LINE_BYTES = 64 << 20  # maximum bytes of a line; JSON may escape one byte as six
_BUFFER_BYTES = 1 << 20
_PARQUET_ROWS = 64  # rows decoded at a time


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a row has no vector: a machine-readable reason and a message. Neither contains any part of the text."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a file; a bad row has a problem and no values. `number` counts from 1."""

    source: str
    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What is read of each row.

    Attributes:
        columns: required columns, if the format lists a file's columns.
        optional: columns that are read if present.
        encoding: encoding of text files.
        most_bytes: maximum bytes of a document.
    """

    columns: tuple[str, ...]
    optional: tuple[str, ...] = ()
    encoding: str = "utf-8"
    most_bytes: int = 16_000_000


INVALID = Problem("INVALID_UTF8", "the row is not UTF-8")


def read(source: Source, reading: Reading) -> Iterator[Row]:
    """Read the rows of a file.

    Raises:
        InputError: the file cannot be read completely, or lacks a column.
    """
    try:
        if source.format == "parquet":
            yield from _parquet(source, reading)
            return
        with _opened(source) as stream:
            if source.format == TEXT:
                yield _text(source, stream, reading)
            elif source.format == "jsonl":
                yield from _json(source, stream)
            else:
                yield from _csv(source, stream, reading)
    except (OSError, ValueError, csv.Error) as fault:  # pyarrow's exceptions derive from the first two
        raise InputError(f"{source.name}: {first_line(fault)}") from fault


@contextmanager
def _opened(source: Source) -> Iterator[io.BufferedReader]:
    with (
        source.files.open_input_stream(source.path, compression=source.compression) as raw,
        io.BufferedReader(raw, _BUFFER_BYTES) as stream,
    ):
        yield stream


def _text(source: Source, stream: io.BufferedReader, reading: Reading) -> Row:
    """Read a file that is one document. Its only column has the name of the text column."""
    data = stream.read(reading.most_bytes + 1)
    if len(data) > reading.most_bytes:
        return Row(source.name, 1, problem=too_large(reading.most_bytes))
    try:
        text = data.decode(reading.encoding)
    except UnicodeDecodeError as fault:
        message = f"byte {fault.start:,} is not {reading.encoding}"
        return Row(source.name, 1, problem=Problem("INVALID_UTF8", message))
    return Row(source.name, 1, {reading.columns[0]: text})


def too_large(most: int) -> Problem:
    """The problem of a document with more than `most` bytes."""
    return Problem("DOCUMENT_TOO_LARGE", f"the text has more than {most:,} bytes")


def _lines(stream: io.BufferedReader) -> Iterator[bytes | None]:
    """Yield lines with their line ends; None for a line that is too long."""
    while line := stream.readline(LINE_BYTES):
        if len(line) < LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (rest := stream.readline(_BUFFER_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _json(source: Source, stream: io.BufferedReader) -> Iterator[Row]:
    for number, line in enumerate(_lines(stream), 1):
        if line is None or line.strip():
            value = (
                Problem("ROW_TOO_LARGE", f"the line has more than {LINE_BYTES:,} bytes") if line is None else _of(line)
            )
            if isinstance(value, Problem):
                yield Row(source.name, number, problem=value)
            else:
                yield Row(source.name, number, value)


def _of(line: bytes) -> Mapping[str, Any] | Problem:
    """Parse a JSON line."""
    try:
        value = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return INVALID
    except json.JSONDecodeError as fault:
        return Problem("MALFORMED_ROW", f"the line is not JSON: {fault.msg} at character {fault.colno:,}")
    except (ValueError, RecursionError):
        return Problem("MALFORMED_ROW", "the line has too long numbers or too deep nesting")
    return value if isinstance(value, dict) else Problem("MALFORMED_ROW", "the line is not a JSON object")


def _csv(source: Source, stream: io.BufferedReader, reading: Reading) -> Iterator[Row]:
    csv.field_size_limit(reading.most_bytes)
    long = False

    def lines() -> Iterator[str]:
        nonlocal long
        for line in _lines(stream):
            long = long or line is None
            yield "\n" if line is None else line.decode("utf-8", "surrogateescape")

    records = csv.reader(lines(), delimiter="\t" if source.format == "tsv" else ",")
    header = [name.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") for name in next(records, [])]
    check_columns(source.name, header, reading)
    number = 0
    while True:
        problem, cells = None, []
        try:
            cells = next(records)
        except StopIteration:
            return
        except csv.Error as fault:
            problem = Problem("MALFORMED_ROW", f"the row is not CSV: {fault}")
        if long:
            problem, long = Problem("ROW_TOO_LARGE", f"a line has more than {LINE_BYTES:,} bytes"), False
        if not (cells or problem):
            continue
        number += 1
        if problem is None and len(cells) != len(header):
            problem = Problem("MALFORMED_ROW", f"the row has {len(cells)} cells, but the header has {len(header)}")
        if problem is None and not all(map(_is_clean, cells)):
            problem = INVALID
        yield Row(source.name, number, {} if problem else dict(zip(header, cells, strict=True)), problem)


def _is_clean(cell: str) -> bool:
    """Whether all bytes were decoded."""
    return cell.isascii() or not any("\udc80" <= each <= "\udcff" for each in cell)


def _parquet(source: Source, reading: Reading) -> Iterator[Row]:
    from pyarrow import parquet  # noqa: PLC0415

    with (
        source.files.open_input_file(source.path) as raw,
        parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file,
    ):
        there = file.schema_arrow.names
        check_columns(source.name, there, reading)
        wanted = [name for name in there if name in {*reading.columns, *reading.optional}]
        yield from arrow_rows(source.name, file.iter_batches(_PARQUET_ROWS, columns=wanted))


def arrow_rows(source: str, batches: Iterable[Any]) -> Iterator[Row]:
    """The rows of a source's record batches."""
    number = 0
    for batch in batches:
        columns = [_values(column) for column in batch.columns]
        for cells in zip(*columns, strict=True):
            number += 1
            bad = any(cell is INVALID for cell in cells)
            values = {} if bad else dict(zip(batch.schema.names, cells, strict=True))
            yield Row(source, number, values, INVALID if bad else None)


def _values(column: Any) -> Iterable[Any]:
    """A column's values; INVALID in place of an undecodable string."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(each) for each in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return INVALID


def check_columns(source: str, there: Iterable[str], reading: Reading) -> None:
    """Check the columns of a source.

    Raises:
        InputError: a named column does not exist, or two have the same name.
    """
    names = list(there)
    for name in reading.columns:
        if name not in names:
            known = ", ".join(sorted(names)) or "none"
            raise InputError(f"{source} has no column {name!r}; its columns: {known}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{source} has two columns {twice!r}")
