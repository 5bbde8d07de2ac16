"""All forms of the native core give the same bits: those of the golden states, and those of the generic form."""

import subprocess
import sys

import pytest
import torch

from benchmarks import golden
from encoder.ops import bytes as in_bytes
from encoder.ops.native import ARITHMETIC, Native
from encoder.ops.probe import exact
from tests.encoder import native_forms
from tests.encoder.test_native_operations import Draw

FORMS = native_forms.forms()


@pytest.fixture(params=FORMS)
def native(request: pytest.FixtureRequest) -> Native:
    return native_forms.native(request.param)


def test_the_golden_digests_are_those_of_this_arithmetic() -> None:
    """A change of results renews the digests, and so must come with another name, since cached states live on."""
    assert golden.golden()["arithmetic"] == ARITHMETIC


@pytest.mark.parametrize("name", ["odd", "two", "wide-heads"])
def test_states_are_the_golden_ones(native: Native, name: str) -> None:
    stored = golden.golden()
    for key, digest in golden.digests(native, name, 16).items():
        assert digest == stored[key], key


@pytest.mark.parametrize(("heads", "size"), [(2, 16), (3, 48), (1, 80), (1, 128)])
def test_attention_is_that_of_the_generic_form(native: Native, heads: int, size: int) -> None:
    defined, draw = native_forms.native("generic"), Draw(size)
    for tokens in (1, 2, 17, 65, 130):
        for spread in (1.0, 30.0, 1e-20, 1e9):
            qkv = (draw.normal(tokens, 3 * heads * size) * spread).bfloat16()
            for window in (0, 1, 20):
                expected = defined.attention(qkv, (tokens,), heads, window)
                assert torch.equal(native.attention(qkv, (tokens,), heads, window), expected), (tokens, spread, window)


def test_attention_of_every_length_is_that_of_the_generic_form(native: Native) -> None:
    defined, draw = native_forms.native("generic"), Draw(8)
    for tokens in range(1, 513, 3):
        qkv, window = draw.normal(tokens, 96).bfloat16(), (0, 1, 16, 64, 128, 600)[tokens % 6]
        expected = defined.attention(qkv, (tokens,), 1, window)
        assert torch.equal(native.attention(qkv, (tokens,), 1, window), expected), (tokens, window)


@pytest.mark.parametrize(("tokens", "inputs", "outputs"), [(1, 32, 32), (13, 96, 64), (49, 3072, 96), (100, 416, 160)])
def test_products_are_exact(native: Native, tokens: int, inputs: int, outputs: int) -> None:
    assert exact(native)
    weight = Draw(9).linear(outputs, inputs, 0).weight
    q = torch.full((tokens, inputs), 255, dtype=torch.uint8)
    for zero in (1, 28, 128, 254):
        expected = ((q.long() - zero) @ weight.long().t()).float()
        assert torch.equal(native.product(q, native.pack(weight, zero), zero), expected)


@pytest.mark.parametrize("window", [0, 64])
def test_a_segment_has_its_bits_alone_and_among_others_on_any_threads(native: Native, window: int) -> None:
    draw = Draw(10)
    stack = native.stack([draw.layer(native, 96, 160, 3)], 2, "relu")
    assert stack is not None
    parts = [draw.normal(length, 96).bfloat16() for length in (1, 2, 33, 130)]
    expected = torch.cat([stack(part, (len(part),), window, 0, 1) for part in parts])
    for count in (1, 2, 3):
        with native_forms.threads(count):
            assert torch.equal(stack(torch.cat(parts), [len(part) for part in parts], window, 0, 1), expected)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e15, 1e-39])
def test_layers_are_those_of_the_generic_form_at_any_size_of_numbers(native: Native, scale: float) -> None:
    layers = [Draw(1).layer(native, 96, 160, 3) for _ in range(2)]
    state = (Draw(2).normal(70, 96) * scale).bfloat16()
    found, expected = (form.stack(layers, 2, "gelu") for form in (native, native_forms.native("generic")))
    assert found is not None
    assert expected is not None
    assert torch.equal(found(state, (30, 40), 8, 0, 2), expected(state, (30, 40), 8, 0, 2))


def test_weights_are_packed_alike(native: Native) -> None:
    weight = Draw(3).linear(96, 160, 0).weight
    assert torch.equal(native.pack(weight, 28), native_forms.native("generic").pack(weight, 28))


@pytest.mark.parametrize("huge", [1e7, 1e8, 1e9, 1e15])
def test_an_end_whose_score_leads_by_far_takes_all_weight(native: Native, huge: float) -> None:
    """Distances below the largest score are then more than an int32 holds."""
    qkv = Draw(4).normal(40, 96)
    qkv[[0, -1], 32:64] *= huge
    for window in (0, 4):
        found = native.attention(qkv.bfloat16(), (40,), 1, window)
        assert torch.equal(found, native_forms.native("generic").attention(qkv.bfloat16(), (40,), 1, window))
        error = (found.double() - in_bytes.attention(qkv.bfloat16(), (40,), 1, window)).abs().amax(1)
        assert error.quantile(0.85) < 0.03


def test_a_thread_that_flushes_denormals_gives_the_same_bits(native: Native) -> None:
    qkv = (Draw(5).normal(64, 192) * 1e-37).bfloat16()
    expected = native.attention(qkv, (64,), 2, 0)
    torch.set_flush_denormal(True)
    try:
        assert torch.equal(native.attention(qkv, (64,), 2, 0), expected)
    finally:
        torch.set_flush_denormal(False)


def test_torchs_default_device_and_type_change_nothing(native: Native) -> None:
    x, to = Draw(6).normal(5, 96).bfloat16(), Draw(6).quantiser(96, 3, 128)
    expected = native.quantise(x, to)
    torch.set_default_device("meta")
    torch.set_default_dtype(torch.float64)
    try:
        found = native.quantise(x, to)
    finally:
        torch.set_default_device("cpu")
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.q, expected.q)
    assert torch.equal(found.scale, expected.scale)


FORKED = """
import os, signal, torch
from encoder.ops.native import best
from tests.encoder.test_native_operations import Draw
torch.set_num_threads(2)
native = best()
stack = native.stack([Draw(1).layer(native, 96, 160, 3)], 2, "relu")
state = Draw(2).normal(300, 96).bfloat16()
before = stack(state, (300,), 0, 0, 1)
child = os.fork()
if not child:
    signal.alarm(30)
    os._exit(0 if torch.equal(stack(state, (300,), 0, 0, 1), before) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("form", native_forms.fastest())
def test_a_forked_process_has_threads_of_its_own(form: str) -> None:
    assert subprocess.run([sys.executable, "-c", FORKED], check=False).returncode == 0
