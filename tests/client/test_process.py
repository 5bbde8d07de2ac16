"""`process`: every document answered once, whatever happens to others and to the connection."""

import asyncio
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from octavo.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    DocumentsFailed,
    DocumentTooLarge,
    Embed,
    IncompleteStream,
    InvalidArgument,
    OctavoError,
    Unauthenticated,
    Unavailable,
)
from octavo.client import ledger as accounts
from octavo.client.requests import PART_BYTES
from octavo.v1 import inference_pb2 as pb
from tests.client.conftest import Caller
from tests.client.double import FINGERPRINT, Double, Fault, pieces, vector_of

GONE = Fault(grpc.StatusCode.UNAVAILABLE, "gone")


def documents(count: int) -> list[tuple[str, str]]:
    return [(f"id-{number}", f"text {number}") for number in range(count)]


def check(got: list[tuple[Any, Any]], sent: list[tuple[Any, str]]) -> None:
    """Each document has its own answer, once."""
    assert sorted(key for key, _ in got) == sorted(key for key, _ in sent)
    texts = dict(sent)
    for key, answer in got:
        assert np.array_equal(answer.results["embed"].vector, vector_of(texts[key]))


def test_every_document_is_answered_in_the_order_of_completion(call: Caller, double: Double) -> None:
    double.batch = 4
    sent = documents(12)
    got = call.process(sent)
    check(got, sent)
    assert [key for key, _ in got][:5] == ["id-3", "id-2", "id-1", "id-0", "id-7"]
    answer = got[0][1]
    assert (answer.fingerprint, answer.usage.tokens, answer.segments) == (FINGERPRINT, 6, ())
    (start,) = double.requests
    assert start.options == pb.CallOptions(offset_unit=pb.OFFSET_UNIT_CODE_POINT)
    assert not start.return_segments


def test_none_are_none_and_wrong_arguments_are_told_at_once(call: Caller, double: Double) -> None:
    assert call.process([]) == []
    seen = len(double.requests)
    wrongs: list[dict[str, Any]] = [{"in_flight": 0}, {"window": -1}, {"tasks": {}}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"in_flight|window|tasks"):
            call.process([], **wrong)
    assert len(double.requests) == seen


def test_ids_are_the_callers_own_and_need_not_differ(call: Caller, double: Double) -> None:
    got = call.process([(("a", 1), "x"), (None, "y"), (None, "z")])
    assert [key for key, _ in got] == [("a", 1), None, None]
    assert [part.id for part in double.parts] == ["0", "1", "2"]


@pytest.mark.parametrize("character", ["x", "\N{GRINNING FACE}"])
def test_a_long_text_travels_in_parts_that_do_not_part_characters(call: Caller, double: Double, character: str) -> None:
    text = "ab" + character * (2_000_000 // len(character.encode()))
    call.process([("short", "s"), ("long", text)])
    _, *parts = double.parts
    assert len(parts) == 3
    assert [part.more for part in parts] == [True, True, False]
    assert all(PART_BYTES - 4 < len(part.text.encode()) <= PART_BYTES for part in parts[:-1])
    assert "".join(part.text for part in parts) == text


def test_an_answer_in_several_messages_is_one(call: Caller) -> None:
    text = "".join(f"{number:9} " for number in range(250))
    ((_, answer),) = call.process([("a", text)], {"plain": Embed(), "full": Embed(segment_vectors=True)})
    assert [text[each.char_start : each.char_end] for each in answer.segments] == pieces(text)
    assert np.array_equal(answer.results["full"].segment_vectors, [vector_of(piece) for piece in pieces(text)])
    assert answer.results["plain"].segment_vectors is None
    assert np.array_equal(answer.results["plain"].vector, vector_of(text))
    ((_, answer),) = call.process([("a", "some text")], segments=True)
    assert len(answer.segments) == 1


BAD = [("good", "a"), ("empty", ""), ("half", "\ud800"), ("large", "x" * 100), ("also good", "b")]


@pytest.mark.parametrize("segments", [True, False])
def test_segments_are_told_as_they_come(call: Caller, segments: bool) -> None:
    told: list[tuple[str, int]] = []
    answers = dict(
        call.process(
            [("long", "x" * 2500), ("short", "y" * 25)],
            segments=segments,
            on_segments=lambda name, found: told.extend((name, each.index) for each in found),
        )
    )
    counts = {name: len(answer.segments) for name, answer in answers.items()}
    assert counts == ({"long": 250, "short": 3} if segments else {"long": 0, "short": 0})
    assert sorted(told) == sorted((name, index) for name, count in counts.items() for index in range(count))


def test_a_documents_error_takes_its_answers_place(call: Caller, double: Double) -> None:
    got = dict(call.process(BAD, return_exceptions=True, client={"max_document_bytes": 99}))
    assert got.keys() == dict(BAD).keys()
    assert got["empty"].reason == "EMPTY_DOCUMENT"
    assert isinstance(got["half"], InvalidArgument)
    assert isinstance(got["large"], DocumentTooLarge)
    assert {key for key, each in got.items() if not isinstance(each, OctavoError)} == {"good", "also good"}
    assert [part.text for part in double.parts] == ["a", "", "b"]


def test_errors_are_raised_together_after_the_last_answer(call: Caller) -> None:
    got: list[tuple[Any, Any]] = []
    with pytest.raises(DocumentsFailed, match=r"3 documents failed, '\w+' first") as caught:
        call.process(BAD, each=got.append, client={"max_document_bytes": 99})
    assert [key for key, _ in got] == ["good", "also good"]
    assert {key for key, _ in caught.value.errors} == {"empty", "half", "large"}


@pytest.mark.parametrize("end", [GONE, "draining", "silently"], ids=["fault", "draining", "silently"])
def test_what_is_unanswered_is_sent_again_over_a_new_stream(call: Caller, double: Double, end: Fault | str) -> None:
    double.ends.extend([(3, end), (1, end), (4, end)])
    sent = documents(20)
    check(call.process(sent, in_flight=5), sent)
    assert len(double.requests) == 4


def test_a_server_that_drains_is_left_alone_for_as_long_as_it_says(call: Caller, double: Double) -> None:
    double.ends.append((3, "draining"))
    call.process(documents(9))
    first, second = double.times
    assert second - first >= 0.02


def test_an_answer_half_way_is_not_joined_to_the_one_of_the_next_stream(call: Caller, double: Double) -> None:
    text = "".join(f"{number:9} " for number in range(250))
    ledger: accounts.Ledger[str] = accounts.Ledger(pb.ProcessDocumentsRequest(), 4, 10_000)
    ledger.add("a", text)
    half = pb.DocumentResult(id="0", ok=pb.AnalyzeResponse(segments=[pb.SegmentInfo()]), more=True)
    ledger.take(pb.ProcessDocumentsResponse(result=half))
    ledger.reopen()
    whole = pb.DocumentResult(id="0", ok=pb.AnalyzeResponse(segments=[pb.SegmentInfo()] * 3))
    ledger.take(pb.ProcessDocumentsResponse(result=whole))
    ((_, answer),) = ledger.outcomes()
    assert not isinstance(answer, OctavoError)
    assert len(answer.segments) == 3


def test_attempts_without_progress_are_bounded(call: Caller, double: Double) -> None:
    double.ends.extend([(0, GONE)] * 100)
    # At times gRPC's asyncio hides what the server said behind a failed write of its own: then the stream just ended.
    with pytest.raises((Unavailable, IncompleteStream), match=r"gone|ended before"):
        call.process(documents(3))
    assert len(double.requests) == 5


def test_what_will_not_pass_ends_it_at_once(call: Caller, double: Double) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAUTHENTICATED, "who?", "UNAUTHENTICATED"))
    with pytest.raises(Unauthenticated):
        call.process(documents(3))
    assert len(double.requests) == 1


def test_a_refusal_is_waited_out(call: Caller, double: Double) -> None:
    double.faults.extend([Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.02)] * 7)
    sent = documents(3)
    check(call.process(sent), sent)
    assert len(double.requests) == 8


def test_the_timeout_is_for_everything(call: Caller, double: Double) -> None:
    double.delay = lambda _: 0.1
    with pytest.raises(DeadlineExceeded):
        call.process(((number, "text") for number in itertools.count()), timeout=0.5)
    deadline = double.deadlines[0]
    assert deadline is not None
    assert deadline < 0.6


def test_no_more_is_read_than_may_be_unanswered(call: Caller, double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    most: list[int] = []

    def source(count: int, text: str) -> Iterator[tuple[int, str]]:
        for number in range(count):
            read.append(number)
            yield number, text

    def note(_: object) -> None:
        time.sleep(0.002)
        most.append(len(read) - len(most))

    call.process(source(60, "text"), in_flight=4, each=note)
    assert len(most) == 60
    assert max(most) <= 4 + 1  # one may be taken on while its predecessor's answer is on its way to us
    read.clear()
    most.clear()
    monkeypatch.setattr(accounts, "MAX_HELD_CHARACTERS", 1000)
    call.process(source(30, "x" * 600), each=note)
    assert max(most) <= 2 + 1


def test_answers_do_not_wait_for_further_documents(call: Caller) -> None:
    answered = threading.Event()

    def source() -> Iterator[tuple[str, str]]:
        yield "first", "a"
        assert answered.wait(10), "the first answer waits for the second document"
        yield "second", "b"

    if call.manner == "sync":
        assert len(call.process(source(), each=lambda _: answered.set())) == 2
        return

    async def work() -> list[str]:
        seen = asyncio.Event()

        async def feed() -> AsyncIterator[tuple[str, str]]:
            yield "first", "a"
            async with asyncio.timeout(10):
                await seen.wait()
            yield "second", "b"

        got = []
        async with AsyncClient(call.double.address) as client:
            async for key, _ in client.process(feed()):
                seen.set()
                got.append(key)
        return got

    assert asyncio.run(work()) == ["first", "second"]


def test_a_fault_of_the_source_comes_after_the_answers_of_what_it_gave(call: Caller) -> None:
    def source() -> Iterator[tuple[int, str]]:
        yield 0, "a"
        yield 1, "b"
        raise OSError("the disk is gone")

    got: list[object] = []
    with pytest.raises(OSError, match="the disk"):
        call.process(source(), each=got.append)
    assert len(got) == 2
    with pytest.raises(TypeError, match="text must be a str"):
        call.process([(0, b"bytes")])  # type: ignore[list-item]


def test_leaving_cancels_it_at_the_server_and_ends_the_thread(double: Double) -> None:
    double.delay = lambda _: 0.02
    with Client(double.address) as client:
        results = client.process((number, "text") for number in itertools.count())
        next(results)
        del results
        gc.collect()
        end = time.monotonic() + 5
        while not double.ended or any(each.name == "octavo-documents" for each in threading.enumerate()):
            assert time.monotonic() < end, "it goes on"
            time.sleep(0.01)


async def test_leaving_cancels_it_at_the_server_asynchronously(double: Double) -> None:
    double.delay = lambda _: 0.02
    async with AsyncClient(double.address) as client:
        results: Any = client.process((number, "text") for number in itertools.count())
        await anext(results)
        await results.aclose()
        end = time.monotonic() + 5
        while not double.ended or len(asyncio.all_tasks()) > 2:  # this one, and one of gRPC's
            assert time.monotonic() < end, "it goes on"
            await asyncio.sleep(0.01)
