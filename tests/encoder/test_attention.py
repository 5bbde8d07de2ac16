"""Windowed attention in plain PyTorch against a masked softmax in float64, and the work it does."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from encoder.ops.blocks import pairs, plan
from encoder.ops.reference import attention
from encoder.threads import one_thread

HEADS, SIZE = 2, 32


def softmax64(qkv: Tensor, window: int) -> Tensor:
    """One segment's attention as its definition reads, in float64."""
    tokens = qkv.shape[0]
    queries, keys, values = qkv.double().view(tokens, 3, HEADS, SIZE).permute(1, 2, 0, 3)
    at = torch.arange(tokens)
    hidden = (at[:, None] - at).abs() > (window or tokens)
    hidden[0] = hidden[-1] = hidden[:, 0] = hidden[:, -1] = False
    scores = (queries @ keys.mT / math.sqrt(SIZE)).masked_fill(hidden, -math.inf)
    context: Tensor = scores.softmax(-1) @ values
    return context.transpose(0, 1).flatten(1)


def draw(tokens: int) -> Tensor:
    return torch.randn(tokens, 3 * HEADS * SIZE, generator=torch.Generator().manual_seed(tokens)) * 1.5


def test_it_equals_a_masked_softmax_from_1_to_512_tokens() -> None:
    windows = (0, 1, 64)
    with one_thread():
        for tokens in range(1, 513):
            # Up to the first block's end and past it under every window, then under one after another.
            for window in windows if tokens < 70 or tokens > 510 else windows[tokens % 3 :][:1]:
                qkv = draw(tokens)
                error = (attention(qkv, (tokens,), HEADS, window).double() - softmax64(qkv, window)).abs().max()
                assert error < 2e-5, f"{tokens} tokens, window {window}: {error}"


def test_bfloat16_is_as_close_as_its_rounding() -> None:
    qkv = draw(301).bfloat16()
    for window in (0, 64):
        error = (attention(qkv, (301,), HEADS, window).double() - softmax64(qkv, window)).abs().max()
        assert error < 0.03


def test_segments_do_not_see_each_other() -> None:
    lengths = (5, 200, 1)
    qkv = torch.cat([draw(length) for length in lengths])
    expected = torch.cat([attention(draw(length), (length,), HEADS, 16) for length in lengths])
    assert torch.equal(attention(qkv, lengths, HEADS, 16), expected)


@pytest.mark.parametrize("window", [0, 1, 64, 600])
def test_a_plan_covers_each_query_once_and_reads_all_that_it_may(window: int) -> None:
    for tokens in (*range(1, 200), *range(201, 513, 9), 512):
        blocks = plan(tokens, window)
        covered = [query for block in blocks for query in range(block.first, block.last)]
        assert covered == list(range(tokens))
        for block in blocks:
            for query in (block.first, block.last - 1):
                seen = set(range(block.low, block.high)) | ({0} if block.head else set())
                seen |= {tokens - 1} if block.tail else set()
                width = tokens if query in (0, tokens - 1) or not window else window
                assert seen >= {0, tokens - 1, *range(max(0, query - width), min(tokens, query + width + 1))}
            assert block.low == 0 or block.head
            assert block.high == tokens or block.tail


def multiplied_pairs(qkv: Tensor, window: int) -> float:
    """Products of a query and a key that PyTorch's attention really did, a head, by its own count."""
    with FlopCounterMode(display=False) as counter:
        attention(qkv, (qkv.shape[0],), HEADS, window)
    # Two flops a multiplication, once for the scores and once for the values.
    return float(counter.get_total_flops()) / (2 * 2 * SIZE * HEADS)


@pytest.mark.parametrize("tokens", [65, 301, 453, 512])
def test_blocks_outside_the_window_are_not_computed(tokens: int) -> None:
    # On the meta device PyTorch counts the operator that it would call, whatever kernel this machine has.
    qkv = draw(tokens).to("meta")
    for window in (0, 16, 64):
        assert multiplied_pairs(qkv, window) == pairs((tokens,), window)
    assert pairs((tokens,), 0) == tokens * tokens


def test_work_grows_with_the_window_and_not_with_the_square_of_the_length() -> None:
    assert pairs((512,), 64) < 0.42 * 512 * 512
    assert pairs((512,), 16) < 0.22 * 512 * 512
    assert pairs((512, 301), 64) == pairs((512,), 64) + pairs((301,), 64)
