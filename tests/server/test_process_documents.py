"""ProcessDocuments: every document once, whatever the others do, at the caller's pace."""

import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import grpc
import pytest

from octavo.v1 import inference_pb2 as pb
from server.config.schema import PlanSettings
from server.v1 import bulk
from tests.models import tokens_model
from tests.server.helpers import SOON, Server, eventually, model, prose, serving, settings

EMBED = pb.Task(name="e", embed=pb.EmbedOptions(return_segment_vectors=True))


@pytest.fixture(autouse=True)
def no_parts_for_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow machine, results come in the same messages as on a fast one."""
    monkeypatch.setattr(bulk, "PART_SECONDS", math.inf)


def start(tasks: Sequence[pb.Task] = (EMBED,), *, segments: bool = False) -> pb.ProcessDocumentsRequest:
    return pb.ProcessDocumentsRequest(start=pb.ProcessStart(tasks=tasks, return_segments=segments))


def part(id: str, text: str, *, more: bool = False) -> pb.ProcessDocumentsRequest:  # noqa: A002
    return pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=id, text=text, more=more))


def process(server: Server, requests: Iterable[pb.ProcessDocumentsRequest]) -> list[pb.ProcessDocumentsResponse]:
    return list(server.inference.ProcessDocuments(iter(requests), timeout=SOON))


def results(responses: Iterable[pb.ProcessDocumentsResponse]) -> dict[str, list[pb.DocumentResult]]:
    """Each document's results in order."""
    found: dict[str, list[pb.DocumentResult]] = {}
    for response in responses:
        if response.WhichOneof("message") == "result":
            found.setdefault(response.result.id, []).append(response.result)
    return found


def test_every_document_is_answered_once_as_analyze_would(server: Server) -> None:
    texts = {f"d{i}": prose(40 * i + 5, seed=i) for i in range(12)}
    responses = process(server, [start(segments=True), *(part(*each) for each in texts.items())])
    assert responses[0].WhichOneof("message") == "ready"
    assert responses[0].ready.max_document_bytes == 16_000_000
    found = results(responses[1:])
    assert found.keys() == texts.keys()
    for name, text in texts.items():
        (result,) = found[name]
        request = pb.AnalyzeRequest(document=pb.Document(text=text), tasks=[EMBED])
        analyzed = server.inference.Analyze(request)
        assert result.ok.results == analyzed.results
        assert [info.span for info in result.ok.segments] == [info.span for info in analyzed.segments]
        assert result.ok.info.usage.tokens == analyzed.info.usage.tokens


def test_a_document_in_parts_is_one_document(server: Server) -> None:
    text = prose(900)
    pieces = [part("d", text[i : i + 700], more=i + 700 < len(text)) for i in range(0, len(text), 700)]
    whole, parts = (results(process(server, [start(), *documents]))["d"] for documents in ([part("d", text)], pieces))
    assert whole[0].ok.results == parts[0].ok.results


def test_one_documents_fault_is_its_own(server: Server) -> None:
    found = results(process(server, [start(), part("good", "a text"), part("empty", " "), part("also good", "b")]))
    assert found["empty"][0].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert {name for name, (result,) in found.items() if result.WhichOneof("outcome") == "ok"} == {"good", "also good"}


def test_no_message_is_too_large_however_long_the_masks_are(models: Path, tmp_path: Path) -> None:
    """Every token is an entity. Three segments are more than a message takes, or one alone is."""
    label = "X" * 60
    folder = tokens_model(models / "splade-tiny", tmp_path / "all", (f"B-{label}",) * 2)
    whole = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=500)
    entities = pb.ClassifyTokensOptions(aggregation=pb.AGGREGATION_SIMPLE)

    def start(labels: int) -> pb.ProcessDocumentsRequest:
        task = pb.Task(name="r", redact=pb.RedactOptions(entities=entities, mask="{label}" * labels))
        options = pb.CallOptions(segmentation=whole)
        return pb.ProcessDocumentsRequest(start=pb.ProcessStart(tasks=[task], options=options))

    with serving(settings(model(str(folder)))) as server:
        text = prose(3000)
        responses = process(server, [start(11), part("a", text)])
        assert max(response.ByteSize() for response in responses) <= 1 << 20
        found = results(responses)["a"]
        assert len(found) > 2
        redacted = "".join(result.ok.results[0].redact.text for result in found)
        assert not set(redacted) - {"X", " ", "\n"}
        assert len(redacted) > 11 * 60 * 2900
        (refused,) = results(process(server, [start(36), part("a", text)]))["a"]
        assert "a message would have" in refused.error.message


def test_a_result_too_large_for_a_message_comes_in_several(server: Server) -> None:
    text = prose(150_000)
    tasks = [pb.Task(name=name, embed=EMBED.embed) for name in "abcd"]
    responses = process(
        server, [start(tasks, segments=True), part("long", text[:500_000], more=True), part("long", text[500_000:])]
    )
    found = results(responses)["long"]
    assert [result.more for result in found] == [True] * (len(found) - 1) + [False]
    assert len(found) > 1
    assert max(response.ByteSize() for response in responses) <= 1 << 20
    indices = [info.index for result in found for info in result.ok.segments]
    assert indices == list(range(len(indices)))
    rows = sum(result.ok.results[0].embed.segment_vectors.shape[0] for result in found)
    assert rows == len(indices)
    assert [len(result.ok.results[0].embed.document_vector.data) > 0 for result in found] == [
        not result.more for result in found
    ]


@pytest.mark.parametrize("task", [EMBED, pb.Task(name="e", embed=pb.EmbedOptions())])
def test_a_slow_result_comes_in_parts_as_it_is_computed(
    server: Server, monkeypatch: pytest.MonkeyPatch, task: pb.Task
) -> None:
    requests = [start([task], segments=True), part("d", prose(5000))]
    (whole,) = results(process(server, requests))["d"]
    monkeypatch.setattr(bulk, "PART_SECONDS", -1.0)  # any time is too long
    found = results(process(server, requests))["d"]
    assert [result.more for result in found] == [True] * len(whole.ok.segments) + [False]
    infos = [info for result in found for info in result.ok.segments]
    assert [(info.index, info.span) for info in infos] == [(info.index, info.span) for info in whole.ok.segments]
    assert found[-1].ok.results[0].embed.document_vector == whole.ok.results[0].embed.document_vector
    rows = b"".join(result.ok.results[0].embed.segment_vectors.data for result in found)
    assert rows == whole.ok.results[0].embed.segment_vectors.data


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "start"),
        ([part("a", "x")], "start"),
        ([start(), start()], "start"),
        ([start([])], "tasks"),
        ([start([pb.Task(name="e", embed=pb.EmbedOptions(spans=[pb.Span(end=1)]))])], "start.tasks"),
        ([start(), part("", "x")], "document.id"),
        ([start(), part("a", "x"), part("a", "y")], "document.id"),
        ([start(), part("a", "x", more=True), part("b", "y")], "document.more"),
        ([start(), part("a", "x", more=True)], "document.more"),
        ([start(), part("i" * 1025, "x")], "document.id"),
        ([start(), part("a", "x" * ((1 << 20) + 1))], "document.text"),
    ],
)
def test_a_malformed_stream_is_refused_and_the_field_is_named(
    server: Server, requests: list[pb.ProcessDocumentsRequest], field: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        process(server, requests)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    call = cast("grpc.Call", refused.value)
    (status,) = (value for key, value in call.trailing_metadata() if key == "grpc-status-details-bin")
    assert isinstance(status, bytes)
    assert field.encode() in status


def test_nothing_is_read_while_nobody_reads_the_results(server: Server) -> None:
    sent = 0

    def endless() -> Iterator[pb.ProcessDocumentsRequest]:
        nonlocal sent
        yield start(segments=True)
        while True:
            sent += 1
            yield part(f"d{sent}", "word " * 30_000)

    call = server.inference.ProcessDocuments(endless())
    next(call)
    seen = -1
    deadline = time.monotonic() + SOON
    while sent != seen and time.monotonic() < deadline:
        seen = sent
        time.sleep(0.7)
    assert sent == seen < 400
    call.cancel()


def test_few_documents_are_taken_in_while_nobody_reads_however_small_they_are(server: Server) -> None:
    """Each takes its room until its answer has gone, and some beside its text: 60,000 of a byte were taken in once."""
    sent = 0

    def many() -> Iterator[pb.ProcessDocumentsRequest]:
        nonlocal sent
        yield start()
        while sent < 60_000:
            sent += 1
            yield part(f"d{sent}" + "i" * 1000, "x" * (sent % 7 + 1))

    def answered() -> float:
        return server.sample("documents_total")

    before = answered()
    call = server.inference.ProcessDocuments(many())
    next(call)
    eventually(lambda: answered() > before)
    seen = -1.0
    while answered() != seen:
        seen = answered()
        time.sleep(1.0)
    assert seen - before < 20_000, "what buffers on the way hold"
    call.cancel()


def test_an_id_that_was_answered_does_not_come_again(server: Server) -> None:
    first_answered = threading.Event()

    def twice() -> Iterator[pb.ProcessDocumentsRequest]:
        yield start()
        yield part("a", "x")
        first_answered.wait(SOON)
        yield part("a", "y")

    call = server.inference.ProcessDocuments(twice(), timeout=SOON)
    assert next(call).WhichOneof("message") == "ready"
    assert next(call).result.id == "a"
    first_answered.set()
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_that_is_cancelled_stops_computing(server: Server) -> None:
    more = threading.Event()

    def endless() -> Iterator[pb.ProcessDocumentsRequest]:
        yield start()
        for i in range(10_000):
            yield part(f"d{i}", prose(3000, seed=i))
        more.wait(SOON)

    call = server.inference.ProcessDocuments(endless())
    for _ in range(4):
        next(call)
    call.cancel()
    more.set()
    time.sleep(0.5)
    before = server.sample("segments_total")
    time.sleep(0.5)
    assert server.sample("segments_total") == before


def test_streams_do_not_wait_for_the_room_that_they_hold_themselves(models: Path) -> None:
    configured = settings()
    plan = PlanSettings(max_bytes_in_flight=1_000_000)
    narrow = configured.model_copy(update={"plans": {"anonymous": plan}})
    with serving(narrow) as server:
        assert {*results(process(server, [start(), part("long", "word " * 120_000)]))} == {"long"}
