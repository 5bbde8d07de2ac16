"""The engine that benchmarks measure is the server's runner, with runs packed as the scheduler packs them."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.protocol import Ids
from benchmarks.runner import Engine, even_budget, packed
from server.config.schema import ModelSettings
from server.inference.runner import CPU_BATCH_TOKENS

SEGMENTS: list[Ids] = [np.arange(length, dtype=np.int32) + 1 for length in (3, 9, 1, 5, 5)]


@pytest.mark.parametrize(
    ("budget", "lengths"),
    [(1, [[3], [9], [1], [5], [5]]), (8, [[3], [9], [1, 5], [5]]), (100, [[3, 9, 1, 5, 5]])],
)
def test_runs_hold_every_segment_once_in_order_within_the_budget(budget: int, lengths: list[list[int]]) -> None:
    assert [[len(ids) for ids in run] for run in packed(SEGMENTS, budget)] == lengths


def test_work_that_fits_one_run_is_split_between_the_streams() -> None:
    assert even_budget(SEGMENTS, 100, streams=2) == 12
    assert even_budget(SEGMENTS, 1, streams=2) == 1


def test_segments_share_runs_across_texts_and_each_gets_its_own_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _splade()
    engine = Engine(folder)
    sizes: list[int] = []
    run = engine.encoder.run

    def watched(batch, start, stop):  # type: ignore[no-untyped-def]
        sizes.append(sum(batch.lengths))
        return run(batch, start, stop)

    monkeypatch.setattr(engine.encoder, "run", watched)
    draw = np.random.default_rng(0)
    segments = [draw.integers(1000, 20_000, 64).astype(np.int32) for _ in range(12)]
    vectors = engine.embed_as_read(iter(segments))
    assert len(vectors) == len(segments)
    if engine.encoder.scheme == "int8":
        assert sorted(sizes) == [12 * 64 - CPU_BATCH_TOKENS, CPU_BATCH_TOKENS]
    for ids, vector in zip(segments, vectors, strict=True):
        np.testing.assert_allclose(engine.embed([ids])[0], vector, rtol=0, atol=1e-5)


def _splade() -> Path:
    folder = ModelSettings(path="splade-tiny").folder
    if not folder.exists():
        pytest.skip("the model splade-tiny was not fetched (make setup)")
    return folder
