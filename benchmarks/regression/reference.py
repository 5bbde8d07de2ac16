"""Fixed work, independent of Octavo's code, that measures the machine's current speed in seconds.

It is similar to the measured work but uses none of its code: products and attention of an encoder's shapes, with a
thread per core. Do not change this code without new baselines. For an answer from memory see `answering`.
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional

_LENGTHS = (246, 365, 463)
_HIDDEN, _HEADS, _LAYERS = 384, 12, 6


class Products:
    """Six layers' bf16 products and attention over segments of several lengths, PyTorch's own, a stream a core."""

    def __init__(self, streams: int) -> None:
        shapes = ((_HIDDEN, 3 * _HIDDEN), (_HIDDEN, _HIDDEN), (_HIDDEN, 4 * _HIDDEN), (4 * _HIDDEN, _HIDDEN))
        generator = torch.Generator().manual_seed(0)
        self._weights = [(torch.randn(shape, generator=generator) / shape[0] ** 0.5).bfloat16() for shape in shapes]
        self._inputs = [torch.randn(length, _HIDDEN, generator=generator).bfloat16() for length in _LENGTHS]
        self._streams = ThreadPoolExecutor(streams)
        self._each = streams

    def __call__(self) -> None:
        """Do it once: every stream all lengths."""
        list(self._streams.map(lambda _: self._all(), range(self._each)))

    def _all(self) -> None:
        torch.set_num_threads(1)  # of this thread alone
        with torch.inference_mode():
            for state in self._inputs:
                self._layers(state)

    def _layers(self, state: Tensor) -> None:
        qkv, mix, up, down = self._weights
        for _ in range(_LAYERS):
            heads = (state @ qkv).view(len(state), 3, _HEADS, -1).permute(1, 2, 0, 3)
            queries, keys, values = heads.unsqueeze(1)
            context = functional.scaled_dot_product_attention(queries, keys, values)
            state = state + context[0].transpose(0, 1).reshape(len(state), _HIDDEN) @ mix
            state = functional.layer_norm(state + functional.gelu(state @ up) @ down, (_HIDDEN,))
