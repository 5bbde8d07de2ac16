"""The native core on numbers at the edge and on none at all: it neither fails nor touches another segment's rows."""

import pytest
import torch

from encoder.ops.native import Native
from tests.encoder import native_forms
from tests.encoder.native_forms import threads
from tests.encoder.test_native_operations import Draw

VALUES = (torch.nan, torch.inf, -torch.inf, 3.3e38, -3.3e38, 1e-45)
LENGTHS = (1, 2, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 511, 512)
HIDDEN, WIDE, HEADS = 96, 160, 3


@pytest.fixture(params=native_forms.forms())
def native(request: pytest.FixtureRequest) -> Native:
    return native_forms.native(request.param)


@pytest.mark.parametrize("window", [0, 1, 16, 64, 600])
@pytest.mark.parametrize("value", VALUES)
def test_attention_keeps_an_extreme_value_in_its_segment(native: Native, value: float, window: int) -> None:
    draw = Draw(7)
    for length in LENGTHS:
        lengths = (9, length, 9)
        qkv = draw.normal(sum(lengths), 3 * HIDDEN).bfloat16()
        others = torch.cat([torch.arange(9), torch.arange(9 + length, 18 + length)])
        before = native.attention(qkv, lengths, HEADS, window)[others]
        for row in {9, 9 + length // 2, 8 + length}:
            qkv[row, :: HIDDEN // 2] = value
        assert torch.equal(native.attention(qkv, lengths, HEADS, window)[others], before)


@pytest.mark.parametrize("outliers", [0, 3])
@pytest.mark.parametrize("value", VALUES)
def test_layers_keep_an_extreme_value_in_its_segment(native: Native, value: float, outliers: int) -> None:
    draw = Draw(8)
    stack = native.stack([draw.layer(native, HIDDEN, WIDE, outliers) for _ in range(2)], HEADS, "gelu")
    assert stack is not None
    for length in LENGTHS:
        lengths = (length, 5)
        state = draw.normal(sum(lengths), HIDDEN).bfloat16()
        with threads(2):
            before = stack(state, lengths, 16, 0, 2)[length:]
            state[length // 2, ::7] = value
            assert torch.equal(stack(state, lengths, 16, 0, 2)[length:], before)


@pytest.mark.parametrize("fill", VALUES)
def test_rows_of_one_extreme_value_end(native: Native, fill: float) -> None:
    stack = native.stack([Draw(9).layer(native, HIDDEN, WIDE, 3)], HEADS, "relu")
    assert stack is not None
    for length in LENGTHS:
        state = torch.full((length, HIDDEN), fill).bfloat16()
        assert stack(state, (length,), 0, 0, 1).shape == state.shape
