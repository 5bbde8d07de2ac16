"""What the layer cache saves for a document repeated, edited, and for a second task; and its cost without repeats.

Times are measured by a client through gRPC, in the default cache mode unless noted. The document is an address of about
32,000 tokens. Edits insert, delete or replace a sentence anywhere, and no two calls send the same edit. `again` is the
first call of a fresh process with empty memory, so everything comes from disk.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import click
import numpy as np

from benchmarks.figures import Figure, Figures, Outcome, attempt
from benchmarks.segmentation import edited, units
from benchmarks.served import serve
from benchmarks.statistics import percentile, ratio, summarise
from benchmarks.texts import sotu
from chunking import Tokenizer, load_tokenizer
from octavo.client import Client, EmbedResult
from server.config.schema import ModelSettings

__all__ = ["run"]

Mode = Literal["read_write", "read_only", "refresh", "bypass"]

_MILLI = 1000.0
_SHORTEST, _LONGEST = 20_000, 80_000  # characters of the second task's texts
_TIMEOUT = 300.0
_LONG = 100_000  # tokens of the document whose edits are taken apart
_IN_A_ROW = 3  # calls that never repeat: what is written after an answer slows the same server's next one
_WAIT_TO_WRITE = 3.0  # seconds; the store's queue is on disk by then
_PAUSE = 0.5  # seconds between calls to two servers: what one has left to write is not to slow the other


@click.option("--model", default="all-MiniLM-L6-v2", show_default=True, help="The model's name or folder.")
@click.option("--tokens", default=32_000, show_default=True, help="About how long the document is.")
@click.option("--servers", default=20, show_default=True, help="Fresh servers that are asked for it again.")
@click.option("--edits", default=50, show_default=True, help="Edited copies.")
@click.option("--rounds", default=30, show_default=True, help="Of calls that never repeat.")
@click.option("--edit-rounds", default=40, show_default=True, help="Of an edit beside its parts, for its overhead.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(model: str, tokens: int, servers: int, edits: int, rounds: int, edit_rounds: int, seed: int) -> Figures:
    """Measure each part with a cache folder of its own."""
    tokenizer = load_tokenizer(ModelSettings(path=model).folder)
    text = nearest(sotu(), tokens, tokenizer)
    copies = list(edited_copies(text, edits, seed))
    figures: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="octavo-cache-") as scratch:
        folder = Path(scratch)
        figures |= attempt(
            ("again_ms", "again_x", "edit_x", "edit_x_worst", "edit_tokens", "identical"),
            lambda: repeats(model, text, copies, servers, folder / "repeats"),
        )
        figures |= attempt(
            ("edit_overhead_ms",),
            lambda: edit_overhead(model, joined(sotu(), _LONG, tokenizer), edit_rounds, seed, folder / "edits"),
        )
        figures |= attempt(
            ("second_task_disk_x", "second_task_memory_x"), lambda: second_task(model, folder / "second", seed)
        )
        figures |= attempt(("cold_overhead",), lambda: cold_overhead(model, rounds, seed, folder / "cold"))
    return figures


def repeats(model: str, text: str, copies: list[str], servers: int, folder: Path) -> Figures:
    """The same document cold, again and edited; every answer compared with one of a server without a cache."""
    with client_of(model, None) as plain:
        truth = {each: plain.embed(each, segment_vectors=True, timeout=_TIMEOUT) for each in [text, *copies[:10]]}
    same: list[bool] = []
    cold: list[float] = []
    with client_of(model, folder) as client:
        client.embed("Warm up.", timeout=_TIMEOUT)
        first, seconds = timed_embed(client, text)
        cold.append(seconds)
        same.append(identical(first, truth[text]))
        for _ in range(4):
            fresh, seconds = timed_embed(client, text, "refresh")
            cold.append(seconds)
            same.append(identical(fresh, truth[text]))
        warm, _ = timed_embed(client, text)
        same.append(identical(warm, truth[text]))
        usual = float(np.median(cold))
        edit_x, shares = [], []
        for copy in copies:
            result, seconds = timed_embed(client, copy)
            edit_x.append(usual / seconds)
            shares.append(100 * result.usage.computed_tokens / result.usage.processed_tokens)
            if copy in truth:
                same.append(identical(result, truth[copy]))
        time.sleep(_WAIT_TO_WRITE)
    again = []
    for _ in range(servers):
        with client_of(model, folder) as client:
            client.models()  # connected
            result, seconds = timed_embed(client, text)
            same.append(identical(result, truth[text]) and not result.usage.computed_tokens)
            again.append(seconds)
    return {
        "again_ms": percentile([_MILLI * each for each in again], 50, "ms"),
        "again_x": summarise([usual / each for each in again], "x"),
        "edit_x": summarise(edit_x, "x"),
        "edit_x_worst": Figure(min(edit_x), "x", n=len(edit_x)),
        "edit_tokens": summarise(shares, "%"),
        "identical": Figure(sum(same) / len(same), "share", n=len(same)),
        "cold_ms": summarise([_MILLI * each for each in cold], "ms"),
        "document_tokens": Figure(first.usage.tokens, "tokens"),
        "document_segments": Figure(len(first.segments), "segments"),
    }


def edit_overhead(model: str, text: str, rounds: int, seed: int, folder: Path) -> Figures:
    """What an edit costs beyond answering the known document and computing the changed segments.

    Each round times three requests to one server in default settings: the document again; a fresh edit of it; and the
    segments that are in the edit but not in the document, each sent as a text of its own, all at once, bypassing the
    cache. The overhead is the second time less the two others. Between requests there is a pause for writes.
    """
    overhead: list[float] = []
    again: list[float] = []
    alone: list[float] = []
    edit: list[float] = []
    with client_of(model, folder) as client:
        known = {segment.digest for segment in client.embed(text, timeout=_TIMEOUT).segments}
        timed_embed(client, text)
        for copy in edited_copies(text, rounds, seed):
            time.sleep(_PAUSE)
            result, unchanged = timed_embed(client, text)
            if result.usage.computed_tokens:
                raise AssertionError("the document was not answered from the cache")
            time.sleep(_PAUSE)
            result, edited_seconds = timed_embed(client, copy)
            new = [segment for segment in result.segments if segment.digest not in known]
            pieces = [copy[segment.char_start : segment.char_end] for segment in new]
            time.sleep(_PAUSE)
            start = time.perf_counter()
            list(client.embed_many(pieces, cache_mode="bypass", timeout=_TIMEOUT))
            computing = time.perf_counter() - start
            again.append(_MILLI * unchanged)
            edit.append(_MILLI * edited_seconds)
            alone.append(_MILLI * computing)
            overhead.append(_MILLI * (edited_seconds - unchanged - computing))
    return {
        "edit_overhead_ms": summarise(overhead, "ms"),
        "edit_ms": summarise(edit, "ms"),
        "edit_again_ms": summarise(again, "ms"),
        "edit_alone_ms": summarise(alone, "ms"),
    }


def second_task(model: str, folder: Path, seed: int) -> Figures:
    """CLS vectors of a corpus whose states are known from mean pooling, over computing them afresh."""
    texts = random.Random(seed).sample([text for text in sotu() if _SHORTEST < len(text) < _LONGEST], 16)
    flags = ("--set", "cache.results=false", "--set", "cache.memory_bytes=1000000000")
    with client_of(model, folder, *flags) as client:
        for text in texts:
            client.embed(text, timeout=_TIMEOUT)
        memory = [compared(client, text) for text in texts for _ in range(2)]
        time.sleep(_WAIT_TO_WRITE)
    with client_of(model, folder, *flags) as client:
        client.embed("Warm up.", timeout=_TIMEOUT, cache_mode="bypass")
        disk = [compared(client, text) for text in texts]
    return {
        "second_task_disk_x": ratio(*zip(*disk, strict=True)),
        "second_task_memory_x": ratio(*zip(*memory, strict=True)),
    }


def compared(client: Client, text: str) -> tuple[float, float]:
    """Seconds of the second task afresh, and from states. The states come first: computing leaves nothing behind."""
    known, from_states = timed_embed(client, text, "read_only", pooling="cls")
    fresh, afresh = timed_embed(client, text, "bypass", pooling="cls")
    if known.usage.computed_tokens or not identical(known, fresh):
        raise AssertionError("the second task was not answered from states, or not alike")
    return afresh, from_states


def cold_overhead(model: str, rounds: int, seed: int, folder: Path) -> Figures:
    """Texts that never repeat, in turns through a server with a cache and one without."""
    draw = random.Random(seed)
    words = [word for text in sotu()[:40] for word in text.split()]
    on: list[float] = []
    off: list[float] = []
    with client_of(model, folder) as cached, client_of(model, None) as plain:
        for number in range(rounds + 1):
            texts = [" ".join(draw.choices(words, k=3000)) for _ in range(_IN_A_ROW)]
            # Whoever comes second finds the processor's caches warm: both come second as often.
            order = [(cached, on), (plain, off)]
            for client, seconds in order if number % 2 else reversed(order):
                seconds.append(sum(timed_embed(client, text)[1] for text in texts))
                time.sleep(_PAUSE)
    on, off = on[1:], off[1:]  # the first round warmed up
    return {"cold_overhead": ratio(on, off)}


@contextmanager
def client_of(model: str, folder: Path | None, *flags: str) -> Iterator[Client]:
    """A client of a fresh server, with its cache in a folder or without one."""
    cache = ("--set", "cache.enabled=false") if folder is None else ("--cache-dir", str(folder))
    with serve("--model", model, *cache, *flags) as served, Client(served.address) as client:
        yield client


def timed_embed(
    client: Client, text: str, mode: Mode = "read_write", pooling: Literal["mean", "cls"] | None = None
) -> tuple[EmbedResult, float]:
    """An answer with its segments' vectors, and the seconds that its caller waited."""
    start = time.perf_counter()
    result = client.embed(text, segment_vectors=True, cache_mode=mode, pooling=pooling, timeout=_TIMEOUT)
    return result, time.perf_counter() - start


def identical(one: EmbedResult, other: EmbedResult) -> bool:
    """Whether two answers are the same, bit for bit."""
    ours, theirs = ([result.vector, *(segment.vector for segment in result.segments)] for result in (one, other))
    return len(ours) == len(theirs) and all(
        a is not None and b is not None and np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


def nearest(texts: list[str], tokens: int, tokenizer: Tokenizer) -> str:
    """The text whose length in tokens is nearest to what was asked for."""
    lengths = [len(encoded) for encoded in tokenizer.encode(texts)]
    return texts[min(range(len(texts)), key=lambda i: abs(lengths[i] - tokens))]


def joined(texts: list[str], tokens: int, tokenizer: Tokenizer) -> str:
    """The latest texts that together have about as many tokens as asked for."""
    chosen: list[str] = []
    length = 0
    for text in reversed(texts):
        if length >= tokens:
            break
        chosen.append(text)
        length += len(tokenizer.encode([text])[0])
    return "\n\n".join(chosen)


def edited_copies(text: str, count: int, seed: int) -> Iterator[str]:
    """The text with a sentence inserted, deleted or replaced anywhere."""
    draw = random.Random(seed)
    own, other = units("english", text, draw), units("english", sotu()[0], draw)
    for _ in range(count):
        yield edited(draw, own, other)
