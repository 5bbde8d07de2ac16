"""All forms of the native core give the same bits: those of the golden states, and those of the fastest form."""

import pytest
import torch

from benchmarks import golden
from encoder.ops.native import Native, best
from tests.encoder import native_forms
from tests.encoder.test_native_operations import Draw

FORMS = native_forms.forms()


@pytest.fixture(params=FORMS)
def native(request: pytest.FixtureRequest) -> Native:
    return native_forms.native(request.param)


@pytest.mark.parametrize("name", ["odd", "two"])
def test_states_are_the_golden_ones(native: Native, name: str) -> None:
    stored = golden.golden()
    for key, digest in golden.digests(native, name, 16).items():
        assert digest == stored[key], key


@pytest.mark.parametrize(("heads", "size"), [(2, 16), (3, 48), (1, 80), (1, 128)])
def test_attention_is_that_of_the_fastest_form(native: Native, heads: int, size: int) -> None:
    served, draw = best(), Draw(size)
    for tokens in (1, 2, 17, 65, 130):
        for spread in (1.0, 30.0, 1e-20, 1e9):
            qkv = (draw.normal(tokens, 3 * heads * size) * spread).bfloat16()
            for window in (0, 1, 20):
                expected = served.attention(qkv, (tokens,), heads, window)
                assert torch.equal(native.attention(qkv, (tokens,), heads, window), expected), (tokens, spread, window)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e15, 1e-39])
def test_layers_are_those_of_the_fastest_form_at_any_size_of_numbers(native: Native, scale: float) -> None:
    layers = [Draw(1).layer(native, 96, 160, 3) for _ in range(2)]
    state = (Draw(2).normal(70, 96) * scale).bfloat16()
    found, expected = (form.stack(layers, 2, "gelu") for form in (native, best()))
    assert found is not None
    assert expected is not None
    assert torch.equal(found(state, (30, 40), 8, 0, 2), expected(state, (30, 40), 8, 0, 2))


def test_weights_are_packed_alike(native: Native) -> None:
    weight = Draw(3).linear(96, 160, 0).weight
    assert torch.equal(native.pack(weight, 28), best().pack(weight, 28))
