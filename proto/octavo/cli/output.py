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
from octavo.client.results import Array, EmbedResult, Segment, SegmentationResult
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


def embedding_json(file: str, result: EmbedResult, *, segments: bool) -> dict[str, Any]:
    """A document's result, with segments and their vectors if requested."""
    document = {"file": file, **_reply_json(result), "vector": numbers(result.vector)}
    return {**document, "segments": [_segment_json(each) for each in result.segments]} if segments else document


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


def _reply_json(result: EmbedResult | SegmentationResult) -> dict[str, Any]:
    return {
        "model": str(result.model),
        "fingerprint": result.fingerprint,
        "usage": dataclasses.asdict(result.usage),
        "timings": {stage: round(seconds, 6) for stage, seconds in dataclasses.asdict(result.timings).items()},
        "request_id": result.request_id,
    }


def _segment_json(segment: Segment) -> dict[str, Any]:
    values: dict[str, Any] = {
        "index": segment.index,
        "char_start": segment.char_start,
        "char_end": segment.char_end,
        "token_count": segment.token_count,
        "processed_tokens": segment.processed_tokens,
        "resumed_from_layer": segment.resumed_from_layer,
        "digest": segment.digest.hex(),
    }
    return values if segment.vector is None else {**values, "vector": numbers(segment.vector)}


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
