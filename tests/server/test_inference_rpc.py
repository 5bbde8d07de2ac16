"""Calls to a real server with real models: what an answer holds, and what is refused before it costs anything."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.rpc import replies
from server.runner import Runner
from server.scheduler import Scheduler
from server.settings import ComputeSettings
from server.tasks import EmbedTask
from server.work import Computed, Work
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    Refusal,
    Server,
    analyze,
    array,
    document,
    embed,
    eventually,
    prose,
    refusal_of,
    refusal_of_status,
    refused,
    segment,
    serving,
    settings,
    spans,
    stream,
    task,
    vector,
)

INVALID = grpc.StatusCode.INVALID_ARGUMENT

MIXED = (
    "Plain words first. 日本語の文章はここで終わる。それから次の文。 "
    "Emoji: 👩‍👩‍👧‍👦 and 🏴󠁧󠁢󠁥󠁮󠁧󠁿 and 🇫🇷. "
    "Combining: e\u0301 a\u0308 n\u0303 \u0915\u094d\u0937 \u1112\u1161\u11ab. "
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629. \ufdfa "
)
UNITS = {  # encoding, and its bytes a unit
    pb.OFFSET_UNIT_UNSPECIFIED: ("utf-32-le", 4),
    pb.OFFSET_UNIT_CODE_POINT: ("utf-32-le", 4),
    pb.OFFSET_UNIT_UTF16: ("utf-16-le", 2),
    pb.OFFSET_UNIT_UTF8: ("utf-8", 1),
}


@pytest.fixture(autouse=True)
def nothing_internal(server: Server) -> Iterator[None]:
    """INTERNAL and UNKNOWN are bugs, whatever a test sends."""
    yield
    for code in ("INTERNAL", "UNKNOWN"):
        assert server.sample("requests_total", code=code) == 0


def long_text(repeat: int = 40) -> str:
    """Scripts and signs of all kinds, then English."""
    return MIXED * repeat + prose(25 * repeat)


# What an answer holds


@pytest.mark.parametrize("model", [TINY, E5])
def test_spans_tile_the_document_in_every_unit(server: Server, model: str) -> None:
    text = "  \n" + long_text() + " \t\x00"
    cuts = []
    for unit, (encoding, width) in UNITS.items():
        whole = text.encode(encoding)
        segments = segment(server, text, model=model, offset_unit=unit).segments
        assert [info.index for info in segments] == list(range(len(segments)))
        edges = spans(segments)
        assert len(edges) > 3
        assert (edges[0][0], edges[-1][1] * width) == (0, len(whole))
        assert all(start < end for start, end in edges)
        assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
        cuts.append([whole[start * width : end * width].decode(encoding) for start, end in edges])
    assert cuts.count(cuts[0]) == len(UNITS)  # the same text, whatever the unit


def sums(segments: Sequence[pb.SegmentInfo], layers: int) -> tuple[int, int, int, int]:
    cached = [info.HasField("resumed_from_layer") and info.resumed_from_layer == layers for info in segments]
    return (
        sum(info.tokens for info in segments),
        sum(info.processed_tokens for info in segments),
        sum(info.processed_tokens for info, is_cached in zip(segments, cached, strict=True) if not is_cached),
        sum(info.processed_tokens for info, is_cached in zip(segments, cached, strict=True) if is_cached),
    )


def counts(usage: pb.Usage) -> tuple[int, int, int, int]:
    return usage.tokens, usage.processed_tokens, usage.computed_tokens, usage.cached_tokens


def test_usage_is_the_sum_of_the_segments(server: Server) -> None:
    text = prose(3000, seed=1)
    answers = analyze(server, text), embed(server, text), segment(server, text)
    for answer in (answers[0], answers[2]):
        assert counts(answer.info.usage) == sums(answer.segments, 2)
    (result,) = answers[1].results
    assert counts(result.usage) == counts(answers[1].info.usage) == sums(result.segments, 2)
    assert all(info.processed_tokens == info.tokens + 2 for info in result.segments)  # [CLS] and [SEP]
    assert all(info.tokens <= 510 for info in result.segments)
    assert answers[0].info.usage.processed_tokens == answers[0].info.usage.computed_tokens


def test_usage_of_several_documents_is_the_sum_of_theirs(server: Server) -> None:
    response = embed(server, prose(700, seed=2), "", prose(3, seed=3))
    usages = [counts(result.usage) for result in response.results]
    assert counts(response.info.usage) == tuple(map(sum, zip(*usages, strict=True)))
    assert usages[1] == (0, 0, 0, 0)


def test_metrics_count_what_usage_says(server: Server) -> None:
    names = [
        ("segments_total", "computed"),
        ("processed_tokens_total", "computed"),
        ("processed_tokens_total", "cached"),
    ]
    before = [server.sample(name, source=source) for name, source in names]
    answer = analyze(server, prose(1500, seed=4))
    after = [server.sample(name, source=source) for name, source in names]
    usage = answer.info.usage
    grown = [b - a for a, b in zip(before, after, strict=True)]
    assert grown == [len(answer.segments), usage.computed_tokens, usage.cached_tokens]


@pytest.mark.parametrize(("model", "repeat"), [(TINY, 20), (E5, 2)])
def test_stream_analyze_and_embed_give_the_same_bits(server: Server, model: str, repeat: int) -> None:
    text = long_text(repeat)
    wanted = task("name", return_segment_vectors=True, spans=[pb.Span(start=3, end=len(text) - 3)])
    whole = analyze(server, text, wanted, model=model)
    (embedded,) = embed(server, text, options=pb.CallOptions(model=model), embed=wanted.embed).results
    events = list(stream(server, text, wanted, model=model))
    parts = [event.segment for event in events[1:-1]]
    summary = events[-1].summary

    assert [event.WhichOneof("event") for event in events] == ["header", *["segment"] * len(parts), "summary"]
    (result,) = whole.results
    assert embedded.embedding == result.embed
    assert summary.results[0].embed.document_vector == result.embed.document_vector
    assert summary.results[0].embed.span_vectors == result.embed.span_vectors
    rows = [array(part.results[0].embed.segment_vectors)[0] for part in parts]
    np.testing.assert_array_equal(np.stack(rows), array(result.embed.segment_vectors))
    assert len({result.name, summary.results[0].name, parts[0].results[0].name, "name"}) == 1
    for infos in ([part.segment for part in parts], embedded.segments):
        assert [(info.index, info.tokens, info.digest) for info in infos] == [
            (info.index, info.tokens, info.digest) for info in whole.segments
        ]
        assert spans(infos) == spans(whole.segments)
    assert counts(summary.info.usage) == counts(whole.info.usage)
    assert not summary.partial
    assert whole.info.fingerprint == events[0].header.fingerprint == summary.info.fingerprint
    assert whole.info.model == events[0].header.model == summary.info.model
    assert events[0].header.request_id == summary.info.request_id != whole.info.request_id


def test_several_tasks_of_one_pass_answer_as_each_alone(server: Server) -> None:
    text = prose(1200, seed=5)
    wanted = [
        task("mean", return_segment_vectors=True),
        task("cls", pooling=pb.POOLING_CLS, dimensions=17, data_type=pb.DATA_TYPE_FLOAT16),
        task("span", spans=[pb.Span(start=0, end=50), pb.Span(start=10, end=len(text))], normalize=False),
    ]
    together = analyze(server, text, *wanted)
    assert [result.name for result in together.results] == ["mean", "cls", "span"]
    assert together.info.usage.computed_tokens == analyze(server, text).info.usage.computed_tokens
    for one, result in zip(wanted, together.results, strict=True):
        assert analyze(server, text, one).results[0] == result


@pytest.mark.parametrize("model", [TINY, MINILM])
def test_a_span_s_vector_is_independent_of_the_spans_beside_it(server: Server, model: str) -> None:
    text = prose(700, seed=6)
    wide, narrow = pb.Span(start=100, end=len(text) - 100), pb.Span(start=7, end=30)
    both = analyze(server, text, task(spans=[wide, narrow]), model=model).results[0].embed
    alone = analyze(server, text, task(spans=[narrow]), model=model).results[0].embed
    np.testing.assert_array_equal(array(both.span_vectors)[1], array(alone.span_vectors)[0])


def test_spans_are_read_in_the_call_s_unit(server: Server) -> None:
    text = "👩 日本語 word ﷺ e\u0301nd 👩 日本語 word"
    points = [(0, 1), (2, 5), (6, 10), (text.index("e\u0301"), len(text))]
    vectors = []
    for unit, (encoding, width) in UNITS.items():
        asked = [
            pb.Span(start=len(text[:start].encode(encoding)) // width, end=len(text[:end].encode(encoding)) // width)
            for start, end in points
        ]
        vectors.append(analyze(server, text, task(spans=asked), offset_unit=unit).results[0].embed.span_vectors.data)
    assert vectors.count(vectors[0]) == len(UNITS)


def test_timings_are_told(server: Server) -> None:
    timings = analyze(server, prose(2000, seed=7)).info.timings
    seconds = {name: getattr(timings, name).ToNanoseconds() / 1e9 for name in ("total", "tokenize", "queue", "compute")}
    assert all(0 < value < SOON for value in seconds.values()), seconds
    assert seconds["tokenize"] <= seconds["total"]
    assert seconds["compute"] <= seconds["total"]


# Documents that are odd

ODD = {
    "NUL and control characters": "one\x00two\x01\x02\x1b[31m three \x7f\x9f",
    "a byte order mark": "\ufeffword",
    "noncharacters": "\ufffe\uffff word \U0010ffff",
    "a combining mark": "n\u0301",
    "an emoji": "👩‍👩‍👧‍👦",
    "a very long line of spaces": " " * 100_000 + "end",
    "one character": "a",
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
@pytest.mark.parametrize("model", [TINY, E5])
def test_an_odd_document_is_answered_whole(server: Server, text: str, model: str) -> None:
    answer = analyze(server, text, model=model)
    assert spans(answer.segments)[0][0] == 0
    assert spans(answer.segments)[-1][1] == len(text)
    assert np.isfinite(array(answer.results[0].embed.document_vector)).all()


@pytest.mark.parametrize(
    "text",
    ["", " \n\t ", "\x00\x01\x00", "\u0301"],
    ids=["empty", "whitespace", "control", "an accent that BERT strips"],
)
def test_a_document_without_a_token_is_refused_by_name(server: Server, text: str) -> None:
    expected = (INVALID, "EMPTY_DOCUMENT", "document.text")
    for call in (segment, analyze, stream):
        refusal = refused(lambda call=call: call(server, text))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == expected


def test_one_document_s_fault_is_its_own(server: Server) -> None:
    texts = [prose(40, seed=8), "", prose(700, seed=9), " \n", "last"]
    request = pb.EmbedRequest(documents=[document(text, f"#{i}") for i, text in enumerate(texts)])
    results = server.inference.Embed(request, timeout=SOON).results
    assert [result.id for result in results] == ["#0", "#1", "#2", "#3", "#4"]
    for i in (0, 2, 4):
        assert not results[i].HasField("status")
        assert results[i].embedding == embed(server, texts[i]).results[0].embedding
    for i in (1, 3):
        refusal = refusal_of_status(results[i].status)
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "EMPTY_DOCUMENT", f"documents[{i}].text")
        assert not results[i].HasField("embedding")


def test_many_short_documents_share_an_embed(server: Server) -> None:
    texts = [prose(3 + i % 20, seed=i) for i in range(256)]
    together = embed(server, *texts).results
    for i in (0, 100, 255):
        assert together[i].embedding == embed(server, texts[i]).results[0].embedding


def test_one_word_of_10_megabytes_is_answered(server: Server) -> None:
    text = "a" * 10_000_000
    *parts, last = list(stream(server, text))[1:]
    edges = spans([part.segment.segment for part in parts])
    assert (edges[0][0], edges[-1][1]) == (0, len(text))
    assert last.summary.info.usage.tokens == sum(part.segment.segment.tokens for part in parts) > 0


@pytest.mark.parametrize("special", ["[SEP]", "[CLS]", "[PAD]", "[MASK]", "[UNK]"])
def test_a_special_token_s_name_in_a_text_is_ordinary_text(server: Server, special: str) -> None:
    plain = segment(server, "a b").info.usage.tokens
    assert segment(server, f"a {special} b").info.usage.tokens >= plain + 3  # brackets are tokens, too


@pytest.mark.parametrize("special", ["</s>", "<s>", "<pad>", "<unk>", "<mask>"])
def test_so_it_is_for_sentencepiece(server: Server, special: str) -> None:
    plain = segment(server, "a b", model=E5).info.usage.tokens
    assert segment(server, f"a {special} b", model=E5).info.usage.tokens >= plain + 2


# Sizes


@pytest.fixture(scope="module")
def small(models: object) -> Iterator[Server]:
    """A server with small limits."""
    limited = settings(max_document_bytes=50_000, max_reply_bytes=9_000, max_documents=4, max_tasks=3)
    with serving(limited) as server:
        yield server


def computed(server: Server) -> float:
    return server.sample("segments_total")


def test_a_document_over_the_limit_is_refused_by_us_with_the_limit(small: Server) -> None:
    text = "é" * 25_001  # bytes count, not characters
    for call, field in (
        (segment, "document.text"),
        (analyze, "document.text"),
        (stream, "document.text"),
        (embed, "documents"),
    ):
        refusal = refused(lambda call=call: call(small, text))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "DOCUMENT_TOO_LARGE", field)
        assert "50,000" in refusal.message
    assert segment(small, "é" * 25_000).info.usage.tokens > 0


def test_an_embed_s_documents_count_together(small: Server) -> None:
    refusal = refused(lambda: embed(small, *["x " * 6_300] * 4))
    assert (refusal.reason, refusal.field) == ("DOCUMENT_TOO_LARGE", "documents")


def test_far_over_the_limit_the_transport_refuses(small: Server) -> None:
    refusal = refused(lambda: segment(small, "x" * (1 << 21)))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "")
    assert segment(small, "the connection lives").info.usage.tokens > 0


def test_a_reply_that_is_too_large_is_refused_before_anything_is_computed(small: Server) -> None:
    text, before = prose(9000, seed=10), computed(small)
    calls: list[Callable[[], object]] = [
        lambda: embed(small, text, embed=pb.EmbedOptions(return_segment_vectors=True)),
        lambda: analyze(small, text, task(return_segment_vectors=True)),
        lambda: analyze(small, text, task(spans=[pb.Span(start=0, end=9)] * 16)),
    ]
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (INVALID, "REPLY_TOO_LARGE")
        assert "StreamSegments" in refusal.message
    assert computed(small) == before
    events = list(stream(small, text, task(return_segment_vectors=True)))
    assert events[-1].HasField("summary")


def test_a_reply_is_never_larger_than_was_reckoned(server: Server) -> None:
    """Else it would meet the transport's limit after all the work, with a text that nobody understands."""
    names = ["é" * 3000, "x", "👩" * 1000]
    wanted = [
        task(name, return_segment_vectors=True, spans=[pb.Span(start=0, end=1)] * 3, dimensions=dimensions)
        for name, dimensions in zip(names, (1, 128, 9), strict=True)
    ]
    response = analyze(server, prose(4000, seed=11), *wanted, segmentation=pb.Segmentation(max_tokens=32))
    segments = len(response.segments)
    tasks = [
        EmbedTask(name, "mean", True, dimensions, "float32", segment_vectors=True, spans=np.zeros((3, 2), np.int64))
        for name, dimensions in zip(names, (1, 128, 9), strict=True)
    ]
    reckoned = replies.REPLY_BYTES + replies.size_of(tasks, segments)
    assert response.ByteSize() <= reckoned <= 1.2 * response.ByteSize() + replies.REPLY_BYTES


def test_a_stream_s_message_over_1_mib_is_refused_before_it_begins(server: Server) -> None:
    before = computed(server)
    for wanted in (
        task(spans=[pb.Span(start=0, end=5)] * 2100),
        task("é" * (1 << 19)),
    ):
        refusal = refused(lambda wanted=wanted: stream(server, prose(900), wanted))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == (INVALID, "REPLY_TOO_LARGE")
    assert computed(server) == before


def test_no_message_of_a_stream_is_over_1_mib(server: Server) -> None:
    wanted = task(return_segment_vectors=True, spans=[pb.Span(start=0, end=5)] * 1500)
    assert max(event.ByteSize() for event in stream(server, prose(1200), wanted)) <= 1 << 20


def test_as_many_documents_and_tasks_as_are_allowed(small: Server) -> None:
    assert len(embed(small, *["word"] * 4).results) == 4
    refusal = refused(lambda: embed(small, *["word"] * 5))
    assert (refusal.reason, refusal.field) == ("INVALID_OPTION", "documents")
    assert len(analyze(small, "word", *[task(str(i)) for i in range(3)]).results) == 3
    refusal = refused(lambda: analyze(small, "word", *[task(str(i)) for i in range(4)]))
    assert (refusal.reason, refusal.field) == ("INVALID_OPTION", "tasks")
    refusal = refused(lambda: embed(small))
    assert (refusal.reason, refusal.field) == ("INVALID_OPTION", "documents")


# Models and fingerprints


def test_a_model_has_a_name_and_a_version(server: Server) -> None:
    ref = segment(server, "word", model=MINILM).info.model
    assert ref.name == MINILM
    assert ref.digest.startswith(ref.version)
    assert segment(server, "word", model=f"{MINILM}@{ref.version}").info.model == ref
    assert segment(server, "word").info.model.name == TINY  # the default


@pytest.mark.parametrize(
    "name", ["none", f"{MINILM}@0123456789ab", "@", f"{TINY}@{'f' * 64}", "../etc", MINILM.upper()]
)
def test_an_unknown_model_is_not_found(server: Server, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: segment(server, "word", model=name),
        lambda: analyze(server, "word", model=name),
        lambda: stream(server, "word", model=name),
        lambda: embed(server, "word", options=pb.CallOptions(model=name)),
        lambda: server.models.GetModel(models_pb2.GetModelRequest(name=name)),
    ]
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


def test_an_error_never_repeats_what_a_client_sent(server: Server) -> None:
    refusals = [
        refused(lambda: segment(server, "SECRET", model="SECRET")),
        refused(lambda: segment(server, "SECRET", expected_fingerprint="SECRET")),
        refused(lambda: analyze(server, "SECRET", task("SECRET"), task("SECRET"))),
        refused(lambda: server.models.ListModels(models_pb2.ListModelsRequest(page_token="SECRET"))),  # noqa: S106
        refused(lambda: analyze(server, "SECRET", task(spans=[pb.Span(start=1, end=700)]))),
    ]
    assert not [refusal for refusal in refusals if "SECRET" in str(refusal)]


def test_the_models_are_listed_page_by_page(server: Server) -> None:
    names, token = [], ""
    for _ in range(5):
        response = server.models.ListModels(models_pb2.ListModelsRequest(page_size=1, page_token=token), timeout=SOON)
        names += [model.ref.name for model in response.models]
        token = response.next_page_token
        if not token:
            break
    assert names == sorted([TINY, MINILM, E5])
    everything = server.models.ListModels(models_pb2.ListModelsRequest(), timeout=SOON)
    assert [model.ref.name for model in everything.models] == names
    assert [model.is_default for model in everything.models] == [name == TINY for name in names]


def test_a_listed_model_says_how_it_is_served_and_not_where_it_lies(server: Server) -> None:
    model = server.models.GetModel(models_pb2.GetModelRequest(name=E5), timeout=SOON).model
    assert (model.dimensions, model.layers, model.max_segment_tokens, model.number_scheme) == (384, 12, 512, "fp32")
    assert (model.query_prefix, model.passage_prefix) == ("query: ", "passage: ")
    assert 0 < model.token_budget < 510  # the prefix takes its place in every segment
    assert model.segmentation.max_tokens == model.token_budget
    assert "embed" in model.tasks
    assert "/" not in str(model).replace("Apache-2.0", "").replace("\\/", "")


def test_getmodel_s_fingerprint_is_that_of_a_call_without_options(server: Server) -> None:
    for name in (TINY, MINILM, E5):
        model = server.models.GetModel(models_pb2.GetModelRequest(name=name), timeout=SOON).model
        assert analyze(server, "word", model=name).info.fingerprint == model.fingerprint
        assert segment(server, "word", model=name).info.fingerprint == model.fingerprint


def fingerprint(server: Server, options: dict[str, Any] | None = None, **embedding: Any) -> str:
    call = pb.CallOptions(**{"model": MINILM, **(options or {})})
    return embed(server, "word", options=call, embed=pb.EmbedOptions(**embedding)).info.fingerprint


DISTINCT = {
    "window": ({"window": 64}, {}),
    "pooling": ({}, {"pooling": pb.POOLING_CLS}),
    "policy": ({"segmentation": pb.Segmentation(policy=pb.SEGMENTATION_POLICY_SENTENCE)}, {}),
    "max_tokens": ({"segmentation": pb.Segmentation(max_tokens=300)}, {}),
    "min_tokens": ({"segmentation": pb.Segmentation(min_tokens=100)}, {}),
    "normalize": ({}, {"normalize": False}),
    "dimensions": ({}, {"dimensions": 100}),
    "model": ({"model": TINY}, {}),
}
ALIKE = {
    "query": ({"input_type": pb.INPUT_TYPE_QUERY}, {}),
    "passage": ({"input_type": pb.INPUT_TYPE_PASSAGE}, {}),
    "float16": ({}, {"data_type": pb.DATA_TYPE_FLOAT16}),
    "binary": ({}, {"data_type": pb.DATA_TYPE_BINARY}),
    "unit": ({"offset_unit": pb.OFFSET_UNIT_UTF8}, {}),
    "segment vectors": ({}, {"return_segment_vectors": True}),
    "the model's own pooling": ({}, {"pooling": pb.POOLING_MEAN}),
    "a window that sees everything": ({"window": 511}, {}),
    "an explicit default": ({"segmentation": pb.Segmentation(policy=pb.SEGMENTATION_POLICY_CONTENT)}, {}),
}


@pytest.mark.parametrize(("options", "embedding"), DISTINCT.values(), ids=DISTINCT.keys())
def test_what_sets_vectors_apart_changes_the_fingerprint(
    server: Server, options: dict[str, Any], embedding: dict[str, Any]
) -> None:
    assert fingerprint(server, options, **embedding) != fingerprint(server)


@pytest.mark.parametrize(("options", "embedding"), ALIKE.values(), ids=ALIKE.keys())
def test_what_leaves_vectors_comparable_keeps_the_fingerprint(
    server: Server, options: dict[str, Any], embedding: dict[str, Any]
) -> None:
    assert fingerprint(server, options, **embedding) == fingerprint(server)


def test_a_fingerprint_can_be_demanded(server: Server) -> None:
    right = analyze(server, "word").info.fingerprint
    assert analyze(server, "word", expected_fingerprint=right).info.fingerprint == right
    before = computed(server)
    calls: list[Callable[[], object]] = [
        lambda: segment(server, "word", expected_fingerprint="0" * 32),
        lambda: analyze(server, "word", expected_fingerprint=right, window=64),
        lambda: stream(server, "word", expected_fingerprint=right.upper()),
        lambda: embed(server, "word", options=pb.CallOptions(expected_fingerprint=right, model=MINILM)),
    ]
    for call in calls:
        refusal = refused(call)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "FINGERPRINT_MISMATCH")
    assert computed(server) == before


def test_options_do_what_they_say(server: Server) -> None:
    text = prose(900, seed=12)

    def made(window: int = 0, **embedding: Any) -> Any:
        asked = pb.EmbedOptions(**{"normalize": True, **embedding})
        return vector(embed(server, text, options=pb.CallOptions(window=window), embed=asked))

    plain = made()
    assert np.linalg.norm(plain) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(vector(embed(server, text, embed=pb.EmbedOptions(normalize=True))), plain)
    assert np.abs(plain - made(window=16)).max() > 1e-4
    fixed = segment(server, text, segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=100))
    assert {info.tokens for info in fixed.segments[:-1]} == {100}
    raw = made(normalize=False)
    np.testing.assert_allclose(raw / np.linalg.norm(raw), plain, atol=1e-6)
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_FLOAT16), plain.astype(np.float16))
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_BINARY), plain > 0)
    np.testing.assert_array_equal(made(data_type=pb.DATA_TYPE_INT8), np.round(plain * 127))
    np.testing.assert_allclose(made(dimensions=10), plain[:10] / np.linalg.norm(plain[:10]), atol=1e-6)
    assert np.abs(made(pooling=pb.POOLING_CLS) - plain).max() > 1e-4


# Wrong options, each with its field

LARGE = 2**32 - 1


def option(**fields: Any) -> tuple[str, dict[str, Any]]:
    (name,) = fields
    return f"options.{name}", {"options": pb.CallOptions(**fields)}


def cutting(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"options.segmentation.{name}", {"options": pb.CallOptions(segmentation=pb.Segmentation(**fields))}


def embedding(name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return f"embed.{name}", {"embed": pb.EmbedOptions(**fields)}


def span(start: int, end: int, name: str = "spans") -> tuple[str, dict[str, Any]]:
    return embedding(name, spans=[pb.Span(start=start, end=end)])


WRONG = {
    "unit": option(offset_unit=99),
    "input type": option(input_type=3),
    "cache mode": option(cache_mode=17),
    "priority": option(priority=-1),
    "policy": cutting("policy", policy=4),
    "negative policy": cutting("policy", policy=-1),
    "max_tokens over the budget": cutting("max_tokens", max_tokens=511),
    "max_tokens far over it": cutting("max_tokens", max_tokens=LARGE),
    "max_tokens 0": cutting("max_tokens", max_tokens=0),
    "max_tokens too small to cut": cutting("max_tokens", max_tokens=31),
    "min_tokens over max_tokens": cutting("min_tokens", max_tokens=100, min_tokens=101),
    "min_tokens over the default": cutting("min_tokens", min_tokens=511),
    "min_tokens 0": cutting("min_tokens", min_tokens=0),
    "dimensions 0": embedding("dimensions", dimensions=0),
    "dimensions over the model's": embedding("dimensions", dimensions=129),
    "dimensions far over them": embedding("dimensions", dimensions=LARGE),
    "data type": embedding("data_type", data_type=5),
    "pooling": embedding("pooling", pooling=3),
    "int8 of unnormalised vectors": embedding("data_type", data_type=pb.DATA_TYPE_INT8, normalize=False),
    "a span reversed": span(5, 3, "spans[0]"),
    "an empty span": span(3, 3, "spans[0]"),
    "a span over the end": span(3, 12),
    "a span far over the end": span(LARGE - 1, LARGE),
}


@pytest.mark.parametrize(("field", "fields"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_option_is_refused_and_its_field_named(server: Server, field: str, fields: dict[str, Any]) -> None:
    before = computed(server)
    text = "eleven char"
    refusal = refused(lambda: embed(server, text, **fields))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", field)

    options = fields.get("options", pb.CallOptions())
    asked = {
        "document": document(text),
        "options": options,
        "tasks": [task("first"), pb.Task(embed=fields.get("embed", pb.EmbedOptions()))],
    }
    expected = (INVALID, "INVALID_OPTION", field.replace("embed.", "tasks[1].embed."))
    refusal = refused(lambda: server.inference.Analyze(pb.AnalyzeRequest(**asked), timeout=SOON))
    assert (refusal.code, refusal.reason, refusal.field) == expected
    refusal = refused(lambda: server.inference.StreamSegments(pb.StreamSegmentsRequest(**asked), timeout=SOON))
    assert (refusal.code, refusal.reason, refusal.field) == expected
    if "options" in fields:
        refusal = refused(lambda: server.inference.Segment(pb.SegmentRequest(document=document(text), options=options)))
        assert (refusal.reason, refusal.field) == ("INVALID_OPTION", field)
    assert computed(server) == before


@pytest.mark.parametrize("unit", [pb.OFFSET_UNIT_UTF8, pb.OFFSET_UNIT_UTF16])
def test_a_span_s_edge_inside_a_code_point_is_refused(server: Server, unit: int) -> None:
    for edges in ((0, 1), (1, 4)):
        wanted = task(spans=[pb.Span(start=edges[0], end=edges[1])])
        refusal = refused(lambda wanted=wanted: analyze(server, "👩👩", wanted, offset_unit=unit))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "tasks[0].embed.spans")


def test_a_flood_of_spans_is_refused(server: Server) -> None:
    """A million spans fit a request, and a reply of one bit each; their sums would take gigabytes."""
    few = task("few", spans=[pb.Span(start=0, end=5)] * 2000, dimensions=1, data_type=pb.DATA_TYPE_BINARY)
    many = task("many", spans=[pb.Span(start=0, end=5)] * 2097, dimensions=1, data_type=pb.DATA_TYPE_BINARY)
    for call in (analyze, stream):
        refusal = refused(lambda call=call: call(server, "a word", few, many))  # type: ignore[misc]
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "tasks[1].embed.spans")
        del many.embed.spans[-1]
        assert call(server, "a word", few, many)
        many.embed.spans.add(start=0, end=5)
    refusal = refused(lambda: embed(server, "a word", embed=pb.EmbedOptions(spans=[pb.Span(start=0, end=5)] * 4097)))
    assert refusal.field == "embed.spans"


TASKS: dict[str, tuple[list[pb.Task], str]] = {
    "none": ([], "tasks"),
    "a task without a kind": ([pb.Task(name="a")], "tasks[0].kind"),
    "two without a name": ([task(), task()], "tasks[1].name"),
    "two of one name": ([task("a"), task("b"), task("a")], "tasks[2].name"),
    "too many": ([task(str(i)) for i in range(17)], "tasks"),
}


@pytest.mark.parametrize(("tasks", "field"), TASKS.values(), ids=TASKS.keys())
def test_wrong_tasks_are_refused(server: Server, tasks: list[pb.Task], field: str) -> None:
    requests: list[tuple[Any, Message]] = [
        (server.inference.Analyze, pb.AnalyzeRequest(document=document("word"), tasks=tasks)),
        (server.inference.StreamSegments, pb.StreamSegmentsRequest(document=document("word"), tasks=tasks)),
    ]
    for call, request in requests:
        refusal = refused(lambda: call(request, timeout=SOON))  # noqa: B023
        assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", field)


def test_spans_go_with_one_document(server: Server) -> None:
    refusal = refused(lambda: embed(server, "one", "two", embed=pb.EmbedOptions(spans=[pb.Span(start=0, end=1)])))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "embed.spans")


def test_a_foreign_page_token_is_refused(server: Server) -> None:
    request = models_pb2.ListModelsRequest(page_token="none")  # noqa: S106
    refusal = refused(lambda: server.models.ListModels(request))
    assert (refusal.code, refusal.reason, refusal.field) == (INVALID, "INVALID_OPTION", "page_token")


def test_noise_in_place_of_a_message_is_malformed(server: Server) -> None:
    channel = server.channel()
    call: Any
    for method in ("Segment", "Embed", "Analyze"):
        call = channel.unary_unary(f"/octavo.v1.InferenceService/{method}")
        assert refused(lambda call=call: call(b"\xff\xff\xff")).reason == "MALFORMED_REQUEST"  # type: ignore[misc]
    # a lone surrogate, which is not UTF-8
    text = pb.Document(text="xyz").SerializeToString().replace(b"xyz", b"\xed\xa0\x80")
    frame = b"\x0a" + bytes([len(text)]) + text
    call = channel.unary_unary("/octavo.v1.InferenceService/Segment")
    assert refused(lambda: call(frame)).reason == "MALFORMED_REQUEST"


# Time


class Machine:
    """Counts and slows down the runs of a server's models."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.runs = 0
        self.segments: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        compute = Runner.compute

        def slowed(runner: Runner, works: Sequence[Work], threads: int) -> list[Computed]:
            self.runs += 1
            self.segments += [bytes(work.key) for work in works]
            self.started.set()
            assert self.gate.wait(SOON)
            time.sleep(self.seconds)
            return compute(runner, works, threads)

        patch.setattr(Runner, "compute", slowed)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(monkeypatch)
    yield machine
    machine.gate.set()


@pytest.fixture
def own(models: object) -> Iterator[Server]:
    """A server of its own, with a model that computes each segment by itself, on one stream."""
    with serving(settings(compute=ComputeSettings(streams=1, threads=1, in_flight_segments=4))) as server:
        yield server


def test_a_unary_call_ends_at_its_deadline(own: Server, machine: Machine) -> None:
    machine.seconds = 0.2
    began = time.monotonic()
    # Time enough, as the server reckons before it finds the machine slowed: less would be refused at once.
    refusal = refused(lambda: analyze(own, prose(10_000, seed=13), timeout=2.5))
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3.5
    runs = machine.runs
    time.sleep(0.5)
    assert machine.runs <= runs + 1  # what was begun


def test_a_call_without_a_deadline_gets_the_server_s(models: object, machine: Machine) -> None:
    machine.seconds = 0.2
    with serving(settings(default_deadline_seconds=0.5)) as server:
        for call in (analyze, embed):
            refusal = refused(lambda call=call: call(server, prose(10_000, seed=14), timeout=None))  # type: ignore[misc]
            assert refusal.code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
            assert refusal.reason in {"DEADLINE", "QUEUE_FULL"}
        events = list(stream(server, prose(10_000, seed=14), timeout=None))
        assert events[-1].summary.partial
        assert server.sample("requests_total", code="INTERNAL") == 0


def test_a_stream_tells_before_its_deadline_how_far_it_got(own: Server, machine: Machine) -> None:
    machine.seconds = 0.1
    text = prose(20_000, seed=15)
    began = time.monotonic()
    events = list(stream(own, text, task(return_segment_vectors=True, normalize=False), timeout=2.0))
    assert time.monotonic() - began < 2.0
    summary, parts = events[-1].summary, [event.segment for event in events[1:-1]]
    assert summary.partial
    assert 2 < len(parts) < 30
    assert summary.info.usage.tokens == sum(part.segment.tokens for part in parts)
    rows = np.stack([array(part.results[0].embed.segment_vectors)[0] for part in parts])
    mean = np.average(rows, axis=0, weights=[part.segment.tokens for part in parts])
    np.testing.assert_allclose(array(summary.results[0].embed.document_vector), mean, atol=1e-5)


def test_a_stream_that_gets_nowhere_says_so(own: Server, machine: Machine) -> None:
    machine.gate.clear()
    events = list(stream(own, prose(900, seed=16), timeout=1.0))
    machine.gate.set()
    assert [event.WhichOneof("event") for event in events] == ["header", "summary"]
    assert events[-1].summary.partial
    assert events[-1].summary.info.usage.tokens == 0
    assert not events[-1].summary.results


def test_the_header_comes_before_anything_is_computed(own: Server, machine: Machine) -> None:
    machine.gate.clear()
    events = stream(own, prose(900, seed=17))
    assert next(events).HasField("header")
    machine.gate.set()
    assert list(events)[-1].HasField("summary")


@pytest.mark.parametrize("method", ["StreamSegments", "Analyze", "Embed"])
def test_a_call_that_is_cancelled_computes_no_more(own: Server, machine: Machine, method: str) -> None:
    machine.gate.clear()
    text = prose(3000, seed=18)
    call: Any
    if method == "StreamSegments":
        call = stream(own, text)
    elif method == "Analyze":
        call = own.inference.Analyze.future(pb.AnalyzeRequest(document=document(text), tasks=[task()]))
    else:
        call = own.inference.Embed.future(pb.EmbedRequest(documents=[document(text)]))
    assert machine.started.wait(SOON)
    eventually(lambda: own.sample("queue_depth_segments") == 3)  # the window, less what is being computed
    call.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    machine.gate.set()
    time.sleep(0.2)
    assert machine.runs == 1
    assert own.sample("segments_total") == own.sample("requests_in_flight") == own.sample("queue_depth_segments") == 0


def test_a_stream_that_is_cancelled_in_its_middle_stops_there(own: Server, machine: Machine) -> None:
    machine.seconds = 0.02
    events = stream(own, prose(60_000, seed=19))
    for _ in range(4):
        next(events)
    events.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    time.sleep(0.1)
    runs, segments = machine.runs, own.sample("segments_total")
    time.sleep(0.3)
    assert (machine.runs, own.sample("segments_total")) == (runs, segments)
    assert runs < 30


def test_a_million_tokens_are_as_few_in_flight_as_ten(own: Server, machine: Machine) -> None:
    in_flight = most = 0
    submit = Scheduler.submit
    lock = threading.Lock()

    async def counted(*arguments: Any) -> Computed:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        try:
            return await submit(*arguments)
        finally:
            with lock:
                in_flight -= 1

    text = prose(20_000, seed=20) * 50
    read = own.sample("tokenize_seconds_count")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "submit", counted)
        events = stream(own, text, timeout=120)
        next(events)
        eventually(lambda: most >= 4)
        for _ in range(50):
            assert next(events).HasField("segment")
        assert most <= 4
        assert own.sample("tokenize_seconds_count") - read < 200  # of some 500 regions: it reads as it computes
        events.cancel()
        eventually(lambda: in_flight == 0)


# One for many


def test_the_same_document_at_the_same_time_is_computed_once(own: Server, machine: Machine) -> None:
    text = prose(1500, seed=21)
    machine.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(embed, own, text) for _ in range(4)]
        assert machine.started.wait(SOON)
        eventually(lambda: own.sample("requests_in_flight") == 4)
        time.sleep(0.2)  # all have boarded
        machine.gate.set()
        responses = [answer.result() for answer in answers]
    assert len(machine.segments) == len(set(machine.segments))
    usages = [response.info.usage for response in responses]
    assert {usage.processed_tokens for usage in usages} == {usages[0].processed_tokens}
    assert sum(usage.computed_tokens for usage in usages) == usages[0].processed_tokens
    assert all(usage.computed_tokens + usage.cached_tokens == usage.processed_tokens for usage in usages)
    assert len({vector(response).tobytes() for response in responses}) == 1
    waited = [info for response in responses for info in response.results[0].segments if info.resumed_from_layer == 2]
    assert sum(info.processed_tokens for info in waited) == sum(usage.cached_tokens for usage in usages)


def test_one_who_leaves_takes_nothing_from_those_who_wait_for_the_same(own: Server, machine: Machine) -> None:
    text = prose(1500, seed=22)
    machine.gate.clear()
    request = pb.EmbedRequest(documents=[document(text)])
    first = own.inference.Embed.future(request, timeout=SOON)
    assert machine.started.wait(SOON)
    second = own.inference.Embed.future(request, timeout=SOON)
    eventually(lambda: own.sample("requests_in_flight") == 2)
    time.sleep(0.2)
    first.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    machine.gate.set()
    response = second.result()
    assert response.info.usage.processed_tokens == counts(response.info.usage)[2] + counts(response.info.usage)[3]
    np.testing.assert_array_equal(vector(response), vector(embed(own, text)))
    assert len(set(machine.segments)) == len(response.results[0].segments)


def test_one_whose_time_is_over_takes_nothing_from_those_who_have_more(own: Server, machine: Machine) -> None:
    """The one with the short deadline came first and started the work; the other one's goes on."""
    text = prose(2500, seed=23)
    machine.gate.clear()
    request = pb.EmbedRequest(documents=[document(text)])
    hasty = own.inference.Embed.future(request, timeout=0.6)
    assert machine.started.wait(SOON)
    patient = own.inference.Embed.future(request, timeout=SOON)
    with pytest.raises(grpc.RpcError) as caught:
        hasty.result()
    assert refusal_of(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
    time.sleep(0.1)
    machine.gate.set()
    assert np.isfinite(vector(patient.result())).all()


def test_different_tasks_on_one_document_at_a_time_are_one_computation(own: Server, machine: Machine) -> None:
    text = prose(600, seed=24)
    alone = analyze(own, text, task(pooling=pb.POOLING_CLS)).results[0]
    machine.segments.clear()
    machine.started.clear()
    machine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(analyze, own, text, task())
        assert machine.started.wait(SOON)
        other = pool.submit(analyze, own, text, task(pooling=pb.POOLING_CLS))
        eventually(lambda: own.sample("requests_in_flight") == 2)
        time.sleep(0.2)
        machine.gate.set()
        answers = one.result(), other.result()
    assert len(machine.segments) == len(set(machine.segments)) == len(answers[0].segments)
    assert answers[1].results[0] == alone


def test_a_bug_in_the_machine_is_internal_for_its_callers_and_forgotten_then(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("SECRET TEXT")

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "compute", broken)
        for call in (analyze, embed, stream):
            refusal = refused(lambda call=call: call(own, prose(900)))  # type: ignore[misc]
            assert refusal == Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "", refusal.message)
            assert "SECRET" not in refusal.message
    assert np.isfinite(vector(embed(own, prose(900)))).all()
