"""Calls to a real server with real models: what an answer holds, odd documents, and sizes."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import grpc
import numpy as np
import pytest

from octavo.v1 import inference_pb2 as pb
from server.inference.tasks import EmbedTask, Size
from server.v1 import replies
from tests.server.helpers import (
    E5,
    MINILM,
    SOON,
    TINY,
    Server,
    analyze,
    array,
    computed,
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
    reckoned = replies.REPLY_BYTES + replies.size_of(tasks, Size(segments, 4000, 0))
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


def test_a_cursor_fits_the_options_that_its_stream_had_alone(server: Server) -> None:
    """Spans are counted in the offset unit, and vectors depend on the input type: a stream must not change either."""

    def request(**options: Any) -> pb.StreamSegmentsRequest:
        return pb.StreamSegmentsRequest(
            document=document(prose(2000)), tasks=[task()], options=pb.CallOptions(**options)
        )

    events = list(server.inference.StreamSegments(request(offset_unit=pb.OFFSET_UNIT_UTF8), timeout=SOON))
    segments = [event.segment for event in events if event.HasField("segment")]
    resumed = request(offset_unit=pb.OFFSET_UNIT_UTF8)
    resumed.cursor = segments[1].cursor
    rest = [
        event.segment for event in server.inference.StreamSegments(resumed, timeout=SOON) if event.HasField("segment")
    ]
    assert [segment.segment.index for segment in rest] == [segment.segment.index for segment in segments[2:]]
    for options in ({"offset_unit": pb.OFFSET_UNIT_UTF16}, {"input_type": pb.INPUT_TYPE_QUERY}):
        other = request(**{"offset_unit": pb.OFFSET_UNIT_UTF8, **options})
        other.cursor = segments[1].cursor
        assert refused(partial(server.inference.StreamSegments, other)).reason == "CURSOR_MISMATCH"
