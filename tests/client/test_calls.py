"""What both clients send, and what they make of the answers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from typing import Any, cast

import grpc
import numpy as np
import pytest

from octavo.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    DocumentTooLarge,
    Embed,
    IncompleteStream,
    InvalidArgument,
    OctavoError,
    Retry,
    Segmentation,
    ServerError,
    Unavailable,
    UnknownModel,
)
from octavo.client import task_results as from_wire
from octavo.v1 import inference_pb2 as pb
from tests.client.conftest import Caller
from tests.client.double import DIMENSIONS, FINGERPRINT, Double, Fault, pieces, vector_of

TEXT = "Call me Ishmael. Some years ago \N{GRINNING FACE} never mind how long."


def comes_true(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def test_embed_returns_vector_segments_usage_and_times(call: Caller) -> None:
    result = call("embed", TEXT)
    assert result.vector.dtype == np.float32
    assert result.vector.shape == (DIMENSIONS,)
    assert np.array_equal(result.vector, vector_of(TEXT))
    assert result.vector.flags.writeable
    assert [TEXT[s.char_start : s.char_end] for s in result.segments] == pieces(TEXT)
    assert [s.resumed_from_layer for s in result.segments[:2]] == [None, 0]
    assert (result.segments[1].index, result.segments[1].token_count, result.segments[1].processed_tokens) == (
        1,
        10,
        12,
    )
    assert result.segments[1].digest == b"\x01"
    assert result.segments[1].vector is None
    assert result.usage.tokens == len(TEXT)
    assert (result.timings.total, result.timings.tokenize, result.timings.compute) == (1.5, 0.25, 0.0)
    assert str(result.model) == "tiny@3"
    assert (result.fingerprint, result.request_id) == (FINGERPRINT, "r-1")


def test_a_result_shows_what_it_has_without_its_numbers(call: Caller) -> None:
    result = call("embed", TEXT, segment_vectors=True)
    shown = repr(result)
    assert shown.startswith("EmbedResult(model=ModelRef(name='tiny', version='3'")
    assert f"vector=float32[{DIMENSIONS}], segments=<{len(pieces(TEXT))} segments>, span_vectors=None)" in shown
    assert f"digest='01', vector=float32[{DIMENSIONS}], kept=False)" in repr(result.segments[1])


def test_segment_and_span_vectors_come_when_asked_for(call: Caller) -> None:
    result = call("embed", TEXT, segment_vectors=True, spans=[(0, 4), (5, 15)])
    for segment, piece in zip(result.segments, pieces(TEXT), strict=True):
        assert np.array_equal(segment.vector, vector_of(piece))
    assert np.array_equal(result.span_vectors, [vector_of(TEXT[:4]), vector_of(TEXT[5:15])])


def test_what_was_left_open_is_unset_on_the_wire_and_the_rest_is_as_chosen(call: Caller, double: Double) -> None:
    call("embed", TEXT)
    call(
        "embed",
        TEXT,
        model="tiny@3",
        expected_fingerprint="ab",
        segmentation=Segmentation("fixed", max_tokens=100),
        window=0,
        input_type="query",
        cache_mode="bypass",
        priority="bulk",
        pooling="cls",
        normalize=False,
        dimensions=8,
        data_type="float16",
    )
    bare, full = double.requests
    assert bare.options == pb.CallOptions(offset_unit=pb.OFFSET_UNIT_CODE_POINT)
    assert bare.embed == pb.EmbedOptions()
    assert full.options == pb.CallOptions(
        model="tiny@3",
        expected_fingerprint="ab",
        offset_unit=pb.OFFSET_UNIT_CODE_POINT,
        cache_mode=pb.CACHE_MODE_BYPASS,
        priority=pb.PRIORITY_BULK,
        segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=100),
        window=0,
        input_type=pb.INPUT_TYPE_QUERY,
    )
    assert full.options.HasField("window")
    assert full.embed == pb.EmbedOptions(
        pooling=pb.POOLING_CLS, normalize=False, dimensions=8, data_type=pb.DATA_TYPE_FLOAT16
    )
    assert full.embed.HasField("normalize")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"pooling": "max"}, "embed.pooling"),
        ({"data_type": "unspecified"}, "embed.data_type"),
        ({"input_type": "question"}, "options.input_type"),
        ({"cache_mode": "never"}, "options.cache_mode"),
        ({"priority": "urgent"}, "options.priority"),
        ({"window": -1}, "options.window"),
        ({"dimensions": 2**32}, "embed.dimensions"),
        ({"spans": [(3, -1)]}, "embed.spans"),
        ({"segmentation": Segmentation("words")}, "options.segmentation.policy"),  # type: ignore[arg-type]
        ({"segmentation": Segmentation(min_tokens=-5)}, "options.segmentation.min_tokens"),
    ],
)
def test_a_wrong_argument_is_refused_before_sending_and_named(
    call: Caller, double: Double, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        call("embed", TEXT, **arguments)
    assert isinstance(caught.value, ValueError)
    assert [each.field for each in caught.value.violations] == [field]
    assert str(caught.value).count(field) == 1
    with pytest.raises(InvalidArgument):
        call.many([], **arguments)  # told at once, not with the first text
    assert not double.requests


def test_an_argument_that_does_not_exist_is_a_type_error(call: Caller) -> None:
    with pytest.raises(TypeError, match="dimension"):
        call("embed", TEXT, dimension=3)
    with pytest.raises(TypeError, match="bytes"):
        call("embed", b"text")


def test_half_a_surrogate_pair_is_refused_without_showing_the_text(call: Caller) -> None:
    with pytest.raises(InvalidArgument, match="surrogate at character 6") as caught:
        call("embed", "secret\ud800")
    assert "secret" not in str(caught.value)


def test_a_document_over_the_limit_is_refused_before_sending_with_both_sizes(call: Caller, double: Double) -> None:
    limit = {"max_document_bytes": 12}
    call("embed", "\N{GRINNING FACE}" * 3, client=limit)  # exactly 12 bytes
    with pytest.raises(DocumentTooLarge, match=r"13 bytes.*limit of 12") as caught:
        call("embed", "\N{GRINNING FACE}" * 3 + "a", client=limit)
    assert caught.value.reason == "DOCUMENT_TOO_LARGE"
    with pytest.raises(DocumentTooLarge):
        call("segment", "x" * 13, client=limit)
    with pytest.raises(DocumentTooLarge):
        call("analyze", "x" * 13, {"a": Embed()}, client=limit)
    assert len(double.requests) == 1


def test_the_largest_document_fits_the_transport(call: Caller, double: Double) -> None:
    call("embed", "x" * 16_000_000)
    assert len(double.requests[0].documents[0].text) == 16_000_000


def test_segment_tells_the_cost(call: Caller) -> None:
    result = call("segment", TEXT)
    assert [TEXT[s.char_start : s.char_end] for s in result.segments] == pieces(TEXT)
    assert result.uncached_tokens == 7


def test_analyze_answers_each_task_by_name(call: Caller, double: Double) -> None:
    result = call("analyze", TEXT, {"mean": Embed(), "cls": Embed(pooling="cls", segment_vectors=True)})
    assert list(result.results) == ["mean", "cls"]
    assert result.results["mean"].segment_vectors is None
    assert result.results["cls"].segment_vectors.shape == (len(pieces(TEXT)), DIMENSIONS)
    assert double.requests[0].tasks[1].embed.pooling == pb.POOLING_CLS
    with pytest.raises(InvalidArgument, match="tasks: at least one is required"):
        call("analyze", TEXT, {})


def test_binary_vectors_are_packed_bytes(call: Caller) -> None:
    vector = call("embed", TEXT, data_type="binary").vector
    assert vector.dtype == np.uint8
    assert np.array_equal(np.unpackbits(vector)[:DIMENSIONS], vector_of(TEXT) > 0)


@pytest.mark.parametrize(("name", "dtype"), [("FLOAT32", "<f4"), ("FLOAT16", "<f2"), ("INT8", "i1")])
def test_tensors_of_every_type_keep_their_values(name: str, dtype: str) -> None:
    values = np.arange(-6, 6).reshape(3, 4).astype(dtype)
    tensor = pb.Tensor(data_type=f"DATA_TYPE_{name}", shape=[3, 4], data=values.tobytes())
    got = from_wire.array(tensor)
    assert np.array_equal(got, values)
    assert got.dtype.isnative


@pytest.mark.parametrize(
    "tensor",
    [
        pb.Tensor(shape=[3], data=b"\0" * 8),
        pb.Tensor(shape=[2, 2], data_type="DATA_TYPE_BINARY", data=b"\0"),
        pb.Tensor(shape=[1], data_type=99, data=b"\0" * 4),  # type: ignore[arg-type]
    ],
)
def test_a_tensor_that_contradicts_itself_is_the_servers_fault(tensor: pb.Tensor) -> None:
    with pytest.raises(ServerError):
        from_wire.array(tensor)


def test_a_documents_own_status_is_raised(call: Caller, double: Double) -> None:
    double.result_status = Fault(grpc.StatusCode.NOT_FOUND, "no such model", "UNKNOWN_MODEL").status()
    with pytest.raises(UnknownModel, match="no such model"):
        call("embed", TEXT)


def test_models_come_from_all_pages(call: Caller) -> None:
    listed = call("models")
    assert [each.ref.name for each in listed] == ["model-0", "model-1", "model-2"]
    assert [each.is_default for each in listed] == [True, False, False]
    one = call("model", "model-7")
    assert (one.ref.name, one.pooling, one.number_scheme, one.tasks) == ("model-7", "mean", "int8", ("embed",))
    assert one.segmentation == Segmentation("content", None, 256)


# Streams


def test_a_stream_gives_segments_in_order_and_then_its_summary(call: Caller) -> None:
    got, stream = call.stream(TEXT)
    assert [TEXT[each.segment.char_start : each.segment.char_end] for each in got] == pieces(TEXT)
    vector = got[1].results["embed"].vector
    assert vector is not None
    assert np.array_equal(vector, vector_of(pieces(TEXT)[1]))
    assert (stream.header.request_id, stream.header.fingerprint) == ("r-1", FINGERPRINT)
    assert np.array_equal(stream.summary.results["embed"].vector, vector_of(TEXT))
    assert stream.summary.usage.tokens == len(TEXT)
    assert not stream.summary.partial


def test_a_segments_vector_is_there_only_when_asked_for(call: Caller) -> None:
    got, _ = call.stream(TEXT, {"plain": Embed(), "full": Embed(segment_vectors=True)})
    assert got[0].results["plain"].vector is None
    full = got[0].results["full"].vector
    assert full is not None
    assert full.shape == (DIMENSIONS,)


def test_a_streams_segments_come_while_it_is_computed(call: Caller, double: Double) -> None:
    double.segment_delay = 0.05
    arrived: list[float] = []
    call.stream("x" * 100, each=lambda _: arrived.append(time.monotonic()))
    assert arrived[-1] - arrived[0] > 0.3


def test_a_stream_without_its_summary_is_incomplete(call: Caller, double: Double) -> None:
    double.summary = False
    with pytest.raises(IncompleteStream):
        call.stream(TEXT, resume=False)
    assert len(double.requests) == 1


@pytest.mark.parametrize(("resume", "cursors"), [(False, True), (True, False)])
def test_a_stream_that_must_not_or_cannot_resume_tells_of_its_break(
    call: Caller, double: Double, resume: bool, cursors: bool
) -> None:
    double.breaks.append(2)
    double.cursors = cursors
    got: list[object] = []
    with pytest.raises(Unavailable) as caught:
        call.stream(TEXT, each=got.append, resume=resume)
    assert caught.value.reason == "DRAINING"
    assert len(got) == 2
    assert len(double.requests) == 1


def test_a_stream_that_breaks_goes_on_after_its_last_segment(call: Caller, double: Double) -> None:
    double.breaks.extend([2, 2, 4, 0])  # the second time nothing came; the last one resumes behind its break
    got, stream = call.stream(TEXT)
    assert [TEXT[each.segment.char_start : each.segment.char_end] for each in got] == pieces(TEXT)
    assert np.array_equal(stream.summary.results["embed"].vector, vector_of(TEXT))
    assert [request.cursor for request in double.requests] == ["", "1", "1", "3"]


def test_a_stream_that_breaks_before_its_first_segment_begins_anew(call: Caller, double: Double) -> None:
    double.breaks.append(0)
    got, _ = call.stream(TEXT)
    assert len(got) == len(pieces(TEXT))
    assert [request.cursor for request in double.requests] == ["", ""]


def test_a_stream_resumes_within_its_timeout_alone(call: Caller, double: Double) -> None:
    double.segment_delay = 0.05
    double.breaks.extend([2] * 1000)
    started = time.monotonic()
    with pytest.raises(OctavoError):
        call.stream(TEXT, timeout=1)
    assert time.monotonic() - started < 3


def test_a_stream_that_is_refused_at_first_is_tried_again(call: Caller, double: Double) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAVAILABLE, reason="QUEUE_FULL", retry_delay=0.01))
    got, _ = call.stream(TEXT)
    assert len(got) == len(pieces(TEXT))
    assert len(double.requests) == 2


def test_leaving_a_stream_cancels_it_at_the_server(call: Caller, double: Double) -> None:
    double.segment_delay = 0.02

    def leave(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call.stream("x" * 10_000, each=leave)
    assert comes_true(lambda: double.ended != [], seconds=2)  # of 20


# Many


def test_many_keeps_the_order_though_calls_overtake_each_other(call: Caller, double: Double) -> None:
    texts = [f"text {number}" for number in range(24)]
    double.delay = lambda text: 0.03 if text.endswith(("0", "5")) else 0.0
    results = call.many(texts, in_flight=6)
    for text, result in zip(texts, results, strict=True):
        assert np.array_equal(result.vector, vector_of(text))


def test_many_has_several_calls_under_way_and_never_more_than_asked(call: Caller, double: Double) -> None:
    double.delay = lambda _: 0.02
    call.many([str(number) for number in range(30)], in_flight=5)
    assert 3 <= double.most_at_once <= 5


def test_many_reads_no_further_ahead_than_it_sends(call: Caller) -> None:
    read: list[str] = []
    ahead: list[int] = []

    def texts() -> Iterator[str]:
        for number in range(40):
            read.append(str(number))
            yield str(number)

    call.many(texts(), each=lambda _: ahead.append(len(read) - len(ahead)), in_flight=4)
    assert len(ahead) == 40
    assert max(ahead) == 4


def test_many_ends_with_the_first_fault_or_puts_faults_in_their_places(call: Caller, double: Double) -> None:
    bad = "\ud800"
    with pytest.raises(InvalidArgument):
        call.many(["a", bad, "b"])
    results = call.many(["a", bad, "b"], return_exceptions=True)
    assert [isinstance(result, OctavoError) for result in results] == [False, True, False]
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "empty", "EMPTY_DOCUMENT"))
    results = call.many(["a", "b"], return_exceptions=True, in_flight=1)
    assert [isinstance(result, OctavoError) for result in results] == [True, False]


def test_errors_of_many_have_the_index_of_their_text(call: Caller, double: Double) -> None:
    """Each text is a request of its own, in which the server calls it the first."""

    texts = ["a", "x" * 60, "b", "x" * 60]
    results = call.many(texts, return_exceptions=True, client={"max_document_bytes": 50})
    assert [str(each).partition(":")[0] for each in results if isinstance(each, OctavoError)] == [
        "texts[1]",
        "texts[3]",
    ]
    fault = Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT", field="documents[0].text")
    with pytest.raises(InvalidArgument) as caught:
        call.many(["a", "b"], each=lambda _: double.faults.append(fault), in_flight=1)
    assert [each.field for each in caught.value.violations] == ["texts[1]"]
    assert str(caught.value).startswith("texts[1]: no token")
    assert "documents[0]" not in str(caught.value)


def test_leaving_many_cancels_what_is_under_way(double: Double) -> None:
    double.delay = lambda text: 5.0 if text == "slow" else 0.0
    with Client(double.address) as client:
        results = client.embed_many(["a", "slow"], in_flight=2)
        next(results)
        assert comes_true(lambda: len(double.requests) == 2, seconds=5)
        cast("Generator[object]", results).close()
        assert comes_true(lambda: "slow" in double.ended, seconds=3)


async def test_leaving_many_cancels_what_is_under_way_asynchronously(double: Double) -> None:
    double.delay = lambda text: 5.0 if text == "slow" else 0.0
    async with AsyncClient(double.address) as client:
        results = client.embed_many(["a", "slow"], in_flight=2)
        await anext(results)
        assert await asyncio.to_thread(comes_true, lambda: len(double.requests) == 2, 5)
        async with asyncio.timeout(3):
            await cast("AsyncGenerator[object]", results).aclose()
        assert comes_true(lambda: "slow" in double.ended, seconds=1)


def test_many_of_none_is_none_and_no_calls_under_way_is_a_mistake(call: Caller) -> None:
    assert call.many([]) == []
    with pytest.raises(ValueError, match="in_flight"):
        call.many(["a"], in_flight=0)


def test_many_waits_out_a_refusal(call: Caller, double: Double) -> None:
    refusal = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.02)
    double.faults.extend([refusal] * 3)
    texts = [str(number) for number in range(10)]
    results = call.many(texts, in_flight=4)
    assert all(np.array_equal(result.vector, vector_of(text)) for text, result in zip(texts, results, strict=True))
    assert len(double.requests) == 13


# Deadlines that cut a stream


def test_a_stream_without_a_timeout_goes_on_after_the_servers_deadline(call: Caller, double: Double) -> None:
    double.deadlines_passed.extend([2, 4])
    got, stream = call.stream(TEXT)
    assert [TEXT[each.segment.char_start : each.segment.char_end] for each in got] == pieces(TEXT)
    assert np.array_equal(stream.summary.results["embed"].vector, vector_of(TEXT))
    assert not stream.summary.partial
    assert [request.cursor for request in double.requests] == ["", "1", "3"]


def test_a_stream_whose_server_ends_it_with_an_error_at_its_deadline_goes_on_too(call: Caller, double: Double) -> None:
    double.break_with = Fault(grpc.StatusCode.DEADLINE_EXCEEDED, "too late", "DEADLINE")
    double.breaks.extend([2, 4])
    got, _ = call.stream(TEXT, client={"retry": Retry(attempts=1, patience=0)})
    assert [TEXT[each.segment.char_start : each.segment.char_end] for each in got] == pieces(TEXT)


@pytest.mark.parametrize(
    ("arguments", "calls", "told"),
    [
        ({"timeout": 30}, 1, "the timeout passed before the document's end, after 2 segments"),
        ({"resume": False}, 1, "the server's default deadline .set a timeout to replace it. passed"),
        ({}, 2, "the server's default deadline .set a timeout to replace it. passed"),  # the second call gives nothing
    ],
)
def test_a_partial_result_is_an_error_unless_it_was_asked_for(
    call: Caller, double: Double, arguments: dict[str, Any], calls: int, told: str
) -> None:
    double.deadlines_passed.extend([2, 2, 2])
    got: list[Any] = []
    with pytest.raises(DeadlineExceeded, match=told) as caught:
        call.stream(TEXT, each=got.append, **arguments)
    assert caught.value.reason == "DEADLINE"
    assert len(got) == 2
    assert len(double.requests) == calls
    double.deadlines_passed.clear()
    double.deadlines_passed.extend([2, 2, 2])
    got, stream = call.stream(TEXT, partial=True, **arguments)
    assert stream.summary.partial
    assert np.array_equal(stream.summary.results["embed"].vector, vector_of("".join(pieces(TEXT)[:2])))
    assert len(got) == 2
