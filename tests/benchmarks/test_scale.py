"""The `scale` scenario: which documents come when, and how a round's times become a figure."""

import pytest

from benchmarks import workloads
from benchmarks.figures import Curve, Figure, Missing
from benchmarks.scale import figures_of, order
from benchmarks.streaming import Streamed


def test_the_longest_document_stands_between_documents_of_10k() -> None:
    sizes = order(1_000_000)
    assert set(sizes) == {1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000}
    at = sizes.index(1_000_000)
    assert sizes[at - 1] == sizes[at + 1] == sizes[0] == 10_000
    assert sizes.count(1_000_000) == 1


def test_time_a_token_is_compared_within_a_round() -> None:
    # The second round's machine is twice as slow; a token of the long document costs a tenth more in both.
    measured = {
        10_000: [[Streamed(10_000, 0.1, 1.0, 100.0)] * 3, [Streamed(10_000, 0.1, 2.0, 100.0)] * 3],
        100_000: [[Streamed(100_000, 0.1, 11.0, 110.0)], [Streamed(100_000, 0.1, 22.0, 110.0)]],
    }
    figures = figures_of(measured)
    flat = figures["scale_flat"]
    assert isinstance(flat, Figure)
    assert flat.value == pytest.approx(1.1)
    speed = figures["speed.100000"]
    assert isinstance(speed, Figure)
    assert speed.value == pytest.approx((100_000 / 11 + 100_000 / 22) / 2)
    curve = figures["scale_cost.streamed"]
    assert isinstance(curve, Curve)
    assert curve.x == (10_000, 100_000)


def test_memory_that_cannot_be_seen_is_missing_and_not_drawn() -> None:
    measured = {size: [[Streamed(size, 0.1, 1.0, None)]] for size in (10_000, 100_000)}
    figures = figures_of(measured)
    assert isinstance(figures["peak_mib.10000"], Missing)
    assert "scale_memory.server" not in figures
    assert "scale_wait.all" in figures


def test_consecutive_texts_have_nothing_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    words = " ".join(f"w{number:05d}" for number in range(4_000))
    monkeypatch.setattr(workloads, "_addresses", lambda: iter([words]))
    texts = workloads.consecutive([500, 1_000, 2_000], start=0.5)
    found = [set(text.split()[1:-1]) for text in texts]  # the words at the ends may be cut
    assert sum(map(len, found)) == len(set.union(*found))
    assert len(texts[1]) == pytest.approx(2 * len(texts[0]), rel=0.01)
    assert "w02001" in found[0]
    with pytest.raises(ValueError, match="the addresses have about"):
        workloads.consecutive([4_000, 4_000])
