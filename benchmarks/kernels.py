"""The native core's speed: attention compared with PyTorch, and the parts of a layer's time.

`python -m benchmarks.kernels` prints a table. Times are wall time, each the median of runs that alternate between the
compared alternatives, so that a busy machine slows both.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encoder.layers import Norm
from encoder.ops import Layer8, Linear8
from encoder.ops.native import Native, NativeUnavailableError, best
from encoder.quantise import POSITIVE, SIGNED, QuantisedLinear

# Quantiles (1/26, 3/26 ... 25/26) of the lengths of 400 content-defined segments of presidential addresses.
LENGTHS = (176, 211, 246, 267, 288, 310, 335, 365, 387, 408, 438, 463, 501)
LONGEST = 512
HEADS, HEAD_SIZE = 12, 32
HIDDEN, INTERMEDIATE, OUTLIERS = 384, 1536, 8
_FEW_ROWS = 48


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians of what was compared, in microseconds."""

    name: str
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Our time over theirs."""
        return self.ours / self.theirs


def alternate(*runs: Callable[[], object], rounds: int) -> list[float]:
    """Median microseconds of each, run in turn."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    for _ in range(rounds):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            run()
            taken.append((time.perf_counter() - began) * 1e6)
    return [statistics.median(taken) for taken in times]


def attention(native: Native, window: int, rounds: int = 15) -> Timing:
    """Native attention under a window over unmasked bf16 attention of PyTorch's, a segment a call."""
    ours = theirs = 0.0
    for length in LENGTHS:
        qkv = torch.randn(length, 3 * HEADS * HEAD_SIZE).bfloat16()
        queries, keys, values = qkv.view(1, length, 3, HEADS, HEAD_SIZE).permute(2, 0, 3, 1, 4)

        def run(qkv: Tensor = qkv, length: int = length) -> Tensor:
            return native.attention(qkv, (length,), HEADS, window)

        def peer(queries: Tensor = queries, keys: Tensor = keys, values: Tensor = values) -> Tensor:
            return functional.scaled_dot_product_attention(queries, keys, values)

        one, other = alternate(run, peer, rounds=rounds)
        ours, theirs = ours + one, theirs + other
    return Timing(f"attention_{window or 'full'}", ours, theirs)


def layer_profile(native: Native, tokens: int, rounds: int = 15) -> dict[str, float]:
    """Microseconds of each operation of one layer of MiniLM's size, and of the layer in one call."""
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
    """Multiplications of bytes a microsecond where nothing is in their way: few rows, weights in the second level.

    What an instruction set can do at most, within a few per cent.
    """
    weight = native.pack(torch.randint(-127, 128, (HIDDEN, INTERMEDIATE)).to(torch.int8), SIGNED)
    rows = torch.randint(0, 256, (_FEW_ROWS, INTERMEDIATE)).to(torch.uint8)
    times = sorted(alternate(lambda: native.product(rows, weight, SIGNED), rounds=5)[0] for _ in range(rounds // 5))
    return _FEW_ROWS * HIDDEN * INTERMEDIATE / times[0]


def least_time(tokens: int, segment: int, rate: float) -> float:
    """Microseconds that a layer's products alone take at a rate, attention's among them."""
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        native = best()
    except NativeUnavailableError as error:
        raise SystemExit(str(error)) from error
    print(f"{native.name}, {arguments.threads} threads")
    with torch.inference_mode():
        for window in (0, 64, 128):
            timing = attention(native, window)
            print(f"{timing.name:16} {timing.ratio:6.3f} of PyTorch's ({timing.ours:.0f} of {timing.theirs:.0f} us)")
        rate = fastest_rate(native)
        print(f"products of bytes at their fastest: {2 * rate / 1e6:.3f} TOPS")
        for tokens in (16, 453, 2048):
            parts = layer_profile(native, tokens)
            least = least_time(tokens, min(tokens, LONGEST), rate)
            print(f"layer, {tokens} tokens, us: " + ", ".join(f"{name} {time:.0f}" for name, time in parts.items()))
            print(f"its products alone, at that rate: {least:.0f} us, {100 * least / parts['layer in one call']:.0f} %")


if __name__ == "__main__":
    main()
