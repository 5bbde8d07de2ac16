"""Native 8-bit operations against their definition in float64, and whole layers against the operations."""

import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from encoder.families import Activation
from encoder.layers import Linear, Norm
from encoder.ops import Layer8, Linear8, Quantiser, Rows
from encoder.ops.native import Native
from encoder.ops.probe import exact
from encoder.ops.reference import Reference
from encoder.quantise import POSITIVE, SIGNED, QuantisedLinear
from tests.encoder import native_forms
from tests.encoder.native_forms import LENGTHS, threads

ACTIVATIONS: tuple[Activation, ...] = ("gelu", "gelu_tanh", "relu")


@pytest.fixture(params=native_forms.fastest())
def native(request: pytest.FixtureRequest) -> Native:
    return native_forms.native(request.param)


class Draw:
    """Random tensors, the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def columns(self, outliers: int, inputs: int) -> Tensor:
        return torch.randperm(inputs, generator=self._generator)[:outliers].sort().values.int()

    def quantiser(self, inputs: int, outliers: int, zero: int) -> Quantiser:
        """With factors other than one, as smoothing has them."""
        columns = self.columns(outliers, inputs)
        factor = 0.5 + torch.rand(inputs, generator=self._generator)
        factor[columns] = 0
        return Quantiser(columns, factor, zero)

    def linear(self, outputs: int, inputs: int, outliers: int) -> QuantisedLinear:
        weight = torch.randint(-127, 128, (outputs, inputs), generator=self._generator).to(torch.int8)
        to = self.quantiser(inputs, outliers, SIGNED)
        weight[:, to.columns] = 0
        scale = (0.5 + torch.rand(outputs, generator=self._generator)) / 127 / inputs**0.5
        outlier_weight = (self.normal(outliers, outputs) / inputs**0.5).bfloat16()
        return QuantisedLinear(weight, scale, self.normal(outputs) / 10, to.columns, outlier_weight, to.factor)

    def norm(self, size: int) -> Norm:
        return Norm(1 + self.normal(size) / 10, self.normal(size) / 10, 1e-12)

    def layer(self, native: Native, hidden: int, wide: int, outliers: int) -> Layer8:
        return Layer8(
            qkv=self.linear(3 * hidden, hidden, outliers).pack(native, SIGNED),
            mix=self.linear(hidden, hidden, outliers).pack(native, SIGNED),
            mix_norm=self.norm(hidden),
            up=self.linear(wide, hidden, outliers).pack(native, SIGNED),
            down=self.linear(hidden, wide, outliers).pack(native, POSITIVE),
            down_norm=self.norm(hidden),
        )


def _defined(rows: Rows, linear: Linear8, weight: Tensor) -> Tensor:
    """The linear map as `encoder.ops` defines it, in float64."""
    integers = ((rows.q.long() - linear.input.zero) @ weight.long().t()).double()
    y = integers * linear.scale.double() * rows.scale.double()[:, None]
    return y + rows.outliers.double() @ linear.outlier_weight.double() + linear.bias.double()


def _restored(rows: Rows, to: Quantiser) -> Tensor:
    """What rows stand for, times the quantiser's factor."""
    return (rows.q.double() - to.zero) * rows.scale.double()[:, None]


def test_products_are_exact_on_extreme_values(native: Native) -> None:
    assert exact(native)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 32, 32), (13, 96, 64), (49, 3072, 96), (100, 416, 160)])
def test_products_are_those_of_64_bit_integers(native: Native, tokens: int, inputs: int, outputs: int) -> None:
    draw = Draw(0)
    for zero in (1, POSITIVE, SIGNED, 254):
        weight = draw.linear(outputs, inputs, 0).weight
        weight[0], weight[1] = 127, -127
        q = torch.randint(0, 256, (tokens, inputs), dtype=torch.uint8)
        q[0] = 255
        expected = ((q.long() - zero) @ weight.long().t()).float()
        assert torch.equal(native.product(q, native.pack(weight, zero), zero), expected)


@pytest.mark.parametrize("zero", [1, POSITIVE, SIGNED, 254])
@pytest.mark.parametrize(("inputs", "outliers"), [(32, 0), (64, 3), (384, 16), (1536, 1)])
def test_rows_are_quantised_as_the_reference_does(native: Native, inputs: int, outliers: int, zero: int) -> None:
    draw = Draw(inputs)
    to = draw.quantiser(inputs, outliers, zero)
    x = (draw.normal(50, inputs) * draw.normal(50, 1).exp()).bfloat16()
    x[3], x[4], x[5] = 0, x[4].abs(), -x[5].abs()
    found, expected = native.quantise(x, to), Reference().quantise(x, to)
    assert torch.equal(found.scale, expected.scale)
    assert torch.equal(found.q, expected.q)
    assert torch.equal(found.outliers, expected.outliers)


@pytest.mark.parametrize(("inputs", "outputs", "outliers"), [(32, 32, 0), (64, 96, 1), (384, 1152, 16), (1536, 384, 5)])
def test_the_linear_map_is_what_is_defined(native: Native, inputs: int, outputs: int, outliers: int) -> None:
    draw = Draw(outputs)
    quantised = draw.linear(outputs, inputs, outliers)
    linear = quantised.pack(native, SIGNED)
    for tokens in (1, 11, 12, 13, 50):
        rows = native.quantise((3 * draw.normal(tokens, inputs)).bfloat16(), linear.input)
        y = _defined(rows, linear, quantised.weight)
        # Half a unit in bfloat16's last place; 1e-5 for float32 sums that cancel.
        assert ((native.linear(rows, linear).double() - y).abs() <= 2**-8 * y.abs() + 1e-5).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("spread", [0.1, 1.0, 6.0])
def test_activations_come_out_within_half_a_step(native: Native, activation: Activation, spread: float) -> None:
    draw = Draw(1)
    quantised = draw.linear(256, 64, 4)
    linear = quantised.pack(native, SIGNED)
    to = draw.quantiser(256, 3, POSITIVE)
    rows = native.quantise((spread * draw.normal(50, 64)).bfloat16(), linear.input)
    y = _defined(rows, linear, quantised.weight)
    exactly = {
        "gelu": functional.gelu(y),
        "gelu_tanh": functional.gelu(y, approximate="tanh"),
        "relu": functional.relu(y),
    }[activation]
    found = native.linear_activate_quantise(rows, linear, activation, to)
    error = (_restored(found, to) - exactly * to.factor.double()).abs()
    # The polynomial is off by 1.7e-4 up to 3.9, and by 1.3e-5 |y| beyond; factors reach 1.5.
    slack = 1.5 * (1.7e-4 + 1.3e-5 * y.abs() + 1e-6)
    assert (error <= found.scale.double()[:, None] * 0.501 + slack).all()
    kept = exactly[:, to.columns]
    assert ((found.outliers.double() - kept).abs() <= 2**-8 * kept.abs() + slack[:, to.columns]).all()
    assert ((found.q == 0) | (found.q == 255)).any(1).all()  # no step is larger than it need be


def test_norms_follow_the_linear_map_and_rows_are_those_of_the_rounded_state(native: Native) -> None:
    draw = Draw(2)
    for inputs, outputs in ((64, 32), (1536, 384)):
        quantised, norm = draw.linear(outputs, inputs, 16), draw.norm(outputs)
        linear = quantised.pack(native, POSITIVE)
        to = draw.quantiser(outputs, 3, SIGNED)
        residual = draw.normal(50, outputs).bfloat16()
        rows = native.quantise((3 * draw.normal(50, inputs)).bfloat16(), linear.input)
        x = _defined(rows, linear, quantised.weight) + residual.double()
        y = functional.layer_norm(x, (outputs,), norm.weight.double(), norm.bias.double(), norm.eps)
        state, above = native.linear_norm_quantise(rows, linear, residual, norm, to)
        assert above is not None
        assert ((state.double() - y).abs() <= 2**-8 * y.abs() + 1e-5).all()
        again = native.quantise(state, to)
        for made, remade in ((above.q, again.q), (above.scale, again.scale), (above.outliers, again.outliers)):
            assert torch.equal(made, remade)
        alone, none = native.linear_norm_quantise(rows, linear, residual, norm, None)
        assert none is None
        assert torch.equal(alone, state)


def test_a_row_of_equal_numbers_is_normalised_without_cancelling(native: Native) -> None:
    draw = Draw(3)
    linear = replace(draw.linear(64, 32, 0), bias=torch.full((64,), 1000.0)).pack(native, SIGNED)
    residual = torch.zeros(2, 64).bfloat16()
    residual[1, 0] = 1
    rows = native.quantise(torch.zeros(2, 32).bfloat16(), linear.input)
    norm = Norm(torch.ones(64), torch.zeros(64), 1e-12)
    state, _ = native.linear_norm_quantise(rows, linear, residual, norm, None)
    assert torch.equal(state[0], torch.zeros(64).bfloat16())
    assert abs(state[1, 0].item() - 63**0.5) < 0.05


def _composed(native: Native, layers: list[Layer8], state: Tensor, lengths: tuple[int, ...], window: int) -> Tensor:
    """Layers of three heads, an operation at a time."""
    for layer in layers:
        qkv = native.linear(native.quantise(state, layer.qkv.input), layer.qkv)
        context = native.quantise(native.attention(qkv, lengths, 3, window), layer.mix.input)
        state, rows = native.linear_norm_quantise(context, layer.mix, state, layer.mix_norm, layer.up.input)
        assert rows is not None
        wide = native.linear_activate_quantise(rows, layer.up, "gelu", layer.down.input)
        state, _ = native.linear_norm_quantise(wide, layer.down, state, layer.down_norm, None)
    return state


@pytest.mark.parametrize(("hidden", "wide", "outliers"), [(96, 384, 16), (96, 160, 3), (384, 1536, 0), (768, 3072, 16)])
def test_layers_in_one_call_are_the_operations_one_by_one(
    native: Native, hidden: int, wide: int, outliers: int
) -> None:
    draw = Draw(hidden)
    layers = [draw.layer(native, hidden, wide, outliers) for _ in range(2)]
    stack = native.stack(layers, 3, "gelu")
    assert stack is not None
    lengths = (1, 5, 33, 77)
    state = draw.normal(sum(lengths), hidden).bfloat16()
    before = state.clone()
    for window in (0, 16):
        assert torch.equal(stack(state, lengths, window, 0, 2), _composed(native, layers, state, lengths, window))
        halfway = stack(state, lengths, window, 0, 1)
        assert torch.equal(stack(halfway, lengths, window, 1, 2), stack(state, lengths, window, 0, 2))
    assert torch.equal(state, before)


@pytest.mark.parametrize("window", [0, 64])
def test_a_segment_has_its_bits_alone_and_among_others_on_any_threads(native: Native, window: int) -> None:
    draw = Draw(4)
    stack = native.stack([draw.layer(native, 96, 384, 16) for _ in range(2)], 3, "gelu_tanh")
    assert stack is not None
    parts = [draw.normal(length, 96).bfloat16() for length in LENGTHS]
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(torch.cat([stack(part, (len(part),), window, 0, 2) for part in parts]))
            found.append(stack(torch.cat(parts), LENGTHS, window, 0, 2))
            backwards = stack(torch.cat(parts[::-1]), LENGTHS[::-1], window, 0, 2)
            found.append(torch.cat(torch.split(backwards, list(LENGTHS[::-1]))[::-1]))
    assert all(torch.equal(each, found[0]) for each in found)


def test_two_threads_share_the_work(native: Native) -> None:
    """Where two cores are free they take half the time; on a busy machine too, the second thread has run."""
    draw = Draw(7)
    stack = native.stack([draw.layer(native, 384, 1536, 0)], 3, "gelu")
    assert stack is not None
    state = draw.normal(2048, 384).bfloat16()
    with threads(2):
        for _ in range(20):
            own, all_threads = time.thread_time(), time.process_time()
            stack(state, (512,) * 4, 0, 0, 1)
            own, all_threads = time.thread_time() - own, time.process_time() - all_threads
            if own < 0.75 * all_threads:
                return
    pytest.fail(f"the calling thread took {own:.3f} s of {all_threads:.3f} s")


def test_sizes_that_are_no_multiple_of_32_fall_to_the_reference(native: Native) -> None:
    draw = Draw(5)
    layer = draw.layer(native, 48, 100, 3)
    x = draw.normal(20, 48).bfloat16()
    assert native.stack([layer], 3, "gelu") is None
    rows, expected = native.quantise(x, layer.qkv.input), Reference().quantise(x, layer.qkv.input)
    assert torch.equal(rows.q, expected.q)
    state = _composed(native, [layer], x, (20,), 0)
    assert state.shape == (20, 48)
    assert state.isfinite().all()


def test_what_does_not_fit_is_refused(native: Native) -> None:
    draw = Draw(6)
    linear = draw.linear(64, 32, 2).pack(native, SIGNED)
    x = draw.normal(3, 32).bfloat16()
    rows = native.quantise(x, linear.input)
    for wrong in (
        replace(rows, q=rows.q[:2]),
        replace(rows, scale=rows.scale.double()),
        replace(rows, outliers=rows.outliers[:, :1]),
    ):
        with pytest.raises(ValueError, match=r"must be|has shape"):
            native.linear(wrong, linear)
    for broken in (replace(linear, bias=linear.bias[:32]), replace(linear, packed=linear.packed[:-4])):
        with pytest.raises(ValueError, match=r"must be|has shape"):
            native.linear(rows, broken)
    with pytest.raises(ValueError, match="ascending"):
        native.quantise(x, Quantiser(torch.tensor([3, 2], dtype=torch.int32), torch.ones(32), SIGNED))
    with pytest.raises(ValueError, match="out of range"):
        native.quantise(x, Quantiser(torch.tensor([32], dtype=torch.int32), torch.ones(32), SIGNED))


@pytest.mark.parametrize("form", native_forms.forms())
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 1), (48, 16), (384, 35), (1024, 48)])
def test_scores_are_those_of_64_bit_floats_and_depend_on_their_row_alone(form: str, inputs: int, outputs: int) -> None:
    draw = Draw(outputs)
    head = Linear(draw.normal(outputs, inputs), draw.normal(outputs))
    x = draw.normal(301, inputs).bfloat16()
    x[2] = 1e-40
    scores, defined = (native_forms.native(each).scores(head) for each in (form, "generic"))
    assert scores
    assert defined
    found = scores(x, 1)()
    exactly = x.double() @ head.weight.double().t() + head.bias.double()
    assert ((found.double() - exactly).abs() <= 1e-6 * inputs).all()
    assert torch.equal(found, defined(x, 1)()), "the same bits in all forms"
    assert all(torch.equal(scores(x[row : row + 1], 1)()[0], found[row]) for row in (0, 5, 11, 12, 300))


def test_scores_are_the_same_when_another_thread_makes_them(native: Native) -> None:
    draw = Draw(1)
    scores = native.scores(Linear(draw.normal(35, 384), draw.normal(35)))
    assert scores
    x = [draw.normal(tokens, 384).bfloat16() for tokens in (1, 300, 7, 510)]
    expected = [scores(each, 1)() for each in x]
    for _ in range(50):
        begun = [scores(each, 2) for each in x]
        assert all(torch.equal(end(), right) for end, right in zip(begun, expected, strict=True))


def test_scores_that_nobody_takes_end_before_what_they_are_made_of_goes(native: Native) -> None:
    """Else another thread would write to memory that was given back: the sanitized build would say so."""
    scores = native.scores(Linear(torch.ones(35, 384), torch.ones(35)))
    assert scores
    for _ in range(50):
        scores(torch.ones(510, 384, dtype=torch.bfloat16), 2)


def test_a_head_of_another_size_is_left_to_pytorch(native: Native) -> None:
    assert native.scores(Linear(torch.zeros(3, 24), torch.zeros(3))) is None
