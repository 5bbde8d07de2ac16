"""Trained heads: from one segment's states to scores of labels, or weights of the vocabulary's words.

They compute in float32 on one thread, each segment alone, so a segment's scores do not depend on other segments. Labels
of tokens are scored by the native core where it runs the layers, else by PyTorch.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.configuration import read_architecture
from encoder.errors import DamagedFileError
from encoder.families import FAMILIES, Architecture
from encoder.folder import HeadFacts, ModelFolder
from encoder.heads.pooled import PooledHead
from encoder.layers import Linear, Norm
from encoder.ops import Operations
from encoder.ops.reference import activate
from encoder.tensors import as_bytes, named
from encoder.threads import one_thread
from encoder.weights import Checkpoint

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class TrainedHead:
    """A trained head. Thread-safe.

    Attributes:
        digest: hexadecimal, of its kind, rules and weights.
    """

    facts: HeadFacts
    digest: str
    _begin: Callable[[Tensor, int], Callable[[], Tensor]]

    def begin(self, states: Tensor, threads: int = 1) -> Callable[[], Scores]:
        """Begin to apply it to a segment's states after the last layer, (tokens, hidden), which must not change.

        With more than one thread, another may do it while the caller goes on.

        Returns:
            What waits for the scores, float32: logits (tokens, labels) of a tokens head; logits (labels,) of a sequence
            head; of a vocabulary head (2, words), ids with a positive weight, ascending, and their weights (SPLADE;
            Formal et al., 2021).
        """
        end = self._begin(states.cpu(), threads)
        return lambda: end().numpy()

    def __call__(self, states: Tensor) -> Scores:
        """Apply it; see `begin`."""
        return self.begin(states)()


def _widened(states: Tensor) -> Tensor:
    return states.to(torch.float32, copy=True)  # bits depend on the alignment of memory


def _in_torch(head: Callable[[Tensor], Tensor], states: Tensor, threads: int) -> Callable[[], Tensor]:  # noqa: ARG001
    with torch.inference_mode(), one_thread():
        scores = head(states)
    return lambda: scores


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A linear map."""

    out: Linear

    def __call__(self, states: Tensor) -> Tensor:
        return self.out(_widened(states))


@dataclass(frozen=True, slots=True)
class _First:
    """As in transformers: a dense layer with tanh over the first token's state."""

    dense: Linear
    out: Linear

    def __call__(self, states: Tensor) -> Tensor:
        return self.out(torch.tanh(self.dense(_widened(states[:1]))))[0]


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """A masked language model's head, then log(1 + relu(max over all tokens))."""

    dense: Linear
    activation: Any
    norm: Norm
    words: Linear

    def __call__(self, states: Tensor) -> Tensor:
        hidden = self.norm(activate(self.dense(_widened(states)), self.activation))
        weights = torch.log1p(torch.relu(self.words(hidden).amax(0)))
        ids = torch.nonzero(weights)[:, 0]
        return torch.stack([ids.float(), weights[ids]])  # float32 has all integers up to 2 ** 24


def load_head(
    folder: ModelFolder, hidden: int, operations: Operations | None = None
) -> TrainedHead | PooledHead | None:
    """Read a folder's head, for a trunk of so many hidden values that runs on these operations; None if it has none.

    Raises:
        FolderError: its weights are missing or do not fit.
    """
    facts = folder.head
    if facts is None:
        return None
    checkpoint = Checkpoint(folder.path)
    if folder.trunk:
        head: Any = _Tokens(_linear(checkpoint, "", len(facts.labels), hidden))
    else:
        shape = read_architecture(folder.path)
        head = {"tokens": _tokens, "sequence": _sequence, "vocabulary": _vocabulary}[facts.kind](
            checkpoint, shape, len(facts.labels)
        )
    digest = hashlib.blake2b(f"{facts}".encode(), digest_size=32)
    for name, tensor in named(head):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(as_bytes(tensor))
    if facts.pooling and facts.kind == "sequence":
        weight, bias = (tensor.double().numpy() for tensor in (head.out.weight, head.out.bias))
        return PooledHead(facts, digest.hexdigest(), facts.pooling, weight, bias)
    if operations and isinstance(head, _Tokens) and (native := operations.scores(head.out)):
        digest.update(operations.name.encode())  # the scores' last bits are not PyTorch's
        return TrainedHead(facts, digest.hexdigest(), native)
    return TrainedHead(facts, digest.hexdigest(), partial(_in_torch, head))


def _tokens(checkpoint: Checkpoint, shape: Architecture, labels: int) -> _Tokens:
    return _Tokens(_linear(checkpoint, "classifier.", labels, shape.hidden))


def _sequence(checkpoint: Checkpoint, shape: Architecture, labels: int) -> _First:
    hidden = shape.hidden
    if shape.family == "bert":
        return _First(
            _linear(checkpoint, "bert.pooler.dense.", hidden, hidden),
            _linear(checkpoint, "classifier.", labels, hidden),
        )
    return _First(
        _linear(checkpoint, "classifier.dense.", hidden, hidden),
        _linear(checkpoint, "classifier.out_proj.", labels, hidden),
    )


def _vocabulary(checkpoint: Checkpoint, shape: Architecture, labels: int) -> _Vocabulary:  # noqa: ARG001
    bert = shape.family == "bert"
    transform = "cls.predictions.transform." if bert else "lm_head."
    norm = transform + ("LayerNorm" if bert else "layer_norm")
    words = FAMILIES[shape.family].prefix + "embeddings.word_embeddings.weight"  # tied, as in all of these families
    bias = "cls.predictions.bias" if bert else "lm_head.bias"
    return _Vocabulary(
        _linear(checkpoint, f"{transform}dense.", shape.hidden, shape.hidden),
        shape.activation if bert else "gelu",
        Norm(
            _float(checkpoint, f"{norm}.weight", shape.hidden),
            _float(checkpoint, f"{norm}.bias", shape.hidden),
            shape.eps,
        ),
        Linear(_float(checkpoint, words, shape.vocabulary, shape.hidden), _float(checkpoint, bias, shape.vocabulary)),
    )


def _linear(checkpoint: Checkpoint, prefix: str, outputs: int, inputs: int) -> Linear:
    return Linear(_float(checkpoint, f"{prefix}weight", outputs, inputs), _float(checkpoint, f"{prefix}bias", outputs))


def _float(checkpoint: Checkpoint, name: str, *shape: int) -> Tensor:
    tensor = checkpoint.get(name, shape).float()
    if not torch.isfinite(tensor).all():
        raise DamagedFileError(f"{name} has a value that is not finite")
    return tensor
