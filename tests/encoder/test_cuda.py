"""The CUDA form: on a GPU where there is one, its parts on the CPU and its shapes on fake tensors everywhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import flex_attention

import encoder
from encoder.ops.cuda import Cuda, windowed
from encoder.ops.probe import exact
from encoder.ops.reference import Reference, attention
from tests.encoder.models import loaded, random_ids

HEADS, SIZE = 4, 16
LENGTHS = (33, 1, 200, 2)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


@pytest.mark.parametrize("window", [1, 16, 64])
def test_the_mask_of_flex_attention_is_our_window(window: int) -> None:
    qkv = torch.randn(sum(LENGTHS), 3 * HEADS * SIZE, generator=torch.Generator().manual_seed(0))
    found = windowed(qkv.view(len(qkv), 3, HEADS, SIZE), LENGTHS, window, flex_attention).flatten(1)
    assert (found - attention(qkv, LENGTHS, HEADS, window)).abs().max() < 2e-5


def test_products_are_exact_on_bitsandbytes_own_cpu_form() -> None:
    assert exact(Cuda())


def test_shapes_and_types_hold_on_fake_cuda_tensors() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        q = torch.empty(sum(LENGTHS), 64, dtype=torch.uint8, device="cuda")
        weight = torch.empty(192, 64, dtype=torch.int8, device="cuda")
        product = Cuda().product(q, weight, 28)
        qkv = torch.empty(sum(LENGTHS), 192, dtype=torch.bfloat16, device="cuda")
        context = Cuda().attention(qkv, LENGTHS, 4, 0)
    assert (product.shape, product.dtype, product.device.type) == ((sum(LENGTHS), 192), torch.float32, "cuda")
    assert (context.shape, context.dtype, context.device.type) == ((sum(LENGTHS), 64), torch.bfloat16, "cuda")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("window", [0, 16])
def test_states_on_a_gpu_are_close_to_the_references(small_bert: Path, window: int) -> None:
    device = encoder.load(small_bert, scheme="int8", device="cuda:0")
    host = loaded(small_bert, "int8", "reference")
    segments = [random_ids(length) for length in LENGTHS]
    found = device.run(device.batch(segments, window), 0, device.layers).state
    expected = host.run(host.batch(segments, window), 0, host.layers).state
    assert found is not None
    assert expected is not None
    cosines = torch.cosine_similarity(found.cpu().float(), expected.float())
    assert cosines.min() > 0.999
    assert device.digest == host.digest


@needs_gpu
@pytest.mark.gpu
def test_products_are_exact_on_a_gpu() -> None:
    assert exact(Cuda(), "cuda:0")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("scheme", ["bf16", "fp32"])
def test_floating_point_on_a_gpu(small_bert: Path, scheme: str) -> None:
    device, host = encoder.load(small_bert, scheme=scheme, device="cuda:0"), loaded(small_bert, scheme)
    states = [model.run(model.batch([random_ids(77)]), 0, model.layers).state for model in (device, host)]
    arrays = [state.float().cpu().numpy() for state in states if state is not None]
    assert np.abs(arrays[0] - arrays[1]).max() < (0.1 if scheme == "bf16" else 1e-3)


def test_the_reference_runs_wherever_torch_does() -> None:
    assert exact(Reference())
