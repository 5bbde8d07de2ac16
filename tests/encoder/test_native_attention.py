"""Native attention against a masked softmax in float64, its identity, and the work it does."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from encoder.native import library
from encoder.ops.native import Native
from encoder.ops.reference import Reference
from tests.encoder import native_sets
from tests.encoder.native_sets import LENGTHS, threads

WINDOWS = (0, 1, 16, 64, 128, 600)


@pytest.fixture(params=native_sets.instruction_sets())
def native(request: pytest.FixtureRequest) -> Native:
    return native_sets.native(request.param)


def _random(tokens: int, heads: int, size: int, seed: int, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, 3 * heads * size, generator=draw) * spread).bfloat16()


def _visible(tokens: int, window: int) -> Tensor:
    """(tokens, tokens): which keys each query sees."""
    at = torch.arange(tokens)
    ends = (at == 0) | (at == tokens - 1)
    near = (at[:, None] - at).abs() <= window if window else torch.ones(tokens, tokens, dtype=torch.bool)
    return near | ends[:, None] | ends


def _expected(qkv: Tensor, heads: int, windows: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each window, attention of one segment in float64, and the same over the values' absolute values."""
    tokens = qkv.shape[0]
    queries, keys, values = qkv.double().view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
    scores = queries @ keys.transpose(1, 2) / queries.shape[-1] ** 0.5
    both = torch.cat([values, values.abs()], dim=-1)
    for window in windows:
        # Each query's own maximum among the keys it sees, or what it sees may vanish beside what it does not.
        weights = scores.masked_fill(~_visible(tokens, window), -torch.inf).softmax(-1)
        context, reach = (weights @ both).transpose(0, 1).chunk(2, dim=-1)
        yield window, context.flatten(1), reach.flatten(1)


def _hold(native: Native, qkv: Tensor, heads: int, windows: Sequence[int]) -> None:
    """Each number within 1.5 % of what its weights could make of the values, and the whole within 0.6 %.

    A weight is off by 0.59 % at most, and so is their sum; rounding the result adds 0.2 %.
    """
    for window, expected, reach in _expected(qkv, heads, windows):
        found = native.attention(qkv, (qkv.shape[0],), heads, window).double()
        error = found - expected
        assert (error.abs() <= 0.015 * reach + 1e-30).all(), (qkv.shape, heads, window)
        assert error.norm() <= 0.006 * expected.norm(), (qkv.shape, heads, window)


def test_every_length_under_every_window_is_a_masked_softmax(native: Native) -> None:
    best = native.instruction_set == library.permitted_sets()[0]
    for tokens in range(1, 513):
        windows = WINDOWS if best else WINDOWS[tokens % len(WINDOWS) :][:1]
        with threads(1):
            _hold(native, _random(tokens, 1, 32, tokens), 1, windows)


@pytest.mark.parametrize(("heads", "size"), [(2, 16), (3, 48), (2, 64), (1, 80), (1, 128)])
def test_every_head_size_that_is_a_multiple_of_16(native: Native, heads: int, size: int) -> None:
    for tokens in (1, 2, 31, 77, 301):
        _hold(native, _random(tokens, heads, size, tokens), heads, WINDOWS)


@pytest.mark.parametrize("spread", [4.0, 20.0])
def test_scores_beyond_the_safe_exponents_are_shifted_by_their_maximum(native: Native, spread: float) -> None:
    for tokens in (1, 17, 77, 301):
        _hold(native, _random(tokens, 2, 32, tokens, spread), 2, WINDOWS)


def test_scores_of_hundreds_that_cancel_give_no_infinity(native: Native) -> None:
    qkv = torch.ones(64, 96).bfloat16()
    qkv[:, :32] *= 100
    qkv[:, 32:64] *= -100  # each score is −100 · 100 · 32 / √32
    assert torch.equal(native.attention(qkv, (64,), 1, 0), qkv[:, 64:])


def test_a_number_that_is_none_shows(native: Native) -> None:
    qkv = _random(40, 2, 32, 0)
    qkv[7, 70] = torch.nan
    context = native.attention(qkv, (40,), 2, 4)
    assert context[:, :32].isnan().all() != context[:, 32:].isnan().all()


def test_what_lies_outside_the_window_is_not_read(native: Native) -> None:
    qkv, other = _random(300, 1, 32, 1), _random(300, 1, 32, 2)
    changed = qkv.clone()
    changed[200:299] = other[200:299]
    before, after = (native.attention(each, (300,), 1, 16) for each in (qkv, changed))
    assert torch.equal(before[1:184], after[1:184])
    assert not torch.equal(before[184], after[184])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("window", [0, 16, 64])
def test_a_segment_has_its_bits_alone_and_among_others_on_anythreads(native: Native, window: int) -> None:
    parts = [_random(length, 3, 32, length) for length in LENGTHS]
    for count in (1, 2):
        with threads(count):
            alone = [native.attention(part, (len(part),), 3, window) for part in parts]
            together = native.attention(torch.cat(parts), LENGTHS, 3, window)
            reverse = native.attention(torch.cat(parts[::-1]), LENGTHS[::-1], 3, window)
        assert torch.equal(torch.cat(alone), together)
        assert torch.equal(torch.cat(alone[::-1]), reverse)
        if count == 1:
            single = together
    assert torch.equal(single, together)


def _work(native: Native, tokens: int, window: int) -> int:
    _, work = native.attention_and_work(_random(tokens, 2, 32, 0), (tokens,), 2, window)
    assert work is not None
    return work // 2


def test_blocks_outside_the_window_are_skipped(native: Native) -> None:
    rows = 32 if native.instruction_set.startswith("amx") else 12
    for tokens in (301, 453, 512):
        assert tokens**2 <= _work(native, tokens, 0) <= tokens * (tokens + 15)
        for window in (1, 16, 64):
            # A query of a block computes its window, the block's other windows, and whole panels of 32 at either
            # side; 16 for the ends; and the two ends see everything.
            each = 2 * window + rows + 2 * 31 + 16
            needed = int(_visible(tokens, window).sum())
            assert needed <= _work(native, tokens, window) <= tokens * each + 2 * (tokens + 15)
    assert _work(native, 512, 64) < 0.45 * _work(native, 512, 0)


def test_a_window_that_hides_nothing_costs_and_gives_what_none_does(native: Native) -> None:
    qkv = _random(77, 2, 32, 0)
    whole, work = native.attention_and_work(qkv, (77,), 2, 0)
    windowed, same = native.attention_and_work(qkv, (77,), 2, 75)
    assert torch.equal(whole, windowed)
    assert work == same


def test_other_head_sizes_fall_to_the_reference(native: Native) -> None:
    qkv = _random(33, 2, 24, 0)
    context, work = native.attention_and_work(qkv, (20, 13), 2, 4)
    assert work is None
    assert torch.equal(context, Reference().attention(qkv, (20, 13), 2, 4))


@pytest.mark.parametrize(
    ("lengths", "heads", "window"), [((39,), 2, 0), ((41,), 2, 0), ((41, -1), 2, 0), ((40,), 0, 0), ((40,), 2, -1)]
)
def test_what_makes_no_sense_is_refused(native: Native, lengths: tuple[int, ...], heads: int, window: int) -> None:
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        native.attention(_random(40, 2, 32, 0), lengths, heads, window)
