"""Writes results: JSON Lines, arrays, tables."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from octavo.cli.exits import Failure
from octavo.client.results import (
    Array,
    Classification,
    Embedding,
    Entities,
    Entity,
    LabelScore,
    Passage,
    Ranking,
    RedactedEntity,
    Redaction,
    Reply,
    Segment,
    SegmentationResult,
    SegmentResult,
    SparseEmbedding,
    SparseVector,
    StreamSummary,
    TaskResult,
)
from octavo.files import replacing

STDOUT = "-"


@contextlib.contextmanager
def destination(output: str) -> Iterator[BinaryIO]:
    """Open standard output for '-', else a file as `replacing` does.

    Raises:
        Failure: the file cannot be written; the message names it.
    """
    if output == STDOUT:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        with replacing(Path(output)) as file:
            yield file
    except BrokenPipeError:  # from a FIFO; handled like standard output
        raise
    except OSError as fault:
        if fault.errno is None:
            raise
        raise Failure(f"{output}: {fault.strerror}") from fault


def json_line(value: dict[str, Any]) -> bytes:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogateescape") + b"\n"


def numbers(vector: Array) -> list[float] | list[int]:
    """The vector's values, with the fewest digits that round-trip."""
    if np.issubdtype(vector.dtype, np.floating):
        return [float(digits) for digits in vector.astype(str)]
    return [int(value) for value in vector]


def number(score: float) -> float:
    """A float32 value, with the fewest digits that round-trip."""
    return float(str(np.float32(score)))


def task_json(text: str, parts: Sequence[SegmentResult], summary: StreamSummary, *, segments: bool) -> dict[str, Any]:
    """The result of a call's only task for a document, with its segments and their results if requested."""
    (result,) = summary.results.values()
    document = {**_reply_json(summary), **_result_json(result, text)}
    if not segments:
        return document
    own = ((part.segment, *part.results.values()) for part in parts)
    return {**document, "segments": [{**_segment_json(segment), **_own_json(result)} for segment, result in own]}


def analysis_json(
    text: str, parts: Sequence[SegmentResult], summary: StreamSummary, *, segments: bool
) -> dict[str, Any]:
    """The results of a document's tasks by name, and what ran, with its segments and their results if requested."""
    trunks: list[dict[str, Any]] = [
        {"model": str(trunk.model), "fingerprint": trunk.fingerprint, "tasks": list(trunk.tasks)}
        | ({"usage": dataclasses.asdict(trunk.usage)} if trunk.usage else {})
        for trunk in summary.trunks
    ]
    for number, trunk in enumerate(trunks) if segments else ():
        trunk["segments"] = [_part_json(part) for part in parts if part.trunk == number]
    return {
        **_reply_json(summary),
        "results": {name: _result_json(result, text) for name, result in summary.results.items()},
        "trunks": trunks,
    }


def _part_json(part: SegmentResult) -> dict[str, Any]:
    results = ((name, _own_json(result)) for name, result in part.results.items())
    return {**_segment_json(part.segment), "results": {name: values for name, values in results if values}}


def _own_json(result: TaskResult) -> dict[str, Any]:
    """A segment's own result; entities and masks are the document's alone."""
    return {} if isinstance(result, Entities | Redaction) else _result_json(result, "")


def _result_json(result: TaskResult, text: str) -> dict[str, Any]:
    match result:
        case Embedding():
            return {} if result.vector is None else {"vector": numbers(result.vector)}
        case Entities():
            return {"entities": [_entity_json(each, text) for each in result.entities]}
        case Redaction():
            return {"text": result.text, "entities": [_masked_json(each) for each in result.entities]}
        case Classification():
            return {"labels": [_label_json(each) for each in result.labels]}
        case Ranking():
            return {"score": number(result.score), "passages": [_passage_json(each, text) for each in result.passages]}
        case SparseEmbedding():
            return {} if result.vector is None else _sparse_json(result.vector)


def _entity_json(entity: Entity, text: str) -> dict[str, Any]:
    return {**_place_json(entity), "text": text[entity.char_start : entity.char_end]}


def _passage_json(passage: Passage, text: str) -> dict[str, Any]:
    return {
        "char_start": passage.char_start,
        "char_end": passage.char_end,
        "score": number(passage.score),
        "segment_index": passage.segment_index,
        "text": text[passage.char_start : passage.char_end],
    }


def _masked_json(masked: RedactedEntity) -> dict[str, Any]:
    place = {"redacted_start": masked.redacted_start, "redacted_end": masked.redacted_end}
    return {**_place_json(masked.entity), **place}


def _place_json(entity: Entity) -> dict[str, Any]:
    return {**dataclasses.asdict(entity), "score": number(entity.score)}


def _label_json(label: LabelScore) -> dict[str, Any]:
    scored: dict[str, Any] = {"label": label.label, "score": number(label.score)}
    carried = [{"segment_index": index, "score": number(score)} for index, score in label.segments]
    return {**scored, "segments": carried} if carried else scored


def _sparse_json(vector: SparseVector) -> dict[str, Any]:
    values: dict[str, Any] = {"indices": vector.indices.tolist(), "weights": numbers(vector.weights)}
    return {**values, "tokens": list(vector.tokens)} if vector.tokens else values


def segmentation_json(file: str, result: SegmentationResult) -> dict[str, Any]:
    """A document's segmentation. Nothing was computed, so `usage` only has its size."""
    return {
        "file": file,
        **_reply_json(result),
        "usage": {"tokens": result.usage.tokens, "processed_tokens": result.usage.processed_tokens},
        "uncached_tokens": result.uncached_tokens,
        "would_charge_tokens": result.would_charge_tokens,
        "segments": [_segment_json(each) for each in result.segments],
    }


def _reply_json(result: Reply) -> dict[str, Any]:
    return {
        "model": str(result.model),
        "fingerprint": result.fingerprint,
        "usage": dataclasses.asdict(result.usage),
        "timings": {stage: round(seconds, 6) for stage, seconds in dataclasses.asdict(result.timings).items()},
        "request_id": result.request_id,
    }


def _segment_json(segment: Segment) -> dict[str, Any]:
    return {
        "index": segment.index,
        "char_start": segment.char_start,
        "char_end": segment.char_end,
        "token_count": segment.token_count,
        "processed_tokens": segment.processed_tokens,
        "resumed_from_layer": segment.resumed_from_layer,
        "digest": segment.digest.hex(),
    }


def save_array(rows: Sequence[Array], out: BinaryIO) -> None:
    """Write the rows as one array in NumPy's format. Unlike `np.save`, also works with a pipe."""
    array = np.stack(rows)
    np.lib.format.write_array_header_1_0(out, np.lib.format.header_data_from_array_1_0(array))
    out.write(array.tobytes())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Format a table; the columns in `right` are right-aligned."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cells = (
        [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    )
    return "\n".join("  ".join(line).rstrip() for line in cells)


def glimpse(text: str, length: int = 48) -> str:
    """The beginning of a text on one line, without control characters."""
    start = " ".join(text[: 4 * length].split())
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in start)
    return shown if len(shown) <= length and len(text) <= 4 * length else f"{shown[: length - 1]}…"
