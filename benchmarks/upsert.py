"""What an edit costs a caller who keeps a document's vectors, and whether the index stays the one built afresh.

The caller sends the digests of the segments that it holds and gets the vectors of the others. The document is an
address of about 32,000 tokens; edits insert, delete or replace a sentence anywhere, and no two calls send the same
edit. Bytes are the reply's message, times a stock stub's. A cold embed returns all segments' vectors and bypasses the
cache.
"""

import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from benchmarks import local_index
from benchmarks.cache import client_of, edited_copies, nearest
from benchmarks.figures import Figure, Figures, attempt_each
from benchmarks.statistics import percentile, percentile_ms, ratio, summarise
from benchmarks.tasks import stub_of
from benchmarks.texts import sotu
from chunking import load_tokenizer
from octavo.client import Change, Client, Held, PlacedSegment
from octavo.v1 import inference_pb2 as pb
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from server.config.schema import ModelSettings

_TIMEOUT = 300.0
_WAIT_TO_WRITE = 3.0  # seconds; the store's queue is on disk by then
_PARAGRAPHS = 60  # of the document that is edited again and again


@click.option("--model", default="all-MiniLM-L6-v2", show_default=True, help="The model's name or folder.")
@click.option("--tokens", default=32_000, show_default=True, help="About how long the document is.")
@click.option("--sentences", default=50, show_default=True, help="Copies with one sentence edited.")
@click.option("--edits", default=200, show_default=True, help="Edits of paragraphs, one after the other.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(model: str, tokens: int, sentences: int, edits: int, seed: int) -> Figures:
    """Measure each part with a server of its own."""
    text = nearest(sotu(), tokens, load_tokenizer(ModelSettings(path=model).folder))
    copies = list(edited_copies(text, sentences, seed))
    return attempt_each(
        {
            ("upsert_same",): lambda folder: same_index(model, edits, seed, folder),
            ("upsert_bytes", "upsert_x", "upsert_vectors", "upsert_vectors_p95"): (
                lambda folder: one_sentence(model, text, copies, folder)
            ),
            ("upsert_sync_ms",): lambda folder: synced(model, text, copies, folder),
            ("index_resync_x",): lambda folder: local_index.resync(folder, seed),
            ("index_kills_wrong",): lambda folder: local_index.kills(folder, seed),
        }
    )


@dataclass(slots=True)
class Vectors:
    """An index in memory: each document's fingerprint, and its segments with their vectors."""

    documents: dict[str, tuple[str, list[PlacedSegment]]] = field(default_factory=dict)

    def held(self, document_id: str) -> Held | None:
        """See `SegmentIndex`."""
        if document_id not in self.documents:
            return None
        fingerprint, segments = self.documents[document_id]
        return Held(fingerprint, tuple(segment.digest for segment in segments))

    def apply(self, document_id: str, change: Change) -> None:
        """See `SegmentIndex`."""
        _, before = self.documents.get(document_id, ("", []))
        vectors = {segment.digest: segment.vector for segment in before}
        now = [
            PlacedSegment(
                each.digest, each.start, each.end, vectors[each.digest] if each.vector is None else each.vector
            )
            for each in change.segments
        ]
        self.documents[document_id] = change.fingerprint, now

    def bits(self) -> dict[str, tuple[str, list[tuple[bytes, int, int, bytes]]]]:
        """All that it holds: each document's fingerprint, and its segments' digests, places and vectors' bits."""
        return {
            name: (fingerprint, [(each.digest, each.start, each.end, _bits(each.vector)) for each in segments])
            for name, (fingerprint, segments) in self.documents.items()
        }


def same_index(model: str, edits: int, seed: int, folder: Path) -> Figures:
    """Edit a document's paragraphs, and compare its index after each edit with one built without any cache."""
    draw = random.Random(seed)
    paragraphs = [each for text in sotu() for each in text.split("\n") if each.strip()]
    own, others = paragraphs[:_PARAGRAPHS], paragraphs[_PARAGRAPHS:]
    index = Vectors()
    same: list[bool] = []
    with client_of(model, folder) as client:
        client.sync("document", "\n\n".join(own), index, timeout=_TIMEOUT)
        for _ in range(edits):
            _edit(draw, own, others)
            text = "\n\n".join(own)
            client.sync("document", text, index, timeout=_TIMEOUT)
            fresh = Vectors()
            client.sync("document", text, fresh, cache_mode="bypass", timeout=_TIMEOUT)
            same.append(index.bits() == fresh.bits())
    return {"upsert_same": Figure(sum(same) / len(same), "share", n=len(same))}


def one_sentence(model: str, text: str, copies: list[str], folder: Path) -> Figures:
    """Compare a call that knows the document's segments, for a copy with one sentence edited, with a cold embed."""
    with stub_of("--model", model, "--cache-dir", str(folder)) as stub:
        held = b"".join(each.digest for each in _embed(stub, text).results[0].segments)
        time.sleep(_WAIT_TO_WRITE)
        sizes, streamed, vectors = [], [], []
        cold, edited, uncached = [], [], []
        for copy in copies:
            start = time.perf_counter()
            full = _embed(stub, copy, mode=pb.CACHE_MODE_BYPASS)
            cold.append(time.perf_counter() - start)
            start = time.perf_counter()
            known = _embed(stub, copy, held, pb.CACHE_MODE_BYPASS)
            uncached.append(time.perf_counter() - start)
            start = time.perf_counter()
            reply = _embed(stub, copy, held)
            edited.append(time.perf_counter() - start)
            _check(full, reply)
            _check(full, known)
            vectors.append(float(len(reply.results[0].segments)))
            sizes.append(100 * reply.ByteSize() / full.ByteSize())
            streamed.append(100 * _streamed_bytes(stub, copy, held) / full.ByteSize())
    return {
        "upsert_bytes": summarise(sizes, "%"),
        "upsert_bytes_worst": Figure(max(sizes), "%", n=len(sizes)),
        "upsert_bytes_streamed": summarise(streamed, "%"),
        "upsert_x": ratio(edited, cold),
        "upsert_x_bypass": ratio(uncached, cold),
        "upsert_vectors": summarise(vectors, "vectors"),
        "upsert_vectors_p95": percentile(vectors, 95, "vectors"),
        "upsert_ms": percentile_ms(edited),
        "upsert_cold_ms": percentile_ms(cold),
    }


def synced(model: str, text: str, copies: list[str], folder: Path) -> Figures:
    """Time `Client.sync` of each copy, with an index in memory that holds the document."""
    seconds = []
    with client_of(model, folder) as client:
        before = Vectors()
        client.sync("document", text, before, timeout=_TIMEOUT)
        time.sleep(_WAIT_TO_WRITE)
        for copy in copies:
            index = Vectors(dict(before.documents))
            seconds.append(_timed_sync(client, copy, index))
    return {"upsert_sync_ms": percentile_ms(seconds)}


def _timed_sync(client: Client, text: str, index: Vectors) -> float:
    start = time.perf_counter()
    client.sync("document", text, index, timeout=_TIMEOUT)
    return time.perf_counter() - start


def _edit(draw: random.Random, own: list[str], others: list[str]) -> None:
    """Insert, delete, move or duplicate a paragraph."""
    at, to = draw.randrange(len(own)), draw.randrange(len(own))
    match draw.choice(["insert", "delete", "move", "duplicate"]):
        case "insert":
            own.insert(at, draw.choice(others))
        case "delete":
            own.pop(at)
        case "move":
            own.insert(to, own.pop(at))
        case "duplicate":
            own.insert(to, own[at])


def _embed(
    stub: InferenceServiceStub, text: str, held: bytes = b"", mode: pb.CacheMode = pb.CACHE_MODE_READ_WRITE
) -> pb.EmbedResponse:
    options = pb.CallOptions(known_segment_digests=held, cache_mode=mode)
    embed = pb.EmbedOptions(return_segment_vectors=True)
    request = pb.EmbedRequest(documents=[pb.Document(text=text)], options=options, embed=embed)
    reply: pb.EmbedResponse = stub.Embed(request, timeout=_TIMEOUT)
    return reply


def _streamed_bytes(stub: InferenceServiceStub, text: str, held: bytes) -> int:
    task = pb.Task(name="embed", embed=pb.EmbedOptions(return_segment_vectors=True))
    options = pb.CallOptions(known_segment_digests=held)
    request = pb.StreamSegmentsRequest(document=pb.Document(text=text), options=options, tasks=[task])
    return sum(event.ByteSize() for event in stub.StreamSegments(request, timeout=_TIMEOUT))


def _check(full: pb.EmbedResponse, part: pb.EmbedResponse) -> None:
    """A reply that says something else than the full one is no reply to time."""
    whole, some = full.results[0], part.results[0]
    places = [each.index for each in some.segments]
    vectors = _rows(whole.embedding.segment_vectors, len(whole.segments))[places]
    if len(places) + len(some.kept.positions) != len(whole.segments) or not np.array_equal(
        vectors, _rows(some.embedding.segment_vectors, len(places))
    ):
        raise AssertionError("the edited document's reply differs from the full one")


def _rows(tensor: pb.Tensor, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.frombuffer(tensor.data, "<f4").reshape(count, -1) if count else np.empty((0, 0), np.float32)


def _bits(vector: "np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None") -> bytes:
    return b"" if vector is None else vector.tobytes()
