"""Embeds a dataset of Ray Data."""

import json
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Unpack

from octavo.batch.columns import columns_of
from octavo.batch.documents import (
    BOOLEAN,
    ID_COLUMN,
    INTEGER,
    JSON,
    NUMBER,
    STRING,
    TEXT_COLUMN,
    Columns,
    document_of,
)
from octavo.batch.drivers import Ask
from octavo.batch.errors import InputError
from octavo.batch.parts import Share, Size, placed
from octavo.batch.progress import Progress
from octavo.batch.records import FIRST_COLUMNS, LAST_COLUMNS, Layout, Record
from octavo.batch.replicas import Actor, Replicas
from octavo.batch.rows import arrow_rows, check_columns
from octavo.batch.summary import Tally
from octavo.batch.work import Work
from octavo.cli.options import TASKS
from octavo.client import Embed, EmbedSparse
from octavo.client.arguments import CallArguments, Task

_NAMES = {kind: name.replace("-", "_") for name, kind in TASKS.items()}


def embed(  # noqa: PLR0913 - an option each, by keyword
    dataset: Any,
    *,
    tasks: Sequence[Task] = (Embed(),),
    text_column: str = TEXT_COLUMN,
    id_column: str = ID_COLUMN,
    keep: Sequence[str] = (),
    segments: bool = False,
    replicas: int | tuple[int, int] = 1,
    num_cpus: float = 1,
    num_gpus: float = 0,
    batch_size: int = 256,
    max_document_bytes: int = 16_000_000,
    settings: Mapping[str, object] | None = None,
    **arguments: Unpack[CallArguments],
) -> Any:
    """Embed a ray.data.Dataset: return one with the columns and rows of `octavo batch`, docs/batch.md.

    An actor pool computes it when the result is consumed; each actor runs a server. One is started at once, to learn
    the fingerprint and size of vectors. Bad rows get an error instead of vectors. Unlike in `octavo batch`, equal ids
    are no errors, and rows come in any order.

    Args:
        dataset: the documents, in rows.
        tasks: what to compute, at most one task of a kind.
        text_column: the column of the text.
        id_column: the column of the id, a string or an integer.
        keep: columns to copy.
        segments: add a row for each segment, with its position and vectors.
        replicas: the number of actors, or its minimum and maximum.
        num_cpus: cores of each, which are the threads of its server.
        num_gpus: devices of each.
        batch_size: documents that are sent to an actor at a time.
        max_document_bytes: maximum UTF-8 bytes of a document.
        settings: other settings of the servers, docs/configuration.md, such as {"cache.enabled": "false"}.
        **arguments: keyword arguments of the client's calls, such as `segmentation`; `model` is a name or folder, by
            default as the machines' settings say.

    Raises:
        ValueError: the dataset lacks a column, or arguments exclude each other.
        BatchError: the server refuses the tasks or arguments.
        click.ClickException: the server does not start.
    """
    columns = Columns(text_column, id_column, tuple(dict.fromkeys(keep)))
    named = _named(tasks, segments)
    kept = _kept(dataset, columns, named)
    least, most = (replicas, replicas) if isinstance(replicas, int) else replicas
    _warn_of_cores(least * num_cpus)
    told = tuple((name, str(value)) for name, value in (settings or {}).items())
    model = arguments.pop("model", None)
    pool = Replicas(least, most, num_cpus, num_gpus, model, max_document_bytes, told)
    served = pool.probe(Ask(named, arguments))
    arguments["expected_fingerprint"] = served.fingerprint
    options = {"text-column": columns.text, "id-column": columns.id, "keep": columns.kept, "tasks": list(named)}
    metadata = json.dumps({"model": served.model, "fingerprint": served.fingerprint, "options": options})
    layout = Layout(kept, columns_of(named), served, segments, metadata)
    wanted = dataset.select_columns(list(dict.fromkeys((text_column, id_column, *columns.kept))))
    return pool.map(wanted, _Embedder, columns, layout, Ask(named, arguments), batch_size=batch_size)


def _warn_of_cores(wanted: float) -> None:
    import ray  # noqa: PLC0415 - an extra

    cores = ray.cluster_resources().get("CPU", 0)
    if wanted + 1 > cores:
        told = f"replicas with {wanted:g} CPUs leave none of the cluster's {cores:g} for reading, which may never start"
        warnings.warn(told, stacklevel=3)


def _named(tasks: Iterable[Task], segments: bool) -> dict[str, Task]:
    named: dict[str, Task] = {}
    for task in tasks:
        name = _NAMES[type(task)]
        if name in named:
            raise ValueError(f"tasks: {name} is given twice, but has columns of its own")
        named[name] = replace(task, segment_vectors=segments) if isinstance(task, Embed | EmbedSparse) else task
    if segments and not named.keys() & {"embed", "embed_sparse"}:
        raise ValueError("segments: no task has vectors: add Embed or EmbedSparse")
    return named


def _kept(dataset: Any, columns: Columns, tasks: Mapping[str, Task]) -> tuple[tuple[str, str], ...]:
    """The kept columns and their kinds, by the dataset's types."""
    own = (*FIRST_COLUMNS, *columns_of(tasks), *LAST_COLUMNS)
    if taken := next((name for name in columns.kept if name in own), None):
        raise ValueError(f"keep: the column {taken!r} is reserved for the output")
    schema = dataset.schema()
    names, types = (schema.names, schema.types) if schema else ([], [])
    try:
        check_columns("the dataset", names, columns.reading("utf-8", 0))
    except InputError as fault:
        raise ValueError(str(fault)) from None
    kinds = dict(zip(names, map(_kind, types), strict=True))
    return tuple((name, kinds[name]) for name in columns.kept)


def _kind(kind: Any) -> str:
    """The kind of a column of this pyarrow.DataType."""
    from pyarrow import types  # noqa: PLC0415 - only jobs need it

    if types.is_boolean(kind):
        return BOOLEAN
    if types.is_integer(kind):
        return INTEGER
    if types.is_floating(kind):
        return NUMBER
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return STRING if is_text or types.is_null(kind) else JSON


@dataclass(slots=True)
class _Table:
    """Keeps the only part as a pyarrow.Table."""

    value: Any = None

    def write_part(self, number: int, records: Sequence[Record], layout: Layout) -> None:
        """Keep the part."""
        del number
        self.value = layout.table(records)

    def tally(self, number: int) -> Tally:
        """No part was completed before."""
        raise LookupError(number)


class _Embedder(Actor):
    """Computes batches."""

    def __init__(self, replicas: Replicas, columns: Columns, layout: Layout, ask: Ask) -> None:
        super().__init__(replicas)
        self._columns, self._layout, self._ask = columns, layout, ask
        self._most_bytes = replicas.max_document_bytes

    def __call__(self, batch: Any) -> Any:
        rows = arrow_rows("dataset", batch.to_batches())
        documents = (document_of(row, self._columns, "parquet", self._most_bytes) for row in rows)
        table = _Table(self._layout.table([]))
        whole = Size(batch.num_rows, sys.maxsize)
        work = Work(table, (), self._layout, Share(), None, Progress(0, shown=False))
        self.do(work, placed(documents, whole, None), self._ask)
        return table.value
