"""Rank: scores of sentence-transformers, documents and passages in order, the same in every method."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.config.folders import cache_home
from server.config.schema import CacheSettings, PlanSettings
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    WORDS,
    Server,
    analyze,
    computed,
    document,
    model,
    prose,
    refused,
    segment,
    serving,
    settings,
    spans,
    stream,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

CLOSE = 1e-4
QUERY = "Who keeps the light house in the winter?"
UNITS: dict[int, Callable[[str, int, int], str]] = {
    pb.OFFSET_UNIT_CODE_POINT: lambda text, start, end: text[start:end],
    pb.OFFSET_UNIT_UTF16: lambda text, start, end: text.encode("utf-16-le")[2 * start : 2 * end].decode("utf-16-le"),
    pb.OFFSET_UNIT_UTF8: lambda text, start, end: text.encode()[start:end].decode(),
}


@pytest.fixture(scope="module")
def exact(models: Path) -> Iterator[Server]:
    """Models in fp32, as they are compared with others; dense and sparse vectors come from different ones."""
    with serving(settings(model(MINILM), model(TINY), model(E5))) as server:
        yield server


@cache
def dense(name: str) -> "SentenceTransformer":
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(cache_home() / "models" / name), device="cpu", local_files_only=True)
    peer.max_seq_length = 512
    return peer


@cache
def sparse() -> "SparseEncoder":
    from sentence_transformers import SparseEncoder

    peer = SparseEncoder(str(cache_home() / "models" / TINY), device="cpu", local_files_only=True)
    peer.max_seq_length = 512
    return peer


def dense_scores(name: str, query: str, texts: Iterable[str]) -> NDArray[Any]:
    """Their cosines, one text at a time: no padding beside it."""
    prefixes = ("query: ", "passage: ") if name == E5 else ("", "")
    vectors = [dense(name).encode([prefixes[1] + text])[0] for text in texts]
    scores: NDArray[Any] = (
        dense(name).similarity(dense(name).encode([prefixes[0] + query]), np.stack(vectors))[0].numpy()
    )
    return scores


def sparse_scores(query: str, texts: Iterable[str]) -> NDArray[Any]:
    peer = sparse()
    asked = peer.encode_query([query])
    return np.array([peer.similarity(asked, peer.encode_document([text])).item() for text in texts])


def words(count: int) -> str:
    """A text of so many tokens."""
    return " ".join(WORDS[(i * i + count) % len(WORDS)] for i in range(count))


def rank(
    server: Server,
    texts: Sequence[str],
    method: int = pb.RANK_METHOD_DENSE,
    query: str = QUERY,
    top_k: int = 0,
    passages: int | None = None,
    **options: Any,
) -> pb.RankResponse:
    request = pb.RankRequest(
        documents=[document(text, f"d{i}") for i, text in enumerate(texts)],
        options=pb.CallOptions(**options),
        rank=pb.RankOptions(query=query, method=method, passages=passages),  # type: ignore[arg-type]
        top_k=top_k,
    )
    response: pb.RankResponse = server.inference.Rank(request, timeout=SOON)
    return response


def task(method: int = pb.RANK_METHOD_DENSE, query: str = QUERY, **fields: Any) -> pb.Task:
    return pb.Task(name="r", rank=pb.RankOptions(query=query, method=method, **fields))  # type: ignore[arg-type]


def scores(response: pb.RankResponse) -> list[float]:
    """Documents' scores in the order of the request."""
    ordered = sorted(response.documents, key=lambda each: each.index)
    return [each.ranking.score for each in ordered]


def close(ours: Sequence[float], theirs: NDArray[Any]) -> bool:
    return bool(np.abs(np.array(ours) - theirs).max() <= CLOSE)


# --- Scores ---

TEXTS = [words(count) for count in (1, 2, 17, 100, 255, 400, 510)]


@pytest.mark.parametrize("name", [MINILM, E5])
def test_dense_scores_are_sentence_transformers_cosines(exact: Server, name: str) -> None:
    texts = TEXTS if name == MINILM else TEXTS[:5]
    response = rank(exact, texts, model=name)
    expected = dense_scores(name, QUERY, texts)
    assert close(scores(response), expected)
    assert [each.index for each in response.documents] == np.argsort(-expected).tolist()


def test_sparse_scores_are_sentence_transformers_products(exact: Server) -> None:
    response = rank(exact, TEXTS, pb.RANK_METHOD_SPARSE)
    expected = sparse_scores(QUERY, TEXTS)
    assert expected.max() > 1
    assert close(scores(response), expected)
    assert [each.index for each in response.documents] == np.argsort(-expected, kind="stable").tolist()
    assert [trunk.model.name for trunk in response.trunks] == [TINY]


def test_a_model_of_sparse_vectors_ranks_by_them_unless_told_otherwise(exact: Server) -> None:
    unset = pb.RANK_METHOD_UNSPECIFIED
    for name, method in ((TINY, pb.RANK_METHOD_SPARSE), (MINILM, pb.RANK_METHOD_DENSE)):
        by_default, told = (rank(exact, TEXTS[:3], each, model=name).documents for each in (unset, method))
        assert by_default == told
    assert (
        rank(exact, TEXTS[:3], pb.RANK_METHOD_DENSE, model=TINY).documents
        != rank(exact, TEXTS[:3], unset, model=TINY).documents
    )


# --- Documents and passages ---

PLANTED = "日本の灯台守は冬も灯を守る。 حارس المنارة يحرس الضوء في الشتاء. 👩‍👩‍👧‍👦 keeps the light 🧑🏽‍🚀."
LONG = [f"{prose(600, seed=1)} {PLANTED} {prose(500, seed=2)}", prose(900, seed=3), f"👩‍🚀 {prose(40, seed=4)}"]


@pytest.mark.parametrize("unit", UNITS, ids=pb.OffsetUnit.Name)
def test_passages_are_segments_of_the_text_in_every_unit(exact: Server, unit: int) -> None:
    response = rank(exact, LONG, passages=100, offset_unit=unit)
    for each in response.documents:
        text, ranking = LONG[each.index], each.ranking
        assert each.id == f"d{each.index}"
        infos = segment(exact, text, offset_unit=unit).segments
        found = {each.segment_index: (each.span.start, each.span.end) for each in ranking.passages}
        assert [found[i] for i in range(len(infos))] == spans(infos)
        pieces = [UNITS[unit](text, each.span.start, each.span.end) for each in ranking.passages]
        assert close([each.score for each in ranking.passages], dense_scores(MINILM, QUERY, pieces))
        assert [each.score for each in ranking.passages] == sorted((p.score for p in ranking.passages), reverse=True)
        assert ranking.score == ranking.passages[0].score
        if each.index == 0:
            assert len(pieces) > 2
            assert sum(PLANTED in piece or piece in PLANTED for piece in pieces) == 1


def test_only_the_best_passages_and_documents_are_answered(exact: Server) -> None:
    everything = rank(exact, LONG, passages=100)
    few = rank(exact, LONG, passages=2, top_k=2)
    assert [each.index for each in few.documents] == [each.index for each in everything.documents][:2]
    for some, every in zip(few.documents, everything.documents, strict=False):
        assert list(some.ranking.passages) == list(every.ranking.passages)[:2]
        assert some.ranking.score == every.ranking.score
    none = rank(exact, LONG, passages=0)
    assert scores(none) == scores(everything)
    assert not any(each.ranking.passages for each in none.documents)
    most = max(len(each.ranking.passages) for each in rank(exact, LONG).documents)
    assert most == 3


def test_equal_documents_keep_their_order_and_empty_ones_come_last(exact: Server) -> None:
    texts = ["", TEXTS[3], TEXTS[2], TEXTS[3], " \n"]
    response = rank(exact, texts, top_k=3)
    order = [each.index for each in response.documents]
    assert order in ([1, 3, 2, 0, 4], [2, 1, 3, 0, 4])
    for each in response.documents[3:]:
        assert each.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert not each.HasField("ranking")
    assert rank(exact, ["", " "]).info.usage.processed_tokens == 0


# --- Fusion ---


def shares(values: Sequence[float]) -> list[float]:
    """By the stated rule: 1 / (60 + rank), where equal scores share a rank."""
    return [1 / (61 + sum(other > value for other in values)) for value in values]


@pytest.mark.parametrize("name", [E5, TINY])
def test_fused_documents_and_passages_follow_the_stated_rule(exact: Server, name: str) -> None:
    texts = [*LONG, *TEXTS[:4], "zebra"]  # E5's tokens are other than those of TINY, and so are its segments
    both = [
        rank(exact, texts, method, passages=100, model=chosen)
        for method, chosen in ((pb.RANK_METHOD_DENSE, name), (pb.RANK_METHOD_SPARSE, TINY))
    ]
    response = rank(exact, texts, pb.RANK_METHOD_FUSED, passages=100, model=name)
    expected = np.sum([shares(scores(each)) for each in both], axis=0)
    assert scores(response) == pytest.approx(expected)
    assert len(response.trunks) == (1 if name == TINY else 2)
    for each in response.documents:
        owed: dict[tuple[int, int], float] = {}
        for one in both:
            (ranking,) = (other.ranking for other in one.documents if other.index == each.index)
            for passage, share in zip(ranking.passages, shares([p.score for p in ranking.passages]), strict=True):
                span = passage.span.start, passage.span.end
                owed[span] = owed.get(span, 0) + share
        kept = [(passage.span.start, passage.span.end) for passage in each.ranking.passages]
        assert [passage.score for passage in each.ranking.passages] == pytest.approx([owed[span] for span in kept])
        for span, score in owed.items():
            overlapping = [other for other in kept if other[0] < span[1] and span[0] < other[1]]
            assert span in kept or max(owed[other] for other in overlapping) >= score
        assert all(a[1] <= b[0] for a, b in zip(sorted(kept), sorted(kept)[1:], strict=False))


def test_a_fused_passage_names_the_trunk_that_it_was_cut_for(exact: Server) -> None:
    text = prose(1500)
    response = rank(exact, [text], pb.RANK_METHOD_FUSED, passages=100, model=E5)
    names = [trunk.model.name for trunk in response.trunks]
    assert names == [E5, TINY]
    infos = [segment(exact, text, model=name).segments for name in names]
    passages = response.documents[0].ranking.passages
    assert {passage.trunk for passage in passages} == {0, 1}
    for passage in passages:
        assert infos[passage.trunk][passage.segment_index].span == passage.span


# --- Every way to ask ---


def test_analyze_streams_and_bulk_rank_as_rank_does(exact: Server) -> None:
    tasks = [task(), pb.Task(name="s", rank=pb.RankOptions(query="bread", method=pb.RANK_METHOD_SPARSE))]
    options = pb.CallOptions(offset_unit=pb.OFFSET_UNIT_UTF8)
    expected = {
        "r": rank(exact, LONG, offset_unit=options.offset_unit),
        "s": rank(exact, LONG, pb.RANK_METHOD_SPARSE, query="bread", offset_unit=options.offset_unit),
    }
    parts = [pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=f"d{i}", text=text)) for i, text in enumerate(LONG)]
    start = pb.ProcessDocumentsRequest(start=pb.ProcessStart(options=options, tasks=tasks, return_segments=True))
    ready, *responses = exact.inference.ProcessDocuments(iter([start, *parts]), timeout=SOON)
    assert ready.ready.info.usage.tokens > 0
    bulk = {response.result.id: response.result.ok for response in responses}
    for i, text in enumerate(LONG):
        analyzed = analyze(exact, text, *tasks, offset_unit=options.offset_unit)
        _, *segments, last = stream(exact, text, *tasks, offset_unit=options.offset_unit)
        for wholes in (analyzed.results, last.summary.results, bulk[f"d{i}"].results):
            for result in wholes:
                (ranked,) = (each for each in expected[result.name].documents if each.index == i)
                assert result.rank == ranked.ranking
        assert last.summary.info.usage == analyzed.info.usage
        of_first = [event.segment for event in segments if event.segment.trunk == 0]
        (ranked,) = (each for each in expected["r"].documents if each.index == i)
        best = max(event.results[0].rank.score for event in of_first)
        assert best == ranked.ranking.score
        assert not any(event.results[0].rank.passages for event in of_first)


def test_a_resumed_stream_ends_with_the_same_ranking(exact: Server) -> None:
    events = list(stream(exact, LONG[0], task()))
    request = pb.StreamSegmentsRequest(document=document(LONG[0]), tasks=[task()], cursor=events[1].segment.cursor)
    resumed = list(exact.inference.StreamSegments(request, timeout=SOON))
    assert [event.segment for event in resumed[1:-1]] == [event.segment for event in events[2:-1]]
    assert resumed[-1].summary.results == events[-1].summary.results
    request.tasks[0].rank.query = "another"
    assert refused(lambda: exact.inference.StreamSegments(request)).reason == "CURSOR_MISMATCH"


# --- What it costs ---


def test_queries_are_counted_and_cached_like_documents(models: Path, tmp_path: Path) -> None:
    kept = CacheSettings(dir=tmp_path / "cache")
    with serving(settings(model(MINILM), model(TINY)).model_copy(update={"cache": kept})) as server:
        documents = [segment(server, text, model=name) for name in (MINILM, TINY) for text in LONG]
        query = [segment(server, QUERY, model=name) for name in (MINILM, TINY)]
        usage = rank(server, LONG, pb.RANK_METHOD_FUSED).info.usage
        assert usage.tokens == sum(each.info.usage.tokens for each in (*documents, *query))
        assert usage.processed_tokens == sum(each.info.usage.processed_tokens for each in (*documents, *query))
        assert usage.charged_tokens == usage.computed_tokens == usage.processed_tokens
        again = rank(server, LONG, pb.RANK_METHOD_FUSED)
        assert again.info.usage.cached_tokens == usage.processed_tokens
        assert sum(trunk.usage.cached_tokens for trunk in again.trunks) == usage.processed_tokens
        other = rank(server, LONG, pb.RANK_METHOD_FUSED, query="another question").info.usage
        assert 0 < other.computed_tokens < 20
        summed = analyze(server, LONG[0], task()).info.usage
        assert (
            summed.processed_tokens == documents[0].info.usage.processed_tokens + query[0].info.usage.processed_tokens
        )


def test_queries_count_against_a_plan_s_tokens(models: Path) -> None:
    """Two documents of 492 tokens fit into 1,000 a minute; with a query of 11 tokens each, they do not."""
    plan = {"plans": {"anonymous": PlanSettings(tokens_per_minute=1000)}}
    whole = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED)
    with serving(settings(model(TINY, "auto")).model_copy(update=plan)) as server:
        assert rank(server, [words(490)], segmentation=whole).info.usage.charged_tokens == 503
        before = computed(server)
        refusal = refused(lambda: rank(server, [words(490)], segmentation=whole))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert computed(server) == before


# --- Refusals ---

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no query": ({"query": ""}, "query"),
    "a query of white space": ({"query": " \n"}, "query"),
    "a long query": ({"query": "é" * 8193}, "query"),
    "too many passages": ({"passages": 101}, "passages"),
    "an unknown method": ({"method": 99}, "method"),
}


@pytest.mark.parametrize(("fields", "where"), WRONG.values(), ids=WRONG.keys())
def test_wrong_options_are_refused_before_anything_is_computed(
    exact: Server, fields: dict[str, Any], where: str
) -> None:
    before = computed(exact)
    options = pb.RankOptions(**{"query": QUERY, **fields})
    calls = {
        f"rank.{where}": lambda: exact.inference.Rank(pb.RankRequest(documents=[document("a")], rank=options)),
        f"tasks[0].rank.{where}": lambda: analyze(exact, "a", pb.Task(rank=options)),
    }
    for field, call in calls.items():
        assert (refused(call).code, refused(call).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    streaming = refused(lambda: stream(exact, "a", pb.Task(rank=options)))
    assert streaming.field == f"tasks[0].rank.{where}"
    assert computed(exact) == before


def test_documents_are_counted_and_fused_only_among_each_other(exact: Server) -> None:
    assert refused(lambda: rank(exact, [])).field == "documents"
    assert refused(lambda: rank(exact, ["a"] * 257)).field == "documents"
    assert refused(lambda: analyze(exact, "a", task(pb.RANK_METHOD_FUSED))).field == "tasks[0].rank.method"
    assert refused(lambda: rank(exact, ["a"], pb.RANK_METHOD_FUSED, passages=101)).field == "rank.passages"


def test_a_model_that_cannot_is_refused(models: Path, exact: Server) -> None:
    assert refused(lambda: rank(exact, ["a"], pb.RANK_METHOD_SPARSE, model=MINILM)).reason == "UNKNOWN_MODEL"
    with serving(settings(model(MINILM))) as server:
        for method in (pb.RANK_METHOD_SPARSE, pb.RANK_METHOD_FUSED):
            assert refused(lambda: rank(server, ["a"], method)).reason == "UNKNOWN_MODEL"  # noqa: B023
        (listed,) = server.models.ListModels(models_pb2.ListModelsRequest()).models
        assert list(listed.tasks) == ["embed", "rank"]


def test_a_reply_too_large_is_refused_before_anything_is_computed(models: Path) -> None:
    with serving(settings(model(TINY, "auto"), max_reply_bytes=20_000)) as server:
        before = computed(server)
        texts = ["a word"] * 40
        assert refused(lambda: rank(server, texts)).reason == "REPLY_TOO_LARGE"
        assert computed(server) == before
        assert len(rank(server, texts[:10]).documents) == 10


def test_passages_count_in_a_reply_s_size(models: Path) -> None:
    fine = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=32)
    with serving(settings(model(TINY, "auto"), max_reply_bytes=13_000)) as server:
        text = prose(4800)
        assert refused(lambda: rank(server, [text], passages=100, segmentation=fine)).reason == "REPLY_TOO_LARGE"
        (ranked,) = rank(server, [text], passages=10, segmentation=fine).documents
        assert len(ranked.ranking.passages) == 10
