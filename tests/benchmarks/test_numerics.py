"""Taking an 8-bit model apart: without any part it is the original, with all of them it is the model that serves."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fidelity import cosines
from benchmarks.numerics import Parts, TakenApart
from benchmarks.runner import Engine
from server.config.schema import ModelSettings


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = ModelSettings(path="splade-tiny").folder
    if not folder.exists():
        pytest.skip("the model splade-tiny was not fetched (make setup)")
    return folder


def test_the_parts_make_up_the_whole(folder: Path) -> None:
    draw = np.random.default_rng(0)
    segments = [draw.integers(1000, 20_000, length).astype(np.int32) for length in (33, 200)]
    model = TakenApart(folder)
    original = model.vectors(segments, Parts())
    assert np.abs(original - Engine(folder, "fp32").embed(segments)).max() < 1e-4
    whole = model.vectors(segments, Parts(weights=True, activations=True, embeddings=True, states=True))
    served = Engine(folder, "int8").embed(segments)
    # What serves differs from what was taken apart by rounding alone: far less than both do from the original.
    assert (1 - cosines(whole, served) < 0.5 * (1 - cosines(whole, original))).all()
    for part in ("weights", "activations", "embeddings", "states"):
        assert (1 - cosines(model.vectors(segments, Parts(**{part: True})), original)).min() > 1e-8, part
