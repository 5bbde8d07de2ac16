"""The native core's speed: attention beside PyTorch's, and where a layer's time goes.

attention.WINDOW: the native attention's time over that of PyTorch's unmasked bf16 attention. fastest_tops: what the
instruction set multiplies at most. layer_us.TOKENS: each operation of one layer of all-MiniLM-L6-v2's size, and the
layer in one call. products_share.TOKENS: time that a layer's products alone take at that rate, over the layer's.

Times are the medians of runs that alternate between what is compared, so that a busy machine slows both.
"""

from collections.abc import Callable
from statistics import median

import click
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.figures import Figure, Figures
from benchmarks.race import Run, raced, timed
from encoder.layers import Norm
from encoder.ops import Layer8, Linear8
from encoder.ops.native import Native, best
from encoder.quantise import POSITIVE, SIGNED, QuantisedLinear

# Quantiles (1/26, 3/26 ... 25/26) of the lengths of 400 content-defined segments of presidential addresses.
LENGTHS = (176, 211, 246, 267, 288, 310, 335, 365, 387, 408, 438, 463, 501)
LONGEST = 512
HEADS, HEAD_SIZE = 12, 32
HIDDEN, INTERMEDIATE, OUTLIERS = 384, 1536, 8
_FEW_ROWS = 48


@click.option("--threads", default=torch.get_num_threads(), show_default=True, help="That PyTorch and ours may use.")
def run(threads: int) -> Figures:
    """Measure attention, then the highest rate, then a layer."""
    torch.set_num_threads(threads)
    native = best()
    with torch.inference_mode():
        figures = {f"attention.{window or 'full'}": Figure(attention(native, window), "x") for window in (0, 64, 128)}
        rate = fastest_rate(native)
        figures["fastest_tops"] = Figure(2 * rate / 1e12, "TOPS")
        for tokens in (16, 453, 2048):
            parts = layer_profile(native, tokens)
            share = least_time(tokens, min(tokens, LONGEST), rate) / parts["layer in one call"]
            figures |= {f"layer_us.{tokens}.{name}": Figure(1e6 * each, "µs") for name, each in parts.items()}
            figures[f"products_share.{tokens}"] = Figure(100 * share, "%")
    return figures


def alternate(*works: Callable[[], object], rounds: int) -> list[float]:
    """Median seconds of each, run in turns."""
    runs: dict[str, Run] = {str(place): timed(work) for place, work in enumerate(works)}
    return [median(seconds) for seconds in raced(runs, rounds).values()]


def attention(native: Native, window: int, rounds: int = 15) -> float:
    """Native attention's time under a window over that of PyTorch's unmasked bf16 attention, a segment a call."""
    ours = theirs = 0.0
    for length in LENGTHS:
        qkv = torch.randn(length, 3 * HEADS * HEAD_SIZE).bfloat16()
        queries, keys, values = qkv.view(1, length, 3, HEADS, HEAD_SIZE).permute(2, 0, 3, 1, 4)

        def own(qkv: Tensor = qkv, length: int = length) -> Tensor:
            return native.attention(qkv, (length,), HEADS, window)

        def peer(queries: Tensor = queries, keys: Tensor = keys, values: Tensor = values) -> Tensor:
            return functional.scaled_dot_product_attention(queries, keys, values)

        one, other = alternate(own, peer, rounds=rounds)
        ours, theirs = ours + one, theirs + other
    return ours / theirs


def layer_profile(native: Native, tokens: int, rounds: int = 15) -> dict[str, float]:
    """Seconds of each operation of one layer of MiniLM's size, and of the layer in one call."""
    layer = random_layer(native)
    stack = native.stack([layer], HEADS, "gelu")
    assert stack is not None
    state = torch.randn(tokens, HIDDEN).bfloat16()
    lengths = (tokens,) if tokens <= LONGEST else (LONGEST,) * (tokens // LONGEST)

    rows = native.quantise(state, layer.qkv.input)
    qkv = native.linear(rows, layer.qkv)
    context = native.attention(qkv, lengths, HEADS, 0)
    mixed = native.quantise(context, layer.mix.input)
    between, narrow = native.linear_norm_quantise(mixed, layer.mix, state, layer.mix_norm, layer.up.input)
    assert narrow is not None
    wide = native.linear_activate_quantise(narrow, layer.up, "gelu", layer.down.input)
    runs: dict[str, Callable[[], object]] = {
        "quantise": lambda: native.quantise(state, layer.qkv.input),
        "qkv": lambda: native.linear(rows, layer.qkv),
        "attention": lambda: native.attention(qkv, lengths, HEADS, 0),
        "mix, norm": lambda: native.linear_norm_quantise(mixed, layer.mix, state, layer.mix_norm, layer.up.input),
        "up, activation": lambda: native.linear_activate_quantise(narrow, layer.up, "gelu", layer.down.input),
        "down, norm": lambda: native.linear_norm_quantise(wide, layer.down, between, layer.down_norm, layer.qkv.input),
        "layer in one call": lambda: stack(state, lengths, 0, 0, 1),
    }
    return dict(zip(runs, alternate(*runs.values(), rounds=rounds), strict=True))


def fastest_rate(native: Native, rounds: int = 200) -> float:
    """Multiplications of bytes a second where nothing is in their way: few rows, weights in the second level.

    What an instruction set can do at most, within a few per cent.
    """
    weight = native.pack(torch.randint(-127, 128, (HIDDEN, INTERMEDIATE)).to(torch.int8), SIGNED)
    rows = torch.randint(0, 256, (_FEW_ROWS, INTERMEDIATE)).to(torch.uint8)
    times = sorted(alternate(lambda: native.product(rows, weight, SIGNED), rounds=5)[0] for _ in range(rounds // 5))
    return _FEW_ROWS * HIDDEN * INTERMEDIATE / times[0]


def least_time(tokens: int, segment: int, rate: float) -> float:
    """Seconds that a layer's products alone take at a rate, attention's among them."""
    linear = tokens * HIDDEN * (4 * HIDDEN + 2 * INTERMEDIATE)
    attention = 2 * tokens * segment * HIDDEN
    return (linear + attention) / rate


def random_layer(native: Native) -> Layer8:
    """A layer of MiniLM's size with random weights: time does not depend on their values."""

    def linear(outputs: int, inputs: int, zero: int) -> Linear8:
        weight = torch.randint(-127, 128, (outputs, inputs)).to(torch.int8)
        columns = torch.arange(0, inputs, inputs // OUTLIERS, dtype=torch.int32)
        scale = torch.full((outputs,), inputs**-0.5 / 64)
        outliers = (torch.randn(len(columns), outputs) * inputs**-0.5).bfloat16()
        factor = torch.ones(inputs)
        factor[columns] = 0
        return QuantisedLinear(weight, scale, torch.zeros(outputs), columns, outliers, factor).pack(native, zero)

    norm = Norm(torch.ones(HIDDEN), torch.zeros(HIDDEN), 1e-12)
    return Layer8(
        qkv=linear(3 * HIDDEN, HIDDEN, SIGNED),
        mix=linear(HIDDEN, HIDDEN, SIGNED),
        mix_norm=norm,
        up=linear(INTERMEDIATE, HIDDEN, SIGNED),
        down=linear(HIDDEN, INTERMEDIATE, POSITIVE),
        down_norm=norm,
    )
