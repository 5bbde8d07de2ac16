"""The output folder. Files are written atomically."""

import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from octavo.batch.errors import OutputError
from octavo.batch.records import Layout, Record
from octavo.batch.sources import file_system, first_line, shown
from octavo.batch.summary import Tally
from octavo.files import replacing

FORMATS = ("parquet", "jsonl")
MANIFEST, SUCCESS = "_manifest.json", "_SUCCESS"
_TEMPORARY = re.compile(r"\.(part-\d+\.\w+|_\w+(\.json)?)\.[0-9a-f]{32}")


class Output:
    """A folder in any file system. Files are written under a temporary name, then renamed."""

    def __init__(self, uri: str, form: str) -> None:
        try:
            self._files, self._path = file_system(uri)
        except ValueError as fault:
            raise OutputError(str(fault)) from None
        self.uri = shown(uri)  # for messages and the summary
        self._form = form
        self._part = re.compile(rf"part-(\d{{5,}})\.{form}")

    def prepare(self) -> None:
        """Create the folder.

        Raises:
            OutputError: it cannot be created, or contains files but no manifest.
        """
        with self._faults():
            self._files.create_dir(self._path, recursive=True)
        names = [name for name in self._names() if not name.startswith(".")]
        if names and MANIFEST not in names:
            raise OutputError(f"{self.uri} contains other files but no {MANIFEST}: use an empty folder")

    def touches(self, uri: str) -> bool:
        """Whether a path is inside the folder, or contains it."""
        files, path = file_system(uri)
        ours, theirs = self._path.rstrip("/") + "/", path.rstrip("/") + "/"
        return bool(files == self._files) and (ours.startswith(theirs) or theirs.startswith(ours))

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it does not exist."""
        if name not in self._names():
            return None
        with self._faults(), self._files.open_input_stream(self._at(name), compression=None) as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """Write a small file."""
        self._write(name, [data])

    def parts(self) -> set[int]:
        """The numbers of completed parts."""
        return {int(match[1]) for match in map(self._part.fullmatch, self._names()) if match}

    def write_part(self, number: int, records: Sequence[Record], layout: Layout) -> None:
        """Write a part, which completes it."""
        if self._form == "jsonl":
            self._write(self._name(number), layout.lines(records))
            return
        from pyarrow import parquet  # noqa: PLC0415 - only jobs need it

        table = layout.table(records)
        self._create(
            self._name(number),
            lambda file: parquet.write_table(table, file, compression="zstd", use_dictionary=["error.reason"]),
        )

    def tally(self, number: int) -> Tally:
        """Count the documents of a part.

        Raises:
            OutputError: the file is damaged, which interrupting this program cannot cause.
        """
        found = Tally()
        try:
            for row in self._json_rows(number) if self._form == "jsonl" else self._parquet_rows(number):
                if row.get("segment") is None:
                    found.add(row["usage"], row["error"])
        except (OSError, ValueError, KeyError, TypeError):
            name = self._name(number)
            raise OutputError(f"{name} in {self.uri} cannot be read: remove it to have it computed again") from None
        return found

    def finish(self, summary: bytes) -> None:
        """Mark the job as complete and remove temporary files of interrupted runs."""
        for name in self._names():
            if _TEMPORARY.fullmatch(name):
                with self._faults():
                    self._files.delete_file(self._at(name))
        self.write(SUCCESS, summary)

    def _json_rows(self, number: int) -> Iterator[dict[str, Any]]:
        with self._files.open_input_stream(self._at(self._name(number)), compression=None) as stream:
            for line in stream.read().splitlines():
                yield json.loads(line)

    def _parquet_rows(self, number: int) -> Iterator[dict[str, Any]]:
        from pyarrow import parquet  # noqa: PLC0415

        with (
            self._files.open_input_file(self._at(self._name(number))) as raw,
            parquet.ParquetFile(raw) as file,
        ):
            wanted = [name for name in ("segment", "usage", "error") if name in file.schema_arrow.names]
            for batch in file.iter_batches(columns=wanted):
                yield from batch.to_pylist()

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        def fill(file: BinaryIO) -> None:
            file.writelines(chunks)

        self._create(name, fill)

    def _create(self, name: str, fill: Callable[[BinaryIO], None]) -> None:
        """Write a temporary file and rename it; a local file is flushed to disk first."""
        with self._faults():
            if self._files.type_name == "local":
                with replacing(Path(self._at(name)), sync=True) as file:
                    fill(file)
                return
            temporary = self._at(f".{name}.{uuid.uuid4().hex}")
            with self._files.open_output_stream(temporary, compression=None) as stream:
                fill(stream)
            self._files.move(temporary, self._at(name))

    def _name(self, number: int) -> str:
        return f"part-{number:05d}.{self._form}"

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _names(self) -> list[str]:
        from pyarrow.fs import FileSelector  # noqa: PLC0415

        with self._faults():
            found = self._files.get_file_info(FileSelector(self._path, allow_not_found=True))
        return [info.base_name for info in found]

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            words = os.strerror(fault.errno) if fault.errno else first_line(fault)
            raise OutputError(f"{self.uri}: {words}") from fault
