"""`sync` against a real server: an index after any edits is one built afresh, and nothing is paid for twice."""

import asyncio
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from octavo.client import (
    AsyncClient,
    Change,
    Client,
    Embed,
    EmbedSparse,
    FingerprintMismatch,
    Held,
    InvalidArgument,
    PlacedSegment,
    SyncReport,
    upsert,
)
from octavo.client.arguments import Task
from tests.server.conftest import models as models  # noqa: PLC0414 - a fixture
from tests.server.conftest import server as server  # noqa: PLC0414
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.helpers import E5, MINILM, Server, prose

TEXT = "\n\n".join(prose(150, seed=i) for i in range(24))


@dataclass
class Shelf:
    """An index in memory: a document's fingerprint and segments, with their vectors."""

    documents: dict[str, tuple[str, list[PlacedSegment]]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)

    def held(self, document_id: str) -> Held | None:
        if document_id not in self.documents:
            return None
        fingerprint, segments = self.documents[document_id]
        return Held(fingerprint, tuple(segment.digest for segment in segments))

    def apply(self, document_id: str, change: Change) -> None:
        _, old = self.documents.get(document_id, ("", []))
        vectors = {segment.digest: segment.vector for segment in old}
        assert set(change.gone) == vectors.keys() - {segment.digest for segment in change.segments}
        segments = []
        for each in change.segments:
            vector = vectors[each.digest] if each.vector is None else each.vector
            segments.append(PlacedSegment(each.digest, each.start, each.end, vector))
        self.documents[document_id] = change.fingerprint, segments
        self.changes.append(change)

    def rows(self, document_id: str = "d") -> list[tuple[bytes, int, int, bytes]]:
        _, segments = self.documents[document_id]
        return [(s.digest, s.start, s.end, bits(s.vector)) for s in segments]


def bits(vector: Any) -> bytes:
    assert vector.dtype == np.float32
    return bytes(vector.tobytes())


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as client:
        yield client


Sync = Callable[..., SyncReport]


@pytest.fixture(params=["sync", "async"])
def sync(request: pytest.FixtureRequest, server: Server) -> Sync:
    """`sync` of both clients."""

    def call(*args: Any, **arguments: Any) -> SyncReport:
        async def work() -> SyncReport:
            async with AsyncClient(server.address) as client:
                return await client.sync(*args, **arguments)

        if request.param == "async":
            return asyncio.run(work())
        with Client(server.address) as client:
            return client.sync(*args, **arguments)

    return call


def test_an_edit_changes_few_segments_and_costs_them(sync: Sync, client: Client) -> None:
    shelf = Shelf()
    first = sync("d", TEXT, shelf, cache_mode="bypass")
    full = client.embed(TEXT, segment_vectors=True)
    assert (first.added, first.unchanged, first.deleted) == (len(full.segments), 0, 0)
    assert first.usage.computed_tokens == first.usage.processed_tokens == full.usage.processed_tokens
    assert shelf.rows() == [(s.digest, s.char_start, s.char_end, bits(s.vector)) for s in full.segments]
    edited = TEXT.replace(". ", ". It was a long winter. ", 1)
    second = sync("d", edited, shelf, cache_mode="bypass")
    assert 1 <= second.added <= 4
    assert second.unchanged >= first.added - 4
    assert second.deleted
    assert second.fingerprint == first.fingerprint
    usage = second.usage
    assert usage.charged_tokens == usage.computed_tokens < usage.kept_tokens
    again = sync("d", edited, shelf, cache_mode="bypass")
    assert (again.added, again.deleted, again.usage.charged_tokens) == (0, 0, 0)
    assert again.usage.kept_tokens == usage.computed_tokens + usage.kept_tokens


def test_a_dry_run_tells_what_the_sync_then_costs(sync: Sync) -> None:
    shelf = Shelf()
    text = "A first line that no other test has. " + TEXT
    for each in (text, text.replace("winter", "summer", 3)):
        before = shelf.held("d")
        foretold = sync("d", each, shelf, dry_run=True, dimensions=64)
        assert shelf.held("d") == before
        assert foretold == sync("d", each, shelf, dimensions=64)


def test_after_random_edits_the_index_is_one_built_afresh(client: Client) -> None:
    choose = random.Random(18)
    paragraphs = TEXT.split("\n\n")
    shelf = Shelf()
    client.sync("d", TEXT, shelf)
    for number in range(40):
        at = choose.randrange(len(paragraphs))
        match choose.choice(["insert", "delete", "move", "duplicate"]):
            case "insert":
                paragraphs.insert(at, prose(choose.randint(5, 300), seed=1000 + number))
            case "delete":
                paragraphs.pop(at)
            case "move":
                paragraphs.insert(choose.randrange(len(paragraphs)), paragraphs.pop(at))
            case "duplicate":
                paragraphs.insert(choose.randrange(len(paragraphs)), paragraphs[at])
        text = "\n\n".join(paragraphs)
        report = client.sync("d", text, shelf)
        assert report.unchanged
        fresh = Shelf()
        client.sync("d", text, fresh)
        assert shelf.rows() == fresh.rows(), number
        assert [(s.start, s.end) for s in shelf.changes[-1].segments][-1][1] == len(text)


def test_repeated_paragraphs_have_one_digest_several_times(sync: Sync) -> None:
    shelf = Shelf()
    line = "The river town is old and the sea is near.\n\n"
    report = sync("d", line * 400, shelf)
    held = shelf.held("d")
    assert held
    assert len(set(held.digests)) < len(held.digests) == report.added
    after = sync("d", line * 401, shelf)
    assert after.unchanged
    fresh = Shelf()
    sync("d", line * 401, fresh)
    assert shelf.rows() == fresh.rows()


def test_fingerprints_are_never_mixed(sync: Sync) -> None:
    shelf = Shelf()
    sync("d", TEXT, shelf)
    rows = shelf.rows()
    for other in ({"model": MINILM}, {"window": 32}, {"dimensions": 64}, {"normalize": True}, {"pooling": "cls"}):
        for dry_run in (False, True):
            with pytest.raises(FingerprintMismatch, match="must not be mixed"):
                sync("d", TEXT, shelf, dry_run=dry_run, **other)
    with pytest.raises(FingerprintMismatch, match="the expected one is 123"):
        sync("d", TEXT, shelf, expected_fingerprint="123")
    with pytest.raises(FingerprintMismatch):
        sync("new", TEXT, shelf, expected_fingerprint="123")
    assert shelf.rows() == rows
    assert len(shelf.documents) == 1


def test_a_text_without_a_token_holds_nothing(sync: Sync) -> None:
    shelf = Shelf()
    nothing = sync("d", "  \n", shelf)
    assert nothing == sync("d", "", shelf, dry_run=True)
    assert (nothing.fingerprint, nothing.added, nothing.deleted) == ("", 0, 0)
    assert not shelf.changes
    sync("d", TEXT, shelf)
    segments = len(shelf.rows())
    assert sync("d", "", shelf, dry_run=True).deleted == segments
    assert sync("d", "", shelf).deleted == segments
    assert shelf.rows() == []


def test_documents_of_an_index_are_passages(client: Client) -> None:
    shelf = Shelf()
    client.sync("d", TEXT, shelf, model=E5)
    passage = client.embed(TEXT, model=E5, input_type="passage", segment_vectors=True)
    assert [row[0] for row in shelf.rows()] == [segment.digest for segment in passage.segments]


def test_other_errors_are_raised_as_they_are(sync: Sync) -> None:
    shelf = Shelf()
    with pytest.raises(InvalidArgument, match=r"dimensions"):
        sync("d", TEXT, shelf, dimensions=100_000)
    assert not shelf.documents


def test_more_segments_than_a_call_may_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others come back in full, and none counts as gone."""
    shelf = Shelf()
    client.sync("d", TEXT, shelf)
    before = shelf.rows()
    monkeypatch.setattr(upsert, "MOST_KNOWN", 3)
    foretold = client.sync("d", TEXT, shelf, dry_run=True)
    report = client.sync("d", TEXT, shelf)
    assert (report.unchanged, report.deleted) == (foretold.unchanged, foretold.deleted) == (3, 0)
    assert shelf.rows() == before


def test_an_index_that_failed_is_right_after_the_next_sync(sync: Sync) -> None:
    class Failing(Shelf):
        def apply(self, document_id: str, change: Change) -> None:
            raise OSError("the disk is full")

    shelf = Shelf()
    sync("d", TEXT, shelf)
    edited = TEXT.replace("winter", "summer", 2)
    with pytest.raises(OSError, match="disk is full"):
        sync("d", edited, Failing(dict(shelf.documents)))
    sync("d", edited, shelf)
    fresh = Shelf()
    sync("d", edited, fresh)
    assert shelf.rows() == fresh.rows()


# `known_segments` of other methods


def test_segments_come_in_order_with_kept_ones_marked(client: Client) -> None:
    tasks: dict[str, Task] = {"v": Embed(segment_vectors=True), "w": EmbedSparse(segment_vectors=True)}
    full = client.analyze(TEXT, tasks)
    known = [*(segment.digest for segment in full.segments[1:-1]), bytes(16)]
    part = client.analyze(TEXT, tasks, known_segments=known)
    streamed = client.stream(TEXT, tasks, known_segments=known)
    results = list(streamed)
    told = client.segment(TEXT, known_segments=known)
    assert streamed.summary
    assert part.gone == told.gone == streamed.summary.gone == (bytes(16),)
    for segments in (part.segments, told.segments, [each.segment for each in results]):
        assert [_place(each) for each in segments] == [_place(each) for each in full.segments]
        assert [each.kept for each in segments] == [False, *[True] * (len(segments) - 2), False]
    assert [each.results["v"].vector is None for each in results] == [each.segment.kept for each in results]
    assert len(part.results["w"].segment_vectors) == len(full.segments)
    assert len(part.results["v"].segment_vectors) == 2
    assert part.results["v"].vector is None
    for each, whole in zip(results, full.results["w"].segment_vectors, strict=True):
        assert np.array_equal(each.results["w"].vector.weights, whole.weights)


def _place(segment: Any) -> tuple[Any, ...]:
    return segment.index, segment.char_start, segment.char_end, segment.token_count, segment.digest


def test_a_digest_of_another_length_is_refused_before_sending(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="known_segment_digests: a digest has 16 bytes"):
        client.analyze(TEXT, {"v": Embed()}, known_segments=[b"short"])
