"""Rows of the output, as an Arrow table and as JSON Lines."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from octavo.batch.columns import VECTOR, arrow_type, columns_of, json_values, of_segments, values_of
from octavo.batch.documents import BOOLEAN, INTEGER, JSON, NUMBER, STRING, kept_value
from octavo.batch.manifest import Manifest, Served
from octavo.batch.rows import Problem
from octavo.cli.output import json_line
from octavo.client import Analysis, Segment
from octavo.client.arguments import Task
from octavo.client.results import Array, TaskResult

FIRST_COLUMNS, LAST_COLUMNS = ("id", "segment", "char_start", "char_end"), ("usage", "error")
_USAGE = ("tokens", "processed_tokens", "computed_tokens", "cached_tokens", "charged_tokens")
_PLACE = ("segment", "char_start", "char_end")
METADATA_KEY = b"octavo"


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A document's row and the rows of its segments, if any."""

    id: str
    kept: tuple[Any, ...]
    outcome: Analysis | Problem


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a job's output.

    Attributes:
        kept: names and kinds of copied columns.
        columns: names and types of the tasks' columns, as in `columns`.
    """

    kept: tuple[tuple[str, str], ...]
    columns: Mapping[str, Any]
    served: Served
    segments: bool
    metadata: str

    @classmethod
    def of(cls, manifest: Manifest, tasks: Mapping[str, Task]) -> "Layout":
        """The layout for a manifest and the job's tasks."""
        options, served = manifest.options, manifest.served
        told = {"model": served.model, "fingerprint": served.fingerprint, "options": dict(options)}
        kept = tuple(zip(options["keep"], manifest.survey.kinds, strict=True))
        metadata = json.dumps(told, ensure_ascii=False)
        return cls(kept, columns_of(tasks), served, bool(options["segments"]), metadata)

    def rows(self, records: Iterable[Record]) -> Iterator[dict[str, Any]]:
        """Yield rows, with numpy's arrays: each document's row, then its segments' rows."""
        for record in records:
            head = {"id": record.id}
            for (name, kind), value in zip(self.kept, record.kept, strict=True):
                head[name] = kept_value(value, kind)
            place = dict.fromkeys(_PLACE) if self.segments else {}
            outcome = record.outcome
            if isinstance(outcome, Problem):
                yield {**head, **place, **self._values([]), "usage": None, "error": asdict(outcome)}
                continue
            results = self._values(outcome.results.values())
            yield {**head, **place, **results, "usage": asdict(outcome.usage), "error": None}
            for segment, own in _segment_results(outcome) if self.segments else ():
                yield {**head, **_segment_place(segment), **self._values(own), **_segment_end(segment)}

    def lines(self, records: Iterable[Record]) -> Iterator[bytes]:
        """Yield JSON lines."""
        return map(json_line, map(json_values, self.rows(records)))

    def table(self, records: Iterable[Record]) -> Any:
        """Build a pyarrow.Table."""
        import pyarrow as pa  # noqa: PLC0415 - only jobs need it

        schema = self.schema()
        rows = list(self.rows(records))
        columns = [
            self._vector_column([row[VECTOR] for row in rows], field.type)
            if field.name == VECTOR and VECTOR in self.columns
            else pa.array([row[field.name] for row in rows], field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(columns, schema=schema)

    def _values(self, results: Iterable[TaskResult]) -> dict[str, Any]:
        """The tasks' columns; null where there is no result."""
        found = {name: value for result in results for name, value in values_of(result).items()}
        return {name: found.get(name) for name in self.columns}

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
        fields = [
            pa.field("id", pa.string(), nullable=False),
            *(pa.field(name, kinds[kind]) for name, kind in self.kept),
            *(pa.field(name, pa.int64()) for name in (_PLACE if self.segments else ())),
            *(pa.field(name, self._type(kind)) for name, kind in self.columns.items()),
            pa.field("usage", usage),
            pa.field("error", error),
        ]
        return pa.schema(fields, metadata={METADATA_KEY: self.metadata.encode()})

    def _type(self, kind: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        vector = kind is None
        return pa.list_(pa.from_numpy_dtype(np.dtype(self._numpy_type)), self._width) if vector else arrow_type(kind)

    @property
    def _numpy_type(self) -> str:
        return "uint8" if self.served.data_type == "binary" else self.served.data_type

    @property
    def _width(self) -> int:
        """Stored values per vector."""
        return -(-self.served.dimensions // 8) if self.served.data_type == "binary" else self.served.dimensions

    def _vector_column(self, vectors: Sequence[Array | None], kind: Any) -> Any:
        import pyarrow as pa  # noqa: PLC0415

        values = np.zeros((len(vectors), self._width), self._numpy_type)
        for row, vector in zip(values, vectors, strict=True):
            if vector is not None:
                row[:] = vector
        missing = pa.array([vector is None for vector in vectors], pa.bool_())
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=kind, mask=missing)


def _segment_results(analysis: Analysis) -> Iterator[tuple[Segment, list[TaskResult]]]:
    """The segments of each trunk that has vectors of them, with these."""
    for trunk in analysis.trunks:
        of_tasks = [found for name in trunk.tasks if (found := of_segments(analysis.results[name]))]
        if of_tasks:
            for segment, *own in zip(trunk.segments, *of_tasks, strict=True):
                yield segment, own


def _segment_place(segment: Segment) -> dict[str, Any]:
    return {"segment": segment.index, "char_start": segment.char_start, "char_end": segment.char_end}


def _segment_end(segment: Segment) -> dict[str, Any]:
    usage = {**dict.fromkeys(_USAGE), "tokens": segment.token_count, "processed_tokens": segment.processed_tokens}
    return {"usage": usage, "error": None}
