"""Finds passages in a folder's index."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octavo.client import Client
from octavo.client.arguments import CallArguments
from octavo.index.files import content_digest
from octavo.index.store import Hit, Store

CHANGED = "changed since the last sync"
GONE = "deleted since the last sync"


@dataclass(frozen=True, slots=True)
class Passage:
    """A passage that resembles the query.

    Attributes:
        text: None if the file is no longer what was indexed; `problem` says why.
        lines: its first and last line, counted from 1.
    """

    file: str
    char_start: int
    char_end: int
    score: float
    text: str | None = None
    lines: tuple[int, int] | None = None
    problem: str = ""


def search(
    client: Client, store: Store, query: str, count: int, arguments: CallArguments, timeout: float | None = None
) -> list[Passage]:
    """The passages that resemble the query most, best first."""
    asked: CallArguments = {"input_type": "query", "expected_fingerprint": store.fingerprint}
    answer = client.embed(query, timeout=timeout, **(arguments | asked))
    settings = store.settings
    folder, encoding = Path(settings["folder"]), settings["encoding"]
    return [_passage(folder, encoding, hit) for hit in store.nearest(np.asarray(answer.vector, np.float32), count)]


def _passage(folder: Path, encoding: str, hit: Hit) -> Passage:
    place = (hit.document_id, hit.char_start, hit.char_end, hit.score)
    try:
        data = (folder / hit.document_id).read_bytes()
    except FileNotFoundError:
        return Passage(*place, problem=GONE)
    except OSError as fault:
        return Passage(*place, problem=fault.strerror or str(fault))
    if content_digest(data) != json.loads(hit.about)["content"]:
        return Passage(*place, problem=CHANGED)
    text = data.decode(encoding)
    first = text.count("\n", 0, hit.char_start) + 1
    passage = text[hit.char_start : hit.char_end]
    return Passage(*place, passage, (first, first + passage.rstrip("\n").count("\n")))
