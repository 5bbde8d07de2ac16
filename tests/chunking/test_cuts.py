"""The rules of cutting, against their plainest form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunking import Cutting, CuttingError, Policy
from chunking.boundaries import Boundary
from chunking.cuts import HASHED, Keys, cuts, keys


def all_cuts(found: Keys, cutting: Cutting) -> list[int]:
    return list(cuts(found, cutting, final=True))


def plainly(found: list[int], cutting: Cutting) -> list[int]:
    """The content policy as its docstring says it, over the whole document."""
    ends, begin = [], 0
    while begin < len(found):
        end = min(begin + 2 * cutting.max_tokens, len(found))
        while end - begin > cutting.max_tokens:
            inner = range(begin + cutting.min_tokens, end - cutting.min_tokens + 1)
            end = min(reversed(inner), key=lambda at: found[at])
        ends.append(end)
        begin = end
    return ends


def drawn(seed: int, length: int, most: int) -> Keys:
    return np.random.default_rng(seed).integers(0, most, length, np.uint64, endpoint=True)


# Hypothesis by itself makes short lists; few different keys make many equal ones.
KEYS = st.builds(drawn, st.integers(0, 2**32), st.integers(0, 400), st.sampled_from([0, 3, 2**64 - 1]))
CUTTINGS = st.builds(
    Cutting, st.sampled_from(["content", "sentence", "fixed"]), st.integers(32, 64), st.integers(1, 16)
)


@given(KEYS, CUTTINGS, st.integers(1, 97))
def test_what_is_cut_step_by_step_is_cut_alike_at_once(found: Keys, cutting: Cutting, step: int) -> None:
    made: list[int] = []
    begin = 0
    for known in range(step, len(found), step):
        made += [begin + cut for cut in cuts(found[begin:known], cutting, final=False)]
        begin = made[-1] if made else 0
    made += [begin + cut for cut in cuts(found[begin:], cutting, final=True)]
    assert made == all_cuts(found, cutting)


@given(KEYS, CUTTINGS)
def test_segments_keep_to_the_bounds_and_own_every_token(found: Keys, cutting: Cutting) -> None:
    made = all_cuts(found, cutting)
    lengths = np.diff([0, *made])
    assert sum(lengths) == len(found)
    assert all(0 < length <= cutting.max_tokens for length in lengths)
    if cutting.policy != "fixed":
        assert all(length >= cutting.min_tokens for length in lengths[:-1])


@given(KEYS)
def test_the_content_policy_is_what_it_says(found: Keys) -> None:
    cutting = Cutting("content", 40, 10)
    assert all_cuts(found, cutting) == plainly([int(key) for key in found], cutting)


def by_kind(*kinds: Boundary) -> Keys:
    """Keys of equal hashes."""
    return keys(np.zeros(HASHED + len(kinds), np.int32), np.array(kinds, np.uint8))


def with_boundaries(length: int, at: dict[int, Boundary]) -> Keys:
    return by_kind(*(at.get(place, Boundary.TOKEN) for place in range(length)))


@pytest.mark.parametrize("policy", ["content", "sentence"])
@pytest.mark.parametrize("better", [Boundary.SENTENCE, Boundary.LINE, Boundary.WORD, Boundary.TOKEN])
def test_a_better_boundary_wins_wherever_it_is(policy: Policy, better: Boundary) -> None:
    worse = Boundary(better + 1)
    found = by_kind(*(better if place == 21 else worse for place in range(45)))
    assert all_cuts(found, Cutting(policy, 40, 10)) == [21, 45]


def test_sentences_are_packed() -> None:
    sentences = dict.fromkeys(range(0, 100, 7), Boundary.SENTENCE)
    assert all_cuts(with_boundaries(100, sentences), Cutting("sentence", 40, 10)) == [35, 70, 100]


def test_fixed_segments_are_full_whatever_ends_where() -> None:
    sentences = dict.fromkeys(range(0, 100, 7), Boundary.SENTENCE)
    assert all_cuts(with_boundaries(100, sentences), Cutting("fixed", 40, 10)) == [40, 80, 100]


@pytest.mark.parametrize("policy", ["content", "sentence", "fixed"])
def test_tokens_that_share_a_code_point_stay_together(policy: Policy) -> None:
    shared = dict.fromkeys(range(22, 41), Boundary.NONE)
    assert all_cuts(with_boundaries(41, shared), Cutting(policy, 40, 10))[0] <= 21


def test_a_remainder_that_fits_is_the_last_segment() -> None:
    sentences = dict.fromkeys(range(0, 40, 5), Boundary.SENTENCE)
    for policy in ("content", "sentence", "fixed"):
        assert all_cuts(with_boundaries(40, sentences), Cutting(policy, 40, 10)) == [40]


def test_a_key_depends_on_its_kind_and_eight_ids_alone() -> None:
    ids = np.arange(100, 100 + HASHED + 30, dtype=np.int32)
    kinds = np.full(30, Boundary.WORD, np.uint8)
    before = keys(ids, kinds)
    ids[:HASHED] = 7  # the last of these is covered by the first eight boundaries
    assert np.flatnonzero(keys(ids, kinds) != before).tolist() == list(range(HASHED))
    assert len(set(before.tolist())) == 30


def test_hashes_are_these_ones() -> None:
    """A change here is a change of FORMAT_VERSION: old segments would be cut otherwise."""
    found = keys(np.arange(HASHED + 2, dtype=np.int32), np.array([Boundary.SENTENCE, Boundary.WORD], np.uint8))
    assert [f"{int(key):016x}" for key in found] == ["00112bc525e04ed3", "02d521f2f4e7e8b5"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"policy": "random"}, "policy"),
        ({"max_tokens": 31}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 0}, "min_tokens"),
        ({"max_tokens": 100, "min_tokens": 51}, "min_tokens"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, object], field: str) -> None:
    with pytest.raises(CuttingError, match=field) as caught:
        Cutting(**settings)  # type: ignore[arg-type]
    assert caught.value.field == field
