"""Native attention against the same in plain PyTorch and a masked softmax in float64, its identity, and its work."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from encoder.ops import bytes as in_bytes
from encoder.ops.native import Native
from encoder.ops.reference import Reference, attention
from tests.encoder import native_forms
from tests.encoder.native_forms import LENGTHS, threads

WINDOWS = (0, 1, 16, 64, 128, 600)


@pytest.fixture(params=native_forms.fastest())
def native(request: pytest.FixtureRequest) -> Native:
    return native_forms.native(request.param)


def _random(tokens: int, heads: int, size: int, seed: int, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, 3 * heads * size, generator=draw) * spread).bfloat16()


def _visible(tokens: int, window: int) -> Tensor:
    """(tokens, tokens): which keys each query sees."""
    at = torch.arange(tokens)
    ends = (at == 0) | (at == tokens - 1)
    near = (at[:, None] - at).abs() <= window if window else torch.ones(tokens, tokens, dtype=torch.bool)
    return near | ends[:, None] | ends


def _hold(native: Native, qkv: Tensor, heads: int, windows: Sequence[int]) -> None:
    """The reference's numbers but for roundings that fall the other way, and close to what no rounding gives."""
    most = qkv.double().chunk(3, dim=1)[2].abs().max()
    for window in windows:
        found = native.attention(qkv, (qkv.shape[0],), heads, window).double()
        error = found - in_bytes.attention(qkv, (qkv.shape[0],), heads, window)
        exact = attention(qkv.double(), (qkv.shape[0],), heads, window)
        assert error.norm() <= 0.006 * exact.norm(), (qkv.shape, heads, window)
        assert error.abs().max() <= 0.01 * most, (qkv.shape, heads, window)
        assert (found - exact).norm() <= 0.03 * exact.norm(), (qkv.shape, heads, window)


def test_every_length_under_every_window_is_a_masked_softmax(native: Native) -> None:
    for tokens in range(1, 513):
        with threads(1):
            _hold(native, _random(tokens, 1, 32, tokens), 1, WINDOWS)


@pytest.mark.parametrize(("heads", "size"), [(2, 16), (3, 48), (2, 64), (1, 80), (1, 128)])
def test_every_head_size_that_is_a_multiple_of_16(native: Native, heads: int, size: int) -> None:
    for tokens in (1, 2, 31, 77, 301):
        _hold(native, _random(tokens, heads, size, tokens), heads, WINDOWS)


@pytest.mark.parametrize("spread", [4.0, 20.0, 1e9])
def test_scores_far_apart_choose_the_reference_s_keys(native: Native, spread: float) -> None:
    # Where a step of a score is whole powers of two, a rounding that falls the other way changes a query's context.
    for tokens in (1, 2, 17, 77, 301):
        qkv = _random(tokens, 2, 32, tokens)
        qkv[:, :128] *= spread
        for window in WINDOWS:
            expected = in_bytes.attention(qkv, (tokens,), 2, window)
            error = (native.attention(qkv, (tokens,), 2, window).double() - expected).abs().amax(1)
            assert error.quantile(0.85) < 0.03, (tokens, window)


def _one_head(tokens: int, favoured: int, powers: float, value: float) -> Tensor:
    """Equal queries that favour one key by so many powers of two, and small differences between the other values."""
    qkv = torch.zeros(tokens, 96)
    qkv[:, 0] = math.sqrt(32) * math.log(2)
    qkv[favoured, 32] = powers
    qkv[:, 64:] = 1 + torch.randn(tokens, 32, generator=torch.Generator().manual_seed(0)) / 10
    qkv[favoured, 64:] = value
    return qkv.bfloat16()


@pytest.mark.parametrize("window", [0, 200])
def test_weight_that_an_end_draws_does_not_drown_the_others(native: Native, window: int) -> None:
    for end in (0, 299):
        qkv = _one_head(300, end, 10.0, 0.0)
        found = native.attention(qkv, (300,), 1, window).double()
        exact = attention(qkv.double(), (300,), 1, window)
        assert 0.15 < exact[150].mean() < 0.3
        assert (found - exact).norm() <= 0.005 * exact.norm()


def test_weights_that_round_to_nothing_count_as_the_mean_of_the_values(native: Native) -> None:
    qkv = _one_head(300, 150, 9.5, 0.0)
    found, exact = native.attention(qkv, (300,), 1, 0).double(), attention(qkv.double(), (300,), 1, 0)
    assert 0.25 < exact.mean() < 0.35
    assert (found - exact).norm() <= 0.02 * exact.norm()


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
    # Tokens change places, so that means and scales of the whole segment stay.
    qkv = _random(300, 1, 32, 1)
    qkv[200:299, :] = (qkv[200:299, :] * 8).round() / 8  # whose sum is the same in any order
    changed = qkv.clone()
    changed[200:299] = qkv[200:299].roll(50, 0)
    before, after = (native.attention(each, (300,), 1, 16) for each in (qkv, changed))
    close = (before - after).abs().amax(1) < 1e-2
    assert close[1:184].all()
    assert not close[184:299].any()


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
    rows = {"amx": 32, "amx_emulated": 32, "generic": 24}.get(native.form, 12)
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
    with pytest.raises(ValueError, match=r"multiple|length|window"):
        native.attention(_random(40, 2, 32, 0), lengths, heads, window)
