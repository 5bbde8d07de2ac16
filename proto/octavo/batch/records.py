"""Rows of the output, as an Arrow table and as JSON Lines."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from octavo.batch.documents import BOOLEAN, INTEGER, JSON, NUMBER, STRING, kept_value
from octavo.batch.manifest import Manifest, Vectors
from octavo.batch.rows import Problem
from octavo.cli.output import json_line, numbers
from octavo.client import Segment, Usage
from octavo.client.results import Array

OWN_COLUMNS = ("id", "segment", "char_start", "char_end", "vector", "usage", "error")
_USAGE = ("tokens", "processed_tokens", "computed_tokens", "cached_tokens", "charged_tokens")
_PLACE = ("segment", "char_start", "char_end")
METADATA_KEY = b"octavo"


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A document's result; segments have vectors if requested."""

    vector: Array
    usage: Usage
    segments: Sequence[Segment] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A document's row and the rows of its segments, if any."""

    id: str
    kept: tuple[Any, ...]
    outcome: Made | Problem


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a job's output."""

    kept: tuple[tuple[str, str], ...]  # name, kind
    vectors: Vectors
    segments: bool
    metadata: str

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """The layout for a manifest."""
        options, vectors = manifest.options, manifest.vectors
        told = {"model": vectors.model, "fingerprint": vectors.fingerprint, "options": dict(options)}
        kept = tuple(zip(options["keep"], manifest.survey.kinds, strict=True))
        return cls(kept, vectors, bool(options["segments"]), json.dumps(told, ensure_ascii=False))

    def rows(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        """Yield rows, with vectors as arrays: each document's row, then its segments' rows."""
        for record in records:
            head = {"id": record.id}
            for (name, kind), value in zip(self.kept, record.kept, strict=True):
                head[name] = kept_value(value, kind)
            place = dict.fromkeys(_PLACE) if self.segments else {}
            if isinstance(record.outcome, Problem):
                yield {**head, **place, "vector": None, "usage": None, "error": asdict(record.outcome)}
                continue
            made = record.outcome
            yield {**head, **place, "vector": made.vector, "usage": asdict(made.usage), "error": None}
            for each in made.segments if self.segments else ():
                yield {**head, **_segment_row(each)}

    def lines(self, records: Iterable[Record]) -> Iterator[bytes]:
        """Yield JSON lines; the values of vectors have the fewest digits that round-trip."""
        for row in self.rows(records):
            vector = row["vector"]
            yield json_line(row if vector is None else {**row, "vector": numbers(vector)})

    def table(self, records: Iterable[Record]) -> Any:
        """Build a pyarrow.Table."""
        import pyarrow as pa  # noqa: PLC0415 - only jobs need it

        schema = self.schema()
        rows = list(self.rows(records))
        columns = [
            self._vector_column([row["vector"] for row in rows], field.type)
            if field.name == "vector"
            else pa.array([row[field.name] for row in rows], field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def schema(self) -> Any:
        """The pyarrow.Schema, documented in docs/batch.md."""
        import pyarrow as pa  # noqa: PLC0415

        kinds = {
            BOOLEAN: pa.bool_(),
            INTEGER: pa.int64(),
            NUMBER: pa.float64(),
            STRING: pa.string(),
            JSON: pa.string(),
        }
        usage = pa.struct([pa.field(name, pa.int64()) for name in _USAGE])
        error = pa.struct([pa.field("reason", pa.string()), pa.field("message", pa.string())])
        value = pa.from_numpy_dtype(np.dtype(self._numpy_type))
        fields = [
            pa.field("id", pa.string(), nullable=False),
            *(pa.field(name, kinds[kind]) for name, kind in self.kept),
            *(pa.field(name, pa.int64()) for name in (_PLACE if self.segments else ())),
            pa.field("vector", pa.list_(value, self._width)),
            pa.field("usage", usage),
            pa.field("error", error),
        ]
        return pa.schema(fields, metadata={METADATA_KEY: self.metadata.encode()})

    @property
    def _numpy_type(self) -> str:
        return "uint8" if self.vectors.data_type == "binary" else self.vectors.data_type

    @property
    def _width(self) -> int:
        """Stored values per vector."""
        return -(-self.vectors.dimensions // 8) if self.vectors.data_type == "binary" else self.vectors.dimensions

    def _vector_column(self, vectors: Sequence[Array | None], kind: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        values = np.zeros((len(vectors), self._width), self._numpy_type)
        for row, vector in zip(values, vectors, strict=True):
            if vector is not None:
                row[:] = vector
        missing = pa.array([vector is None for vector in vectors], pa.bool_())
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=missing)


def _segment_row(segment: Segment) -> Mapping[str, Any]:
    usage = {**dict.fromkeys(_USAGE), "tokens": segment.token_count, "processed_tokens": segment.processed_tokens}
    return {
        "segment": segment.index,
        "char_start": segment.char_start,
        "char_end": segment.char_end,
        "vector": segment.vector,
        "usage": usage,
        "error": None,
    }
