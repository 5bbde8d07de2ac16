"""The 8-bit operations of the reference against their formulas."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encoder.layers import Linear, Norm
from encoder.ops import Linear8, Quantiser, Rows
from encoder.ops.probe import exact
from encoder.ops.reference import Reference
from encoder.quantise import POSITIVE, SIGNED, QuantisedLinear, quantise_linear, quantise_rows

TOKENS, INPUTS, OUTPUTS = 19, 96, 80


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_with_outliers(tokens: int = TOKENS) -> Tensor:
    x = draw(tokens, INPUTS, seed=1)
    x[:, [3, 40]] *= 30
    return x.bfloat16()


@pytest.fixture
def linear() -> Linear:
    return Linear(draw(OUTPUTS, INPUTS, seed=2) / 10, draw(OUTPUTS, seed=3))


@pytest.fixture
def quantised(linear: Linear) -> QuantisedLinear:
    return quantise_linear(linear, rows_with_outliers(400).float())


def restored(rows: Rows, to: Quantiser) -> Tensor:
    x = (rows.q.float() - to.zero) * rows.scale[:, None]
    x[:, to.columns] = rows.outliers.float()
    return x


def as_defined(rows: Rows, linear: Linear8, weight: Tensor) -> Tensor:
    """The linear map as `encoder.ops` defines it, in float64 from the integers."""
    integers = (rows.q.long() - linear.input.zero) @ weight.long().t()
    y = integers.double() * linear.scale.double() * rows.scale.double()[:, None]
    return y + rows.outliers.double() @ linear.outlier_weight.double() + linear.bias.double()


@pytest.mark.parametrize("zero", [SIGNED, POSITIVE, 1, 254])
def test_rows_come_back_within_half_a_step(zero: int) -> None:
    factor = torch.ones(INPUTS)
    factor[[3, 40]] = 0
    to = Quantiser(torch.tensor([3, 40], dtype=torch.int32), factor, zero)
    x = rows_with_outliers()
    rows = Reference().quantise(x, to)
    assert rows.q.dtype == torch.uint8
    assert torch.equal(rows.outliers, x[:, [3, 40]])
    assert (rows.q[:, [3, 40]] == zero).all()
    error = (restored(rows, to) - x.float()).abs()
    assert (error <= rows.scale[:, None] * 0.501).all()
    # The scale is as small as it can be: some number of each row lies at an end of the range.
    extremes = (rows.q == 0) | (rows.q == 255)
    assert extremes.any(1).all()


def test_a_row_of_zeros_is_zeros() -> None:
    to = Quantiser(torch.empty(0, dtype=torch.int32), torch.ones(INPUTS), SIGNED)
    rows = Reference().quantise(torch.zeros(2, INPUTS, dtype=torch.bfloat16), to)
    assert (rows.q == SIGNED).all()
    assert (rows.scale == 0).all()


@pytest.mark.parametrize("zero", [SIGNED, POSITIVE])
def test_the_linear_map_is_what_is_defined(quantised: QuantisedLinear, zero: int) -> None:
    form = Reference()
    packed = quantised.pack(form, zero)
    rows = form.quantise(rows_with_outliers(), packed.input)
    expected = as_defined(rows, packed, quantised.weight)
    error = (form.linear(rows, packed).double() - expected).abs() / expected.abs().max()
    assert error.max() < 2**-8


def test_the_linear_map_is_close_to_the_one_that_was_quantised(linear: Linear, quantised: QuantisedLinear) -> None:
    packed = quantised.pack(Reference(), SIGNED)
    x = rows_with_outliers()
    y = Reference().linear(Reference().quantise(x, packed.input), packed).float()
    assert torch.cosine_similarity(y, linear(x.float())).min() > 0.999


def test_neither_threads_nor_rows_beside_change_a_row(quantised: QuantisedLinear) -> None:
    form = Reference()
    packed = quantised.pack(form, SIGNED)
    norm = Norm(draw(OUTPUTS, seed=5), draw(OUTPUTS, seed=6), 1e-12)
    to = Quantiser(torch.tensor([2], dtype=torch.int32), torch.ones(OUTPUTS), POSITIVE)
    x, residual = rows_with_outliers(901), draw(901, OUTPUTS).bfloat16()

    def results(part: slice) -> list[Tensor]:
        rows = form.quantise(x[part], packed.input)
        wide = form.linear_activate_quantise(rows, packed, "gelu", to)
        state, _ = form.linear_norm_quantise(rows, packed, residual[part], norm, to)
        return [rows.q, form.linear(rows, packed), wide.q, wide.scale, wide.outliers, state]

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    expected = results(slice(0, 901))
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            for part in (slice(0, 901), slice(7, 8), slice(300, 777)):
                for ours, whole in zip(results(part), expected, strict=True):
                    assert torch.equal(ours, whole[part])
    finally:
        torch.set_num_threads(before)


def test_activation_and_norm_follow_the_linear_map(quantised: QuantisedLinear) -> None:
    form = Reference()
    packed = quantised.pack(form, SIGNED)
    rows = form.quantise(rows_with_outliers(), packed.input)
    y = as_defined(rows, packed, quantised.weight)
    to = Quantiser(torch.empty(0, dtype=torch.int32), torch.ones(OUTPUTS), POSITIVE)

    wide = form.linear_activate_quantise(rows, packed, "gelu", to)
    assert ((restored(wide, to) - functional.gelu(y)).abs() <= wide.scale[:, None] * 0.502).all()

    norm = Norm(draw(OUTPUTS, seed=5), draw(OUTPUTS, seed=6), 1e-12)
    residual = draw(TOKENS, OUTPUTS, seed=7).bfloat16()
    state, _ = form.linear_norm_quantise(rows, packed, residual, norm, None)
    expected = functional.layer_norm(y + residual, (OUTPUTS,), norm.weight.double(), norm.bias.double(), 1e-12)
    assert (state.double() - expected).abs().max() < 2**-8 * expected.abs().max()


def test_rows_of_a_state_are_those_of_the_rounded_state(quantised: QuantisedLinear) -> None:
    form = Reference()
    packed = quantised.pack(form, SIGNED)
    rows = form.quantise(rows_with_outliers(), packed.input)
    norm = Norm(torch.ones(OUTPUTS), torch.zeros(OUTPUTS), 1e-12)
    to = Quantiser(torch.tensor([2], dtype=torch.int32), torch.ones(OUTPUTS), SIGNED)
    state, above = form.linear_norm_quantise(rows, packed, draw(TOKENS, OUTPUTS).bfloat16(), norm, to)
    again = form.quantise(state, to)
    assert above is not None
    assert torch.equal(above.q, again.q)
    assert torch.equal(above.scale, again.scale)


def test_weights_are_kept_as_bitsandbytes_keeps_them() -> None:
    from bitsandbytes.functional import int8_vectorwise_quant

    weight = draw(OUTPUTS, INPUTS)
    theirs, peaks, _ = int8_vectorwise_quant(weight.half())
    ours, scale = quantise_rows(weight.half().float())
    assert (ours.int() - theirs.int()).abs().max() <= 1  # a tie rounds either way
    assert torch.allclose(scale * 127, peaks.float())


class Saturating(Reference):
    """Products as they come out without VNNI: pairs are added in 16 bits."""

    name = "saturating"

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        pairs = (q.long()[:, None] * packed.long()).view(len(q), len(packed), -1, 2).sum(-1).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(-1) - zero * packed.long().sum(1)).float()


def test_the_probe_tells_products_that_saturate() -> None:
    assert exact(Reference())
    assert not exact(Saturating())


def test_the_probe_tells_products_that_forget_the_zero_point() -> None:
    class Forgetful(Reference):
        def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
            return super().product(q, packed, SIGNED)

    assert not exact(Forgetful())
