"""Calls of a caller that holds some segments' vectors: only the others are computed, returned and charged."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import grpc
import numpy as np
import pytest

from octavo.v1 import inference_pb2 as pb
from server.auth.keys import KeptKey, Key, changing_keys
from server.config.schema import ClientSettings, LimitSettings, PlanSettings
from server.inference.known import DIGEST_BYTES
from server.v1 import streams
from server.v1.requests import MAX_KNOWN_DIGESTS
from tests.server.helpers import (
    MINILM,
    SOON,
    TINY,
    Server,
    analyze,
    array,
    document,
    embed,
    prose,
    refusal_of_status,
    refused,
    segment,
    serving,
    settings,
    spans,
    stream,
    task,
)

pytestmark = pytest.mark.usefixtures("nothing_internal")

INVALID = grpc.StatusCode.INVALID_ARGUMENT
VECTORS = pb.EmbedOptions(return_segment_vectors=True)
FIELD = "options.known_segment_digests"
TEXT = prose(4000, seed=18)
SHORT = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_CONTENT, max_tokens=64)


def known(segments: Sequence[pb.SegmentInfo]) -> pb.CallOptions:
    return pb.CallOptions(known_segment_digests=b"".join(each.digest for each in segments))


def whole(server: Server, text: str = TEXT) -> pb.EmbedResult:
    return embed(server, text, embed=VECTORS).results[0]


def edited(text: str, place: float = 0.5) -> str:
    at = text.index(". ", int(len(text) * place)) + 2
    return f"{text[:at]}The old ship came home in winter. {text[at:]}"


def tiles(infos: Sequence[pb.SegmentInfo], kept: pb.KeptSegments) -> list[tuple[int, int, int | None]]:
    """All segments: start, end, and position of the kept ones."""
    new = {info.index: info for info in infos}
    held = zip(kept.positions, kept.lengths, strict=True)
    found: list[tuple[int, int, int | None]] = []
    for index in range(len(new) + len(kept.positions)):
        start = found[-1][1] if found else 0
        if index in new:
            assert new[index].span.start == start
            found.append((start, new[index].span.end, None))
        else:
            position, length = next(held)
            found.append((start, start + length, position))
    return found


def test_an_edit_returns_the_new_segments_and_where_the_others_are_now(server: Server) -> None:
    before, after = whole(server), whole(server, edited(TEXT))
    response = embed(server, edited(TEXT), embed=VECTORS, options=known(before.segments))
    (result,) = response.results
    digests = [each.digest for each in before.segments]
    new = [i for i, each in enumerate(after.segments) if each.digest not in digests]
    assert 1 <= len(new) <= 4
    assert [each.index for each in result.segments] == new
    assert tiles(result.segments, result.kept) == [
        (each.span.start, each.span.end, digests.index(each.digest) if each.digest in digests else None)
        for each in after.segments
    ]
    assert np.array_equal(array(result.embedding.segment_vectors), array(after.embedding.segment_vectors)[new]), (
        "vectors of new segments are the same bits"
    )
    assert not result.embedding.HasField("document_vector")
    now = {each.digest for each in after.segments}
    assert list(response.gone) == [i for i, digest in enumerate(digests) if digest not in now]
    assert sum(result.kept.tokens) + sum(each.tokens for each in result.segments) == result.usage.tokens
    assert result.usage == response.info.usage


def test_only_new_segments_are_computed_and_charged(server: Server) -> None:
    text = prose(3000, seed=181)
    first = segment(server, text)
    held = first.segments[:-2]
    told = server.inference.Segment(
        pb.SegmentRequest(document=document(text), options=known(held), embed=VECTORS), timeout=SOON
    )
    before = server.sample("segments_total", source="computed"), server.sample("segments_total", source="kept")
    response = embed(server, text, embed=VECTORS, options=known(held))
    usage = response.info.usage
    rest = sum(each.processed_tokens for each in first.segments[-2:])
    assert usage.processed_tokens == usage.computed_tokens == rest == told.uncached_tokens
    assert usage.charged_tokens == told.would_charge_tokens == rest
    assert usage.kept_tokens == sum(each.processed_tokens for each in held)
    assert usage.tokens == sum(each.tokens for each in first.segments)
    assert told.kept == response.results[0].kept
    assert [each.index for each in told.segments] == [len(held), len(held) + 1]
    assert told.info.usage.kept_tokens == usage.kept_tokens
    now = server.sample("segments_total", source="computed"), server.sample("segments_total", source="kept")
    assert (now[0] - before[0], now[1] - before[1]) == (2, len(held))


def test_everything_known_runs_and_costs_nothing(server: Server) -> None:
    segments = segment(server, TEXT).segments
    options = known(segments)
    options.cache_mode = pb.CACHE_MODE_BYPASS
    response = embed(server, TEXT, embed=VECTORS, options=options)
    (result,) = response.results
    assert not result.segments
    assert not response.gone
    assert not result.embedding.HasField("segment_vectors")
    assert list(result.kept.positions) == list(range(len(segments)))
    assert response.info.usage.processed_tokens == response.info.usage.charged_tokens == 0


def test_lengths_count_the_call_s_unit(server: Server) -> None:
    text = ("Ein schöner Weg führt über die Brücke. 🏴 Danach kommt 日本語. " * 200) + prose(500)
    for unit in (pb.OFFSET_UNIT_UTF8, pb.OFFSET_UNIT_UTF16, pb.OFFSET_UNIT_CODE_POINT):
        segments = segment(server, text, offset_unit=unit).segments
        options = known(segments[1:])
        options.offset_unit = unit
        (result,) = embed(server, text, embed=VECTORS, options=options).results
        assert [(start, end) for start, end, _ in tiles(result.segments, result.kept)] == spans(segments)


def test_a_repeated_segment_is_kept_each_time_at_its_first_position(server: Server) -> None:
    line = "The river town is old and the sea is near.\n\n"
    response = embed(server, line * 400, embed=VECTORS)
    segments = response.results[0].segments
    digests = [each.digest for each in segments]
    assert len(set(digests)) < len(digests)
    (result,) = embed(server, line * 400, embed=VECTORS, options=known(segments)).results
    assert list(result.kept.positions) == [digests.index(each) for each in digests]
    again = embed(server, prose(300), embed=VECTORS, options=known(segments))
    assert list(again.gone) == list(range(len(digests)))


def test_documents_of_one_call_share_what_is_known(server: Server) -> None:
    one, two = prose(1200, seed=5), prose(900, seed=6)
    held = [each for text in (one, two) for each in segment(server, text).segments]
    response = embed(server, two, one, "", prose(700, seed=7), embed=VECTORS, options=known(held))
    count = len(segment(server, two).segments)
    assert list(response.results[0].kept.positions) == list(range(len(held) - count, len(held)))
    assert list(response.results[1].kept.positions) == list(range(len(held) - count))
    assert response.results[2].status.code
    assert not response.results[3].kept.positions
    assert not response.gone


def test_digests_of_other_models_windows_and_schemes_are_unknown(server: Server) -> None:
    others = [
        embed(server, TEXT, options=pb.CallOptions(model=MINILM)),
        embed(server, TEXT, options=pb.CallOptions(window=32)),
        embed(server, TEXT, options=pb.CallOptions(segmentation=SHORT)),
    ]
    for other in others:
        segments = other.results[0].segments
        response = embed(server, TEXT, embed=VECTORS, options=known(segments))
        assert not response.results[0].kept.positions
        assert list(response.gone) == list(range(len(segments)))


@pytest.mark.parametrize(
    ("digests", "message"),
    [
        (b"x" * 17, "16 bytes each"),
        (b"x" * DIGEST_BYTES * (MAX_KNOWN_DIGESTS + 1), "at most 32,768"),
    ],
)
def test_bad_digests_are_refused_by_field(server: Server, digests: bytes, message: str) -> None:
    options = pb.CallOptions(known_segment_digests=digests)
    refusals = [
        refused(lambda: embed(server, TEXT, options=options)),
        refused(lambda: segment(server, TEXT, known_segment_digests=digests)),
        refused(lambda: analyze(server, TEXT, known_segment_digests=digests)),
        refused(lambda: stream(server, TEXT, known_segment_digests=digests)),
    ]
    assert {(each.code, each.field) for each in refusals} == {(INVALID, FIELD)}
    assert all(message in each.message for each in refusals)


def test_as_many_digests_as_are_allowed(server: Server) -> None:
    digests = np.random.default_rng(1).bytes(DIGEST_BYTES * MAX_KNOWN_DIGESTS)
    response = embed(server, "A short text.", embed=VECTORS, options=pb.CallOptions(known_segment_digests=digests))
    assert len(response.gone) == MAX_KNOWN_DIGESTS


def test_methods_that_would_not_use_digests_refuse_them(server: Server) -> None:
    options = pb.CallOptions(known_segment_digests=bytes(DIGEST_BYTES))
    rank = pb.RankRequest(documents=[document(TEXT)], rank=pb.RankOptions(query="sea"), options=options)
    refusals = [
        refused(lambda: server.inference.Rank(rank, timeout=SOON)),
        refused(
            lambda: server.inference.EmbedSparse(
                pb.EmbedSparseRequest(document=document(TEXT), options=options), timeout=SOON
            )
        ),
    ]
    assert {(each.code, each.field) for each in refusals} == {(INVALID, FIELD)}


def test_spans_do_not_go_with_digests(server: Server) -> None:
    spans_of = pb.EmbedOptions(return_segment_vectors=True, spans=[pb.Span(start=0, end=9)])
    options = pb.CallOptions(known_segment_digests=bytes(DIGEST_BYTES))
    assert refused(lambda: embed(server, TEXT, embed=spans_of, options=options)).field == "embed.spans"
    refusal = refused(lambda: analyze(server, TEXT, pb.Task(embed=spans_of), known_segment_digests=bytes(DIGEST_BYTES)))
    assert refusal.field == "tasks[0].embed.spans"


def test_segment_tells_the_fingerprint_of_the_embed_that_is_meant(server: Server) -> None:
    options = pb.EmbedOptions(dimensions=32, return_segment_vectors=True)
    told = server.inference.Segment(pb.SegmentRequest(document=document(TEXT), embed=options), timeout=SOON)
    assert told.info.fingerprint == embed(server, TEXT, embed=options).info.fingerprint
    assert told.info.fingerprint != segment(server, TEXT).info.fingerprint


# Other tasks


def test_other_tasks_return_in_full(server: Server) -> None:
    others = [pb.Task(name="words", embed_sparse=pb.EmbedSparseOptions(top_k=8, return_segment_vectors=True))]
    others.append(pb.Task(name="best", rank=pb.RankOptions(query="the sea at night", method=pb.RANK_METHOD_DENSE)))
    tasks = [task("vectors", return_segment_vectors=True), *others]
    full = analyze(server, TEXT, *tasks)
    digests = b"".join(each.digest for each in full.segments[2:])
    part = analyze(server, TEXT, *tasks, known_segment_digests=digests)
    assert part.results[1:] == full.results[1:]
    vectors = array(full.results[0].embed.segment_vectors)
    assert np.array_equal(array(part.results[0].embed.segment_vectors), vectors[:2])
    assert [each.index for each in part.segments] == [0, 1]
    assert list(part.kept.positions) == list(range(len(full.segments) - 2))
    assert part.info.usage.processed_tokens == full.info.usage.processed_tokens
    assert not part.info.usage.kept_tokens


def test_each_trunk_keeps_its_own(server: Server) -> None:
    tasks = [task("a", return_segment_vectors=True), task("b", return_segment_vectors=True)]
    tasks[1].model = MINILM
    full = analyze(server, TEXT, *tasks)
    held = [*full.trunks[1].segments[1:], *full.segments[:-1]]
    part = analyze(server, TEXT, *tasks, known_segment_digests=known(held).known_segment_digests)
    many = len(full.trunks[1].segments) - 1
    assert list(part.trunks[1].kept.positions) == list(range(many))
    assert [each.index for each in part.trunks[1].segments] == [0]
    assert list(part.kept.positions) == list(range(many, len(held)))
    assert not part.trunks[0].HasField("kept")
    assert not part.gone
    assert len(array(part.results[1].embed.segment_vectors)) == 1


# Streams


def segments_of(events: Iterator[pb.StreamSegmentsResponse]) -> tuple[list[pb.SegmentResult], pb.StreamSummary]:
    found = [event for event in events if event.WhichOneof("event") != "header"]
    return [event.segment for event in found[:-1]], found[-1].summary


def test_a_stream_tells_kept_segments_in_runs(server: Server) -> None:
    before, after = whole(server), whole(server, edited(TEXT))
    digests = known(before.segments).known_segment_digests
    results, summary = segments_of(
        iter(stream(server, edited(TEXT), task(return_segment_vectors=True), known_segment_digests=digests))
    )
    response = embed(server, edited(TEXT), embed=VECTORS, options=known(before.segments))
    (once,) = response.results
    joined = pb.KeptSegments()
    for each in results:
        assert each.HasField("segment") != each.HasField("kept")
        joined.MergeFrom(each.kept)
    assert len(results) <= 2 * len(once.segments) + 1
    assert joined == once.kept
    new = [each for each in results if each.HasField("segment")]
    assert spans([each.segment for each in new]) == spans(once.segments)
    rows = [array(each.results[0].embed.segment_vectors) for each in new]
    assert np.array_equal(np.concatenate(rows), array(once.embedding.segment_vectors))
    assert summary.gone == response.gone
    assert summary.info.usage == response.info.usage
    assert len(joined.positions) + len(new) == len(after.segments)


@pytest.mark.parametrize("others", [False, True])
def test_a_stream_resumes_among_kept_segments(server: Server, monkeypatch: pytest.MonkeyPatch, others: bool) -> None:
    """After each of its messages, also with two trunks, and with runs that are cut."""
    monkeypatch.setattr(streams, "MOST_KEPT", 2)
    tasks = [task("a", return_segment_vectors=True), task("b", return_segment_vectors=True)]
    tasks[1].model = MINILM
    if others:
        tasks.append(pb.Task(name="words", model=TINY, embed_sparse=pb.EmbedSparseOptions(return_segment_vectors=True)))
    text = prose(1800, seed=4)
    full = analyze(server, text, *tasks)
    held = [*full.segments[:2], *full.segments[3:], *full.trunks[1].segments[1:]]
    request = pb.StreamSegmentsRequest(document=document(text), tasks=tasks, options=known(held))
    results, summary = segments_of(server.inference.StreamSegments(request, timeout=SOON))
    assert sum(len(each.kept.positions) for each in results) == len(held)
    for i, each in enumerate(results):
        request.cursor = each.cursor
        rest, end = segments_of(server.inference.StreamSegments(request, timeout=SOON))
        assert [told(each) for each in rest if not each.trunk] == [
            told(each) for each in results[i + 1 :] if not each.trunk
        ]
        assert _positions(rest) == _positions(results[i + 1 :])
        assert end.gone == summary.gone == []
        assert end.info.usage.tokens == summary.info.usage.tokens


def told(result: pb.SegmentResult) -> tuple[pb.SegmentInfo, pb.KeptSegments]:
    result.segment.ClearField("resumed_from_layer")
    return result.segment, result.kept


def _positions(results: Sequence[pb.SegmentResult]) -> list[int]:
    return sorted(position for each in results for position in each.kept.positions)


def test_a_cursor_is_bound_to_what_is_known(server: Server) -> None:
    segments = segment(server, TEXT).segments
    request = pb.StreamSegmentsRequest(
        document=document(TEXT), tasks=[task(return_segment_vectors=True)], options=known(segments[:1])
    )
    results, _ = segments_of(server.inference.StreamSegments(request, timeout=SOON))
    request.cursor = results[0].cursor
    request.options.CopyFrom(known(segments[:2]))
    refusal = refused(lambda: server.inference.StreamSegments(request, timeout=SOON))
    assert refusal.reason == "CURSOR_MISMATCH"


def process(server: Server, start: pb.ProcessStart, *parts: pb.DocumentPart) -> dict[str, list[pb.DocumentResult]]:
    requests = [pb.ProcessDocumentsRequest(start=start), *(pb.ProcessDocumentsRequest(document=part) for part in parts)]
    found: dict[str, list[pb.DocumentResult]] = {}
    for response in server.inference.ProcessDocuments(iter(requests), timeout=SOON):
        if response.WhichOneof("message") == "result":
            found.setdefault(response.result.id, []).append(response.result)
    return found


def test_each_document_of_a_stream_has_its_own_digests(server: Server) -> None:
    before = whole(server)
    digests = known(before.segments).known_segment_digests
    text = edited(TEXT)
    found = process(
        server,
        pb.ProcessStart(tasks=[task("v", return_segment_vectors=True)], return_segments=True),
        pb.DocumentPart(id="edited", known_segment_digests=digests, more=True),
        pb.DocumentPart(id="edited", text=text[:5000], more=True),
        pb.DocumentPart(id="edited", text=text[5000:]),
        pb.DocumentPart(id="fresh", text=text),
    )
    (result,), (fresh,) = found["edited"], found["fresh"]
    response = embed(server, text, embed=VECTORS, options=known(before.segments))
    (once,) = response.results
    assert result.ok.kept == once.kept
    assert spans(result.ok.segments) == spans(once.segments)
    assert result.ok.results[0].embed == once.embedding
    assert result.ok.gone == response.gone
    for count in ("tokens", "processed_tokens", "kept_tokens"):  # the other document may compute a segment for both
        assert getattr(result.ok.info.usage, count) == getattr(response.info.usage, count)
    assert fresh.ok.results[0].embed.HasField("document_vector")
    assert not fresh.ok.HasField("kept")


def test_digests_of_documents_are_checked(server: Server) -> None:
    start = pb.ProcessStart(tasks=[task(return_segment_vectors=True)], return_segments=True)
    parts = [
        pb.DocumentPart(id="wrong", text="A text.", known_segment_digests=b"x"),
        pb.DocumentPart(id="many", text="A text.", known_segment_digests=bytes(DIGEST_BYTES * (MAX_KNOWN_DIGESTS + 1))),
        pb.DocumentPart(id="late", text="A text. ", more=True),
        pb.DocumentPart(id="late", text="A text.", known_segment_digests=bytes(DIGEST_BYTES)),
        pb.DocumentPart(id="fine", text="A text.", known_segment_digests=bytes(DIGEST_BYTES)),
    ]
    found = process(server, start, *parts)
    for name in ("wrong", "many", "late"):
        refusal = refusal_of_status(found[name][0].error)
        assert (refusal.code, refusal.field) == (INVALID, "document.known_segment_digests"), name
    assert list(found["fine"][0].ok.gone) == [0]
    for other in (pb.ProcessStart(tasks=start.tasks), pb.ProcessStart(tasks=[task()], return_segments=True)):
        found = process(server, other, parts[-1])
        assert refusal_of_status(found["fine"][0].error).field == "document.known_segment_digests"
    start.options.known_segment_digests = bytes(DIGEST_BYTES)
    refusal = refused(lambda: process(server, start, pb.DocumentPart(id="a", text="A text.")))
    assert refusal.field == "start.options.known_segment_digests"


# Tenants


def test_another_tenant_s_digests_are_unknown(models: Path, tmp_path: Path) -> None:
    clients = {"ours": ClientSettings(), "theirs": ClientSettings(), "colleague": ClientSettings(tenant="ours")}
    tokens = {}
    with changing_keys(tmp_path / "keys.json") as kept:
        for name in clients:
            key, tokens[name] = Key.make()
            kept.append(KeptKey(key, name, datetime.now(UTC)))
    configured = settings(keys_file=tmp_path / "keys.json").model_copy(update={"clients": clients})
    with serving(configured) as server:

        def ask(name: str, options: pb.CallOptions) -> pb.EmbedResponse:
            request = pb.EmbedRequest(documents=[document(TEXT)], embed=VECTORS, options=options)
            response: pb.EmbedResponse = server.inference.Embed(
                request, timeout=SOON, metadata=(("authorization", f"Bearer {tokens[name]}"),)
            )
            return response

        segments = ask("ours", pb.CallOptions()).results[0].segments
        assert ask("theirs", known(segments)).results[0].kept.positions == []
        assert len(ask("colleague", known(segments)).results[0].kept.positions) == len(segments)


# Admission


def test_what_is_known_counts_neither_for_admission_nor_for_the_reply_s_size(models: Path) -> None:
    """A plan and a reply too small for the document take an edit of it."""
    text = prose(6000, seed=19)
    plans = {"anonymous": PlanSettings(tokens_per_minute=1500)}
    with serving(settings(max_reply_bytes=8000).model_copy(update={"plans": plans})) as server:
        held = segment(server, text).segments[:-2]
        too_large = refused(lambda: embed(server, text, embed=VECTORS))
        assert too_large.reason == "REPLY_TOO_LARGE"
        too_much = refused(lambda: embed(server, text))
        assert too_much.reason == "RATE_LIMITED"
        response = embed(server, text, embed=VECTORS, options=known(held))
        assert len(response.results[0].segments) == 2
        assert 0 < response.info.usage.charged_tokens < 1500


def test_what_is_known_is_not_charged_as_cached_either(models: Path) -> None:
    limits = LimitSettings(cached_token_price=0.5)
    with serving(settings().model_copy(update={"limits": limits})) as server:
        held = embed(server, TEXT).results[0].segments
        charged = server.sample("charged_tokens_total")
        response = embed(server, TEXT, embed=VECTORS, options=known(held))
        vectors = task(return_segment_vectors=True)
        list(stream(server, TEXT, vectors, known_segment_digests=known(held).known_segment_digests))
        assert response.info.usage.charged_tokens == 0
        assert server.sample("charged_tokens_total") == charged
        told = server.inference.Segment(pb.SegmentRequest(document=document(TEXT), options=known(held)), timeout=SOON)
        assert told.would_charge_tokens == 0


def test_a_query_is_answered_even_if_a_document_has_its_segment(server: Server) -> None:
    text = "Who keeps the light house?"
    rank = pb.Task(name="rank", rank=pb.RankOptions(query=text, method=pb.RANK_METHOD_DENSE))
    vectors = task("embed", return_segment_vectors=True)
    full = analyze(server, text, vectors, rank)
    digest = full.segments[0].digest
    part = analyze(server, text, vectors, rank, known_segment_digests=digest)
    assert list(part.kept.positions) == [0]
    assert part.results[1] == full.results[1]


def test_embed_tasks_without_segment_vectors_would_return_nothing(server: Server) -> None:
    digest = bytes(DIGEST_BYTES)
    options = pb.CallOptions(known_segment_digests=digest)
    assert refused(lambda: embed(server, TEXT, options=options)).field == "embed.return_segment_vectors"
    for call in (analyze, stream):
        refusal = refused(lambda call=call: call(server, TEXT, task(), known_segment_digests=digest))  # type: ignore[misc]
        assert (refusal.code, refusal.field) == (INVALID, "tasks[0].embed.return_segment_vectors")
