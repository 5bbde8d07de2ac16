"""Affinity keys, and the choice of a replica."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.fleet.simulated import Replay
from server.fleet.affinity import affinity_key
from server.fleet.router import BOUND, IDLE_TOKENS, MEMORY_SECONDS, Router

NAMES = [f"10.0.0.{number}:50051" for number in range(20)]
DRAW = random.Random(8)
KEYS = [DRAW.getrandbits(64) for _ in range(4_000)]
DOCUMENT = 5_000.0


class Clock:
    """A time that stands still until a test moves it."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def words(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghij", k=draw.randint(2, 9))) for _ in range(count)]


def test_few_edits_of_a_long_text_change_its_key() -> None:
    text = words(3_000, 1)
    key = affinity_key(" ".join(text))
    places = range(0, 3_000, 3)
    moved = sum(key != affinity_key(" ".join([*text[:at], "another", "word", *text[at + 1 :]])) for at in places)
    assert 0 < moved <= 0.02 * len(places)


def test_texts_without_spaces_have_many_windows() -> None:
    draw = random.Random(2)
    text = "".join(chr(draw.randint(0x4E00, 0x9FFF)) for _ in range(2_000))
    moved = sum(affinity_key(text) != affinity_key(text[:at] + "新" + text[at:]) for at in range(0, 2_000, 20))
    assert moved <= 5


@given(st.text(max_size=300))
def test_any_text_has_a_key(text: str) -> None:
    assert 0 <= affinity_key(text) < 2**64


def test_texts_share_a_key_as_often_as_they_share_windows() -> None:
    same = 0
    for seed in range(200):
        shared = words(900, seed)
        one, other = (" ".join([*shared, *words(300, seed + more)]) for more in (1_000, 2_000))
        same += affinity_key(one) == affinity_key(other)
    assert 0.45 < same / 200 < 0.75  # 900 of 1,500


def test_each_replica_owns_its_part() -> None:
    router = Router(NAMES)
    owned = Counter(router.owner(key) for key in KEYS)
    assert len(owned) == len(NAMES)
    assert max(owned.values()) < 1.35 * len(KEYS) / len(NAMES)


def test_a_replica_that_joins_or_leaves_moves_only_its_own_keys() -> None:
    router, more = Router(NAMES[:-1]), Router(NAMES)
    before = [router.owner(key) for key in KEYS]
    after = [more.owner(key) for key in KEYS]
    assert all(new in {old, NAMES[-1]} for old, new in zip(before, after, strict=True))
    assert 0.02 < sum(new == NAMES[-1] for new in after) / len(KEYS) < 0.09
    more.replace(NAMES[:-1])
    assert [more.owner(key) for key in KEYS] == before


def test_while_there_is_room_a_document_goes_to_its_owner() -> None:
    router = Router(NAMES, Clock())
    assert all(router.route(key, 10.0) == router.owner(key) for key in KEYS[:500])


def test_an_idle_replica_takes_a_document_of_any_length() -> None:
    router = Router(NAMES, Clock())
    assert router.route(KEYS[0], 100 * IDLE_TOKENS) == router.owner(KEYS[0])


def test_no_replica_is_over_the_bound_however_popular_a_document() -> None:
    router = Router(NAMES, Clock())
    for number in range(20_000):
        router.route(KEYS[number % 3], DOCUMENT)
    loads = router.loads.values()
    assert max(loads) <= BOUND * sum(loads) / len(loads)


def test_what_is_answered_from_layers_weighs_its_price() -> None:
    router = Router(NAMES, Clock())
    for _ in range(100):
        name = router.route(KEYS[0], DOCUMENT)
        assert name == router.owner(KEYS[0])
        router.settle(name, DOCUMENT, 0.01 * DOCUMENT)
    assert router.loads[name] == pytest.approx(DOCUMENT)


def test_loads_fade_also_after_a_year() -> None:
    clock = Clock()
    router = Router(NAMES, clock)
    name = router.route(KEYS[0], DOCUMENT)
    clock.now = MEMORY_SECONDS
    assert router.loads[name] == pytest.approx(DOCUMENT / 2.718281828)
    clock.now = 365 * 86_400.0
    assert router.loads[name] == pytest.approx(0)
    name = router.route(KEYS[0], DOCUMENT)
    assert router.loads[name] == pytest.approx(DOCUMENT)


def test_replicas_that_stay_keep_their_loads_and_late_answers_of_others_are_ignored() -> None:
    router = Router(NAMES, Clock())
    left = router.route(KEYS[0], DOCUMENT)
    stays = router.route(next(key for key in KEYS if router.owner(key) != left), DOCUMENT)
    router.replace([name for name in NAMES if name != left])
    router.settle(left, DOCUMENT, 1.0)
    assert router.loads[stays] == DOCUMENT
    assert left not in router.loads
    with pytest.raises(ValueError, match="at least one replica"):
        router.replace([])


def test_simulated_traffic_finds_its_layers_in_a_small_fleet() -> None:
    replayed = Replay(10, seed=1).run(4_000)
    assert replayed.hits > 0.93
    assert replayed.imbalance < 1.3
