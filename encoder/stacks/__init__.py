"""A model's layers in one number scheme: `floating` (fp32, bf16) or `eight` (int8)."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class Stack(Protocol):
    """Embeddings and layers, over segments laid end to end.

    Attributes:
        digests: a digest at each layer boundary (layers + 1) of the tensors as executed below it.
        portable: whether states have the same bits on all machines.
        layer_bytes: bytes of the layers' weights.
        embedding_bytes: bytes of the embeddings' weights.
    """

    digests: tuple[str, ...]
    portable: bool
    layer_bytes: int
    embedding_bytes: int

    def embed(self, ids: Tensor, lengths: Sequence[int], seconds: Sequence[int]) -> Tensor:
        """The state at layer 0, (tokens, hidden), of (tokens,) ids; see `encoder.batch.Batch`."""
        ...

    def layers(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """Compute the state at layer `stop` from that at layer `start`; `start` < `stop`."""
        ...
