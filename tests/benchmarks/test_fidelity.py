"""The measures of fidelity, on vectors whose answers are known."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("benchmarks.texts", reason="the texts are not there")

from benchmarks import fidelity
from benchmarks.peers.protocol import Ids, Vectors

GENERATOR = np.random.default_rng(3)


def test_cosines_ignore_length_and_see_direction() -> None:
    one = np.array([[1, 0], [1, 1], [0, 2]], np.float32)
    other = np.array([[5, 0], [1, 0], [0, -1]], np.float32)
    np.testing.assert_allclose(fidelity.cosines(one, other), [1, np.sqrt(0.5), -1])


def test_neighbours_are_sought_by_each_scheme_among_its_own_vectors() -> None:
    vectors = GENERATOR.normal(size=(60, 16)).astype(np.float32)
    rotation, _ = np.linalg.qr(GENERATOR.normal(size=(16, 16)))
    turned = (vectors @ rotation).astype(np.float32)  # other numbers, the same neighbours
    assert fidelity.overlaps(vectors, turned).mean() == 1.0
    unrelated = GENERATOR.normal(size=(60, 16)).astype(np.float32)
    assert fidelity.overlaps(vectors, unrelated).mean() < 0.5


def test_a_row_is_not_its_own_neighbour() -> None:
    angles = np.linspace(0, 1, 12)
    fan = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    without_self = fidelity.overlaps(fan, fan, nearest=11)
    assert (without_self == 1.0).all(), "eleven others are all there are"


def test_document_vectors_weigh_segments_by_owned_tokens() -> None:
    vectors = np.array([[4, 0], [0, 4], [3, 3]], np.float32)
    segments = [np.zeros(length + 2, np.int32) for length in (3, 1, 7)]
    made = fidelity.document_vectors(vectors, segments, [2, 1], specials=2)
    np.testing.assert_allclose(made, [[3 / np.sqrt(10), 1 / np.sqrt(10)], [np.sqrt(0.5)] * 2], rtol=1e-6)


def test_decisions_are_judged_by_what_was_learnt_from_fp32() -> None:
    labels = ["spam", "ham"] * 30
    centres = np.array([[1, 0], [-1, 0]] * 30)
    fp32 = (centres + GENERATOR.normal(scale=0.1, size=(60, 2))).astype(np.float32)
    same, ours, mirrored = fidelity.decisions(fp32, [fp32 * 1.0001, -fp32], labels)
    assert (same == np.array(labels)).all()
    assert (ours == same).all()
    assert (mirrored != same).all(), "a classifier trained on the mirrored vectors would not have noticed"


def test_kept_vectors_are_those_of_these_ids_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    computed: list[int] = []

    def compute(segments: Sequence[Ids]) -> Vectors:
        computed.append(len(segments))
        return np.array([[ids.sum()] for ids in segments], np.float32)

    embed = fidelity.kept(compute, deciding=b"model")
    a, b = np.array([1, 2], np.int32), np.array([3], np.int32)
    first, again = embed([a, b]), embed([a, b])
    assert computed == [2], "the second time it is read"
    np.testing.assert_array_equal(first, again)
    embed([np.array([1], np.int32), np.array([2, 3], np.int32)])  # the same ids, divided otherwise
    fidelity.kept(compute, deciding=b"another model")([a, b])
    assert computed == [2, 2, 2]
