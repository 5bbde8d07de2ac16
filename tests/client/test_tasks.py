"""The client's tasks against a real server of several models."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.client import (
    AsyncClient,
    Classify,
    ClassifyTokens,
    Client,
    Embed,
    EmbedSparse,
    InvalidArgument,
    Rank,
    Redact,
    Redaction,
    Retry,
    UnknownModel,
)
from octavo.client.arguments import Task
from octavo.client.results import TaskResult
from server import app
from tests.models import CLASSES
from tests.server.conftest import head_models as head_models  # noqa: PLC0414 - a fixture
from tests.server.conftest import models as models  # noqa: PLC0414
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.conftest import task_server as task_server  # noqa: PLC0414
from tests.server.helpers import SOON, TINY, Server, model, prose, settings

TEXT = f"Größe 漢字 👩‍👩‍👧 {prose(1500)} 東京 مرحبا {prose(700, seed=1)}"
TASKS: dict[str, Task] = {
    "vectors": Embed(segment_vectors=True),
    "masked": Redact(mask="<{label} 👤>", labels=["PERSON"]),
    "found": ClassifyTokens(),
    "class": Classify(segments=True),
    "tags": Classify(model="tagger", top_k=2),
    "sparse": EmbedSparse(segment_vectors=True, tokens=True, top_k=20),
    "rank": Rank("a river in the old town"),
}
Call = Callable[..., Any]


@pytest.fixture
def client(task_server: Server) -> Any:
    with Client(task_server.address) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, task_server: Server) -> Call:
    """A method of either client."""

    def call_sync(method: str, /, *args: Any, **arguments: Any) -> Any:
        with Client(task_server.address) as made:
            return getattr(made, method)(*args, **arguments)

    async def work(method: str, /, *args: Any, **arguments: Any) -> Any:
        async with AsyncClient(task_server.address) as made:
            return await getattr(made, method)(*args, **arguments)

    return call_sync if request.param == "sync" else lambda *args, **named: asyncio.run(work(*args, **named))


def plain(result: Any) -> Any:
    """A result with lists for arrays, which can be compared."""
    if isinstance(result, np.ndarray):
        return result.tolist()
    if dataclasses.is_dataclass(result):
        return [plain(getattr(result, each.name)) for each in dataclasses.fields(result)]
    return list(map(plain, result)) if isinstance(result, tuple) else result


def assert_maps(text: str, redaction: Redaction, mask: Callable[[str], str]) -> None:
    """Putting the document's own words back in place of the masks gives the document."""
    assert redaction.entities
    pieces, end = [], 0
    for each in redaction.entities:
        assert redaction.text[each.redacted_start : each.redacted_end] == mask(each.entity.label)
        pieces += [redaction.text[end : each.redacted_start], text[each.entity.char_start : each.entity.char_end]]
        end = each.redacted_end
    assert "".join([*pieces, redaction.text[end:]]) == text


def test_short_methods_say_what_analyze_says(call: Call) -> None:
    expected = call("analyze", TEXT, TASKS).results
    options = {"mask": "<{label} 👤>", "labels": ["PERSON"]}
    assert call("redact", TEXT, **options).result == expected["masked"]
    assert call("classify_tokens", TEXT).result == expected["found"]
    assert call("classify", TEXT, segments=True).result == expected["class"]
    assert call("classify", TEXT, model="tagger", top_k=2).result == expected["tags"]
    sparse = call("embed_sparse", TEXT, segment_vectors=True, tokens=True, top_k=20)
    assert plain(sparse.result) == plain(expected["sparse"])
    assert sparse.segments[-1].char_end == len(TEXT)
    assert str(sparse.model).startswith(TINY)


def test_documents_are_ranked_with_their_passages_and_faults(call: Call) -> None:
    texts = [prose(700, seed=3), "", TEXT, "a river"]
    result = call("rank", "a river in the old town", texts, passages=2)
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], InvalidArgument)
    assert sorted(each.index for each in result.documents) == [0, 2, 3]
    scores = [each.score for each in result.documents]
    assert scores == sorted(scores, reverse=True)
    (of_text,) = (each for each in result.documents if each.index == 2)
    task = call("analyze", TEXT, {"rank": Rank("a river in the old town", passages=2)}).results["rank"]
    assert (of_text.score, of_text.passages) == (task.score, task.passages)
    cuts = call("segment", TEXT).segments
    for passage in of_text.passages:
        segment = cuts[passage.segment_index]
        assert (passage.char_start, passage.char_end) == (segment.char_start, segment.char_end)
    fused = call("rank", "river", texts, method="fused", top_k=1)
    assert [trunk.tasks for trunk in fused.trunks] == [("dense", "sparse")]
    assert len(fused.documents) == 1
    with pytest.raises(InvalidArgument, match="method"):
        call("rank", "river", texts, method="best")


def test_what_a_method_is_asked_for_is_what_it_returns(client: Client) -> None:
    every = client.classify_tokens(TEXT).result.entities
    some = client.classify_tokens(TEXT, labels=["PLACE"], min_score=0.4).result.entities
    assert some == tuple(each for each in every if each.label == "PLACE" and each.score >= 0.4)
    assert 0 < len(some) < len(every)
    classes = client.classify(TEXT).result.labels
    assert sorted(each.label for each in classes) == sorted(CLASSES)
    assert sum(each.score for each in classes) == pytest.approx(1)
    vector = client.embed_sparse(TEXT, tokens=True).result.vector
    assert vector is not None
    assert len(vector.indices) == len(vector.weights) == len(vector.tokens) > 20
    assert "river" in vector.tokens


def test_a_redacted_text_maps_back_to_the_document(client: Client) -> None:
    redaction = client.redact(TEXT).result
    assert_maps(TEXT, redaction, lambda label: f"[{label}]")
    first, *_, last = redaction.entities
    assert redaction.document_position(first.redacted_start + 1) == first.entity.char_start
    assert redaction.document_position(last.redacted_end) == last.entity.char_end
    assert redaction.document_position(len(redaction.text)) == len(TEXT)
    assert Redaction("nothing found").document_position(4) == 4


def test_an_analysis_names_its_trunks_and_their_segments(client: Client) -> None:
    answer = client.analyze(TEXT, TASKS)
    assert [(each.model.name, each.tasks) for each in answer.trunks] == [
        (TINY, ("vectors", "sparse", "rank")),
        ("finder", ("masked", "found")),
        ("sorter", ("class",)),
        ("tagger", ("tags",)),
    ]
    for trunk in answer.trunks:
        assert trunk.segments[-1].char_end == len(TEXT)
        assert trunk.usage is not None
    assert sum(each.usage.tokens for each in answer.trunks if each.usage) == answer.usage.tokens
    assert answer.trunks[0].segments == answer.segments


@pytest.mark.parametrize("way", ["stream", "process"])
def test_pieces_are_joined_to_what_analyze_says(client: Client, way: str) -> None:
    expected = client.analyze(TEXT, TASKS)
    results: Any
    if way == "stream":
        with client.stream(TEXT, TASKS) as stream:
            segments = list(stream)
        assert stream.header is not None
        assert stream.summary is not None
        results, trunks = stream.summary.results, stream.summary.trunks
        assert [each.model for each in stream.header.trunks] == [each.model for each in trunks]
        for number, trunk in enumerate(expected.trunks):
            mine = [each for each in segments if each.trunk == number]
            assert plain(tuple(each.segment for each in mine)) == plain(trunk.segments)
            assert all(set(each.results) == set(trunk.tasks) for each in mine)
        rows = [each.results["sparse"].vector for each in segments if each.trunk == 0]
        assert plain(tuple(rows)) == plain(expected.results["sparse"].segment_vectors)
    else:
        ((_, answer),) = client.process([("a", TEXT)], TASKS)
        results, trunks = answer.results, answer.trunks
        assert plain(results["sparse"]) == plain(expected.results["sparse"])
        assert [plain(each.segments) for each in trunks] == [plain(each.segments) for each in expected.trunks]
    for name in ("masked", "found", "tags"):
        assert results[name] == expected.results[name]
    assert [each.label for each in results["class"].labels] == [each.label for each in expected.results["class"].labels]
    assert [each.tasks for each in trunks] == [each.tasks for each in expected.trunks]


def test_a_long_document_s_parts_are_joined(client: Client) -> None:
    text = prose(60_000)
    tasks: dict[str, Task] = {"masked": Redact(), "found": ClassifyTokens(), "sparse": EmbedSparse(top_k=5)}
    with client.stream(text, tasks) as stream:
        pieces = [each.results["masked"] for each in stream if "masked" in each.results]
    assert stream.summary is not None
    whole = stream.summary.results["masked"]
    assert whole.text == "".join(piece.text for piece in pieces)
    assert_maps(text, whole, lambda label: f"[{label}]")
    assert tuple(each.entity for each in whole.entities) == stream.summary.results["found"].entities
    ((_, answer),) = client.process([("long", text)], tasks)
    assert answer.results["masked"] == whole
    assert answer.results["found"] == stream.summary.results["found"]


async def test_a_stream_of_several_trunks_goes_on_at_the_next_server(head_models: Path, tmp_path: Path) -> None:
    address, text = f"unix:{tmp_path}/socket", prose(40_000)
    tasks: dict[str, Task] = {"vectors": Embed(segment_vectors=True), "masked": Redact(), "found": ClassifyTokens()}
    served = settings(model(TINY), model(str(head_models / "finder")), listen=(address,))
    async with AsyncClient(address, retry=Retry(patience=SOON)) as client:
        async with app.running(served) as first:
            whole = client.stream(text, tasks)
            expected = [each async for each in whole]
            stream = client.stream(text, tasks, timeout=SOON)
            got = [await anext(stream) for _ in range(7)]
            await first.stop_at_once()
        async with app.running(served):
            got += [each async for each in stream]
    assert [(each.trunk, each.segment.index) for each in got] == [(each.trunk, each.segment.index) for each in expected]
    assert stream.summary is not None
    assert whole.summary is not None
    results: dict[str, TaskResult] = dict(stream.summary.results)
    assert results["masked"] == whole.summary.results["masked"]
    assert results["found"] == whole.summary.results["found"]
    assert_maps(text, whole.summary.results["masked"], lambda label: f"[{label}]")


def test_a_model_that_does_not_support_a_task_is_refused(call: Call) -> None:
    for method, arguments in (("redact", (TEXT,)), ("analyze", (TEXT, {"r": Redact(model="sorter")}))):
        with pytest.raises(UnknownModel, match="sorter does not support redact"):
            call(method, *arguments, **({"model": "sorter"} if method == "redact" else {}))


def test_wrong_options_name_their_field(client: Client) -> None:
    with pytest.raises(InvalidArgument, match="labels") as caught:
        client.redact(TEXT, labels=["NOBODY"])
    assert caught.value.violations[0].field == "redact.entities.labels[0]"
    with pytest.raises(InvalidArgument, match="not a single string"):
        client.classify_tokens(TEXT, labels="PERSON")
    with pytest.raises(InvalidArgument, match="simple, first, average, max"):
        client.classify_tokens(TEXT, aggregation="mean")  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument) as caught:
        client.analyze(TEXT, {"c": Classify(min_score=2)})
    assert caught.value.violations[0].field == "tasks[0].classify.min_score"
    with pytest.raises(TypeError, match="a task must be one of Embed, ClassifyTokens"):
        client.analyze(TEXT, {"x": "embed"})  # type: ignore[dict-item]


def test_models_say_what_they_are_for(client: Client) -> None:
    found = {each.ref.name: each for each in client.models()}
    assert found["finder"].tasks == ("embed", "rank", "classify_tokens", "redact")
    assert found["finder"].labels == ("PERSON", "PLACE")
    assert (found["sorter"].multi_label, found["tagger"].multi_label) == (False, True)
    assert found["tagger"].labels == CLASSES
    assert (found["tagger"].trained_on, found["tagger"].trunk) == ("", "")


def test_results_are_shown_in_a_line_without_the_text(client: Client) -> None:
    answer = client.analyze(TEXT, TASKS)
    shown = repr(answer)
    assert f"Redaction(text=<{len(answer.results['masked'].text):,} characters>, entities=(RedactedEntity(" in shown
    assert "river" not in repr({**answer.results, "sparse": None})
    assert "Entity(char_start=0, char_end=" in shown
    assert " more>)" in shown
    assert len(shown) < 6000
    assert repr(client.classify("ship", top_k=1).result).endswith("segments=()),))")
