"""Streams over cached states, whatever the task: cut at any segment and resumed, or of another head.

They say the same as streams without a cache, and compute nothing twice.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from octavo.v1 import inference_pb2 as pb
from server.config.schema import CacheSettings
from tests.models import head_alone, write_model
from tests.server.helpers import SOON, TINY, Events, Server, analyze, document, model, prose, serving, settings

QUERY = "who keeps the light house"
TASKS = {
    "embed": pb.Task(embed=pb.EmbedOptions(return_segment_vectors=True)),
    "spans": pb.Task(embed=pb.EmbedOptions(spans=[pb.Span(start=3, end=900), pb.Span(start=20, end=70)])),
    "classify_tokens": pb.Task(model="finder", classify_tokens=pb.ClassifyTokensOptions()),
    "redact": pb.Task(model="finder", redact=pb.RedactOptions()),
    "classify": pb.Task(model="sorter", classify=pb.ClassifyOptions(return_segments=True)),
    "classify_multi": pb.Task(model="tagger", classify=pb.ClassifyOptions(return_segments=True)),
    "embed_sparse": pb.Task(embed_sparse=pb.EmbedSparseOptions(return_segment_vectors=True)),
    "rank_dense": pb.Task(rank=pb.RankOptions(query=QUERY, method=pb.RANK_METHOD_DENSE)),
    "rank_sparse": pb.Task(rank=pb.RankOptions(query=QUERY, method=pb.RANK_METHOD_SPARSE)),
    "rank_pairs": pb.Task(model="pairs", rank=pb.RankOptions(query=QUERY)),
}


@pytest.fixture(scope="module")
def cached(models: Path, head_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of every task, with a cache."""
    folder = tmp_path_factory.mktemp("resumed")
    pairs = write_model(folder / "pairs", "sequence", models / TINY, ("relevant",))
    alone = head_alone(models / TINY, folder / "alone", ("O", "B-A", "I-A"), "tokens")
    heads = [model(str(head_models / name), "auto") for name in ("finder", "sorter", "tagger")]
    heads.append(model(str(alone)))
    cache = CacheSettings(dir=folder / "cache", secret_file=folder / "secret")
    served = settings(model(TINY, "auto"), *heads, model(str(pairs), "auto"))
    with serving(served.model_copy(update={"cache": cache})) as server:
        yield server


def stream(server: Server, text: str, task: pb.Task, cursor: str = "", mode: int = pb.CACHE_MODE_READ_WRITE) -> Events:
    cutting = pb.Segmentation(policy=pb.SEGMENTATION_POLICY_FIXED, max_tokens=64)
    options = pb.CallOptions(segmentation=cutting, cache_mode=mode)  # type: ignore[arg-type]
    request = pb.StreamSegmentsRequest(document=document(text), tasks=[task], options=options, cursor=cursor)
    return server.inference.StreamSegments(request, timeout=SOON)


def segments_of(events: Sequence[pb.StreamSegmentsResponse]) -> list[pb.SegmentResult]:
    segments = [event.segment for event in events if event.HasField("segment")]
    for each in segments:
        each.segment.ClearField("resumed_from_layer")
    return segments


@pytest.mark.parametrize("name", TASKS)
def test_a_stream_cut_at_any_segment_goes_on_where_it_was_and_computes_nothing_twice(cached: Server, name: str) -> None:
    cuts = 5
    for cut in range(cuts):
        text = prose(64 * cuts + 20, seed=1000 * list(TASKS).index(name) + cut)
        whole = list(stream(cached, text, TASKS[name], mode=pb.CACHE_MODE_BYPASS))
        expected = segments_of(whole)
        assert len(expected) == cuts + 1

        broken = stream(cached, text, TASKS[name])
        sent = segments_of([next(broken) for _ in range(cut + 2)])  # behind the header
        broken.cancel()
        analyze(cached, prose(5, seed=cut), TASKS["embed"])  # whatever was computed before it is kept by its end
        rest = list(stream(cached, text, TASKS[name], sent[-1].cursor))
        assert sent + segments_of(rest) == expected
        assert rest[-1].summary.results == whole[-1].summary.results
        missing = sum(each.segment.processed_tokens for each in expected[cut + 1 :])
        assert rest[-1].summary.info.usage.computed_tokens <= missing
        again = list(stream(cached, text, TASKS[name], sent[-1].cursor))
        assert again[-1].summary.info.usage.computed_tokens == 0


@pytest.mark.parametrize(
    "task", [pb.Task(model="alone", redact=pb.RedactOptions()), TASKS["embed_sparse"], TASKS["spans"]]
)
def test_a_further_head_on_many_known_states_says_what_a_cold_pass_says(cached: Server, task: pb.Task) -> None:
    text = prose(64 * 60, seed=7)
    list(stream(cached, text, TASKS["embed"]))
    warm, cold = (
        list(stream(cached, text, task, mode=mode)) for mode in (pb.CACHE_MODE_READ_ONLY, pb.CACHE_MODE_BYPASS)
    )
    assert warm[-1].summary.info.usage.computed_tokens == 0
    assert segments_of(warm) == segments_of(cold)
    assert len(segments_of(warm)) >= 60
    assert warm[-1].summary.results == cold[-1].summary.results
