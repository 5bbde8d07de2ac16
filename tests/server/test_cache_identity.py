"""The cache never changes an answer: off, cold, warm, edited, restarted, shared, damaged."""

import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cache import Kind, RunFields, SegmentFields
from chunking import RegionTokens, Tokens
from octavo.v1 import inference_pb2 as pb
from server.config.schema import CacheSettings, ModelSettings, Settings
from server.inference.cache_view import layout_fields, rows_of, tokens_of
from server.inference.pipeline import Pipeline
from tests.server.helpers import SOON, TINY, Server, model, prose, serving, settings

TEXT = prose(4000)
EDITED = TEXT[: len(TEXT) // 2] + " One more sentence stands here. " + TEXT[len(TEXT) // 2 :]
READ_WRITE, READ_ONLY, REFRESH, BYPASS = (pb.CacheMode.values()[i] for i in (1, 2, 3, 4))


def cached(folder: Path, *models: ModelSettings, **cache: Any) -> Settings:
    plain = settings(*(models or (model(TINY, "auto"),)))
    return plain.model_copy(update={"cache": CacheSettings(dir=folder, **cache)})


def analyze(server: Server, text: str, *, mode: int = 0, pooling: int = 0, model: str = "") -> pb.AnalyzeResponse:
    embed = pb.EmbedOptions(return_segment_vectors=True, pooling=pb.Pooling.Name(pooling))
    options = pb.CallOptions(cache_mode=pb.CacheMode.Name(mode), model=model)
    tasks = [pb.Task(name="e", embed=embed)]
    return server.inference.Analyze(pb.AnalyzeRequest(document=pb.Document(text=text), options=options, tasks=tasks))


def computed(answer: pb.AnalyzeResponse) -> int:
    return sum(not info.resumed_from_layer for info in answer.segments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def warm(models: Path, folder: Path) -> Iterator[Server]:
    """A server whose cache knows TEXT."""
    with serving(cached(folder)) as server:
        analyze(server, TEXT)
        yield server


@pytest.fixture(scope="module")
def truth(server: Server) -> dict[str, pb.AnalyzeResponse]:
    """Answers of a server without a cache."""
    return {text: analyze(server, text) for text in (TEXT, EDITED)}


def test_a_repeat_computes_nothing_and_is_the_same_bits(warm: Server, truth: dict[str, pb.AnalyzeResponse]) -> None:
    again = analyze(warm, TEXT)
    assert again.results == truth[TEXT].results
    assert computed(again) == 0
    assert again.info.usage.cached_tokens == again.info.usage.processed_tokens
    assert {info.resumed_from_layer for info in again.segments} == {2}


def test_an_edit_computes_the_edit_and_is_the_same_bits(warm: Server, truth: dict[str, pb.AnalyzeResponse]) -> None:
    edited = analyze(warm, EDITED, mode=READ_ONLY)
    assert edited.results == truth[EDITED].results
    assert 1 <= computed(edited) <= 4
    assert len(edited.segments) >= 10


@pytest.mark.parametrize(
    ("last", "end", "dtype"),
    [(65_535, 65_535, np.uint16), (65_536, 9, np.int32), (250_001, 9, np.int32), (9, 65_536, np.int32)],
)
def test_tokens_come_back_as_they_were(last: int, end: int, dtype: type) -> None:
    edges = np.array([0, 3, end])
    kinds = np.array([4, 0], np.uint8)
    rows = rows_of(RegionTokens(Tokens(np.array([7, last], np.int32), edges[:-1], edges[1:]), kinds))
    assert rows.dtype == dtype
    read = tokens_of(rows)
    assert (read.tokens.ids.tolist(), read.tokens.starts.tolist(), read.tokens.ends.tolist()) == (
        [7, last],
        [0, 3],
        [3, end],
    )
    assert read.kinds.tolist() == [4, 0]
    assert [each.dtype for each in (read.tokens.ids, read.tokens.starts, read.kinds)] == [np.int32, np.int64, np.uint8]


def test_another_head_reads_states_and_computes_no_layer(warm: Server, server: Server) -> None:
    other = analyze(warm, TEXT, pooling=2)
    assert computed(other) == 0
    assert other.results == analyze(server, TEXT, pooling=2).results


def test_a_short_document_is_read_in_one_hop_with_its_states(warm: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hops: list[object] = []
    aside = Pipeline.aside

    def counted(*arguments: Any) -> Any:
        hops.append(arguments)
        return aside(*arguments)

    monkeypatch.setattr(Pipeline, "aside", counted)
    for text, pooling in ((prose(50, seed=1), 0), (prose(50, seed=1), 2)):  # computed, and from its state
        hops.clear()
        analyze(warm, text, pooling=pooling)
        assert len(hops) == 1


def test_a_copy_of_a_document_later_in_the_call_is_not_computed_again(
    warm: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.inference.service.DOCUMENTS_AT_ONCE", 1)
    documents = [pb.Document(text=prose(50, seed=2))] * 3
    usage = warm.inference.Embed(pb.EmbedRequest(documents=documents)).info.usage
    assert usage.computed_tokens == usage.processed_tokens / 3


def test_another_head_reads_states_of_float32_from_disk(models: Path, tmp_path: Path) -> None:
    with serving(cached(tmp_path, model(TINY, "fp32"))) as server:
        analyze(server, TEXT)
        truth = analyze(server, TEXT, pooling=2, mode=BYPASS)
    with serving(cached(tmp_path, model(TINY, "fp32"))) as server:  # into the same memory, and unconverted
        other = analyze(server, TEXT, pooling=2)
    assert computed(other) == 0
    assert other.results == truth.results


def test_spans_are_answered_from_states(warm: Server, server: Server) -> None:
    tasks = [pb.Task(name="e", embed=pb.EmbedOptions(spans=[pb.Span(start=5, end=9000)]))]
    request = pb.AnalyzeRequest(document=pb.Document(text=TEXT), tasks=tasks)
    ours = warm.inference.Analyze(request)
    assert ours.results == server.inference.Analyze(request).results
    assert computed(ours) == 0


@pytest.mark.parametrize("mode", [REFRESH, BYPASS])
def test_who_wants_nothing_from_the_cache_gets_everything_computed(
    warm: Server, truth: dict[str, pb.AnalyzeResponse], mode: int
) -> None:
    fresh = analyze(warm, TEXT, mode=mode)
    assert fresh.results == truth[TEXT].results
    # Segments that are alike within the document are computed once, whoever asks.
    assert fresh.info.usage.computed_tokens > 0.8 * fresh.info.usage.processed_tokens


@pytest.mark.parametrize(("mode", "kept"), [(READ_WRITE, True), (REFRESH, True), (READ_ONLY, False), (BYPASS, False)])
def test_only_modes_that_write_leave_something(warm: Server, mode: int, kept: bool) -> None:
    text = prose(600, seed=100 + mode)
    analyze(warm, text, mode=mode)
    again = analyze(warm, text, mode=READ_ONLY)
    assert (computed(again) == 0) == kept


def test_bulk_calls_leave_something_at_second_sight(warm: Server) -> None:
    text = prose(900, seed=77)
    request = pb.AnalyzeRequest(document=pb.Document(text=text), tasks=[pb.Task(name="e", embed=pb.EmbedOptions())])
    request.options.priority = pb.PRIORITY_BULK
    answers = [warm.inference.Analyze(request) for _ in range(3)]
    assert [computed(answer) > 0 for answer in answers] == [True, True, False]
    assert answers[0].results == answers[1].results == answers[2].results


def test_answers_are_the_same_after_a_restart(
    models: Path, tmp_path: Path, truth: dict[str, pb.AnalyzeResponse]
) -> None:
    with serving(cached(tmp_path)) as first:
        analyze(first, TEXT)
    with serving(cached(tmp_path)) as second:
        again = analyze(second, TEXT)
        assert computed(again) == 0
        assert again.results == truth[TEXT].results
        assert second.sample("cache_events_total", event="disk_hit", kind="result") == len(again.segments)


def test_more_cuts_change_no_answer(models: Path, tmp_path: Path, truth: dict[str, Any]) -> None:
    for _ in ("cold", "restarted"):
        with serving(cached(tmp_path, cuts=(1,), results=False)) as server:
            answer = analyze(server, TEXT)
            assert answer.results == truth[TEXT].results
    assert computed(answer) == 0


def test_a_model_that_differs_in_its_top_layer_finds_the_lower_ones_states(models: Path, tmp_path: Path) -> None:
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    for file in (models / TINY).iterdir():
        if file.is_file() and file.suffix == ".json":
            (tuned / file.name).write_bytes(file.read_bytes())
    tensors = load_file(models / TINY / "model.safetensors")
    (name,) = (name for name in tensors if name.endswith("layer.1.output.dense.weight"))
    save_file({**tensors, name: tensors[name] * np.float32(1.01)}, tuned / "model.safetensors")
    both = (model(TINY, "auto"), model(str(tuned), "auto"))
    with serving(cached(tmp_path / "cache", *both)) as server:
        known = analyze(server, TEXT)
    for mode in (READ_ONLY, READ_WRITE):
        with serving(cached(tmp_path / "cache", *both)) as server:  # from disk, segment by segment
            resumed = analyze(server, TEXT, model="tuned", mode=mode)
            assert {info.resumed_from_layer for info in resumed.segments} == {1}
            assert resumed.results == analyze(server, TEXT, model="tuned", mode=BYPASS).results
            assert resumed.results != known.results


def test_segments_price_tells_what_would_be_computed(warm: Server) -> None:
    def uncached(text: str) -> int:
        return warm.inference.Segment(pb.SegmentRequest(document=pb.Document(text=text))).uncached_tokens

    assert uncached(TEXT) == 0
    expected = analyze(warm, EDITED, mode=READ_ONLY).info.usage.computed_tokens
    assert uncached(EDITED) == expected > 0


def test_a_sample_of_hits_is_computed_again_and_agrees(models: Path, tmp_path: Path) -> None:
    with serving(cached(tmp_path, verify=1.0)) as server:
        deadline = time.monotonic() + SOON
        while not server.sample("cache_verified_total", outcome="agrees") and time.monotonic() < deadline:
            analyze(server, TEXT)
        assert server.sample("cache_verified_total", outcome="agrees") > 0
        assert server.sample("cache_verified_total", outcome="disagrees") == 0


@pytest.mark.parametrize("field", [field.name for field in fields(RunFields)])
def test_each_field_of_a_run_changes_the_key(field: str) -> None:
    from cache import KeyMaker

    run = RunFields("t", "a", b"l", 2, "int8", b"n", None)
    others: dict[str, Any] = {"layers": b"x", "cut": 1, "numerics": b"x", "window": 64}
    changed = replace(run, **{field: others.get(field, "x")})
    keys, segment = KeyMaker(bytes(32)), SegmentFields(layout_fields(9), np.arange(9, dtype=np.int32))
    assert keys.state(run, segment) != keys.state(changed, segment)
    assert keys.state(run, segment).kind is Kind.STATE


@pytest.mark.parametrize("field", [field.name for field in fields(SegmentFields)])
def test_each_field_of_a_segment_changes_the_key(field: str) -> None:
    from cache import KeyMaker

    run = RunFields("t", "a", b"l", 2, "int8", b"n", None)
    segment = SegmentFields(layout_fields(9), np.arange(9, dtype=np.int32))
    other: Any = layout_fields(10) if field == "layout" else np.arange(1, 10, dtype=np.int32)
    keys = KeyMaker(bytes(32))
    assert keys.state(run, segment) != keys.state(run, replace(segment, **{field: other}))
