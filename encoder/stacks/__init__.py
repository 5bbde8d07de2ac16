"""The layers of a model under one number scheme: `floating` (fp32, bf16) and `eight` (int8)."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Stack(Protocol):
    """Embeddings and layers, over segments laid end to end."""

    digests: tuple[str, ...]
    """At each layer boundary, of the tensors as executed below it: layers + 1 of them."""
    layer_bytes: int
    """Bytes held for the layers' weights."""
    embedding_bytes: int
    """Bytes held for the embeddings' weights."""

    def embed(self, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """(tokens,) ids to (tokens, hidden), the state at layer 0."""
        ...

    def layers(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """The state at layer `start` to that at layer `stop`; `start` < `stop`."""
        ...
