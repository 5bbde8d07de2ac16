"""Fits linear heads on frozen states: logistic regression with an L2 penalty that cross-validation chooses.

Scores are calibrated: logits are divided by the temperature that fits held-out examples best (Guo et al., 2017), which
is folded into weight and bias.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from encoder.threads import one_thread

FOLDS: Final = 5
_PENALTIES: Final = tuple(10 ** (-half / 2) for half in range(1, 13))  # 0.3 to 1e-6, from the simplest head
_LEAST_PENALTY: Final = 0.01  # times the number of examples; scikit-learn's default is 1
_PATIENCE: Final = 2  # weaker penalties to try after the best one
MOST_FITS: Final = len(_PENALTIES) * FOLDS
_STEPS: Final = 500
_ROUGH, _FINE = 1e-4, 1e-7  # for judging a penalty, and for the head itself
_EXACT: Final = 1 << 24  # numbers, up to which float64 is used; beyond, float32 takes half the time and memory
_TEMPERATURES: Final = (0.5, 32.0)  # few documents that are easy do not prove that scores may be sharper

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """What a head is fitted on.

    Attributes:
        features: (rows, hidden), rows of an example in sequence.
        rows: how many rows each example has. A label's largest logit over them counts.
        targets: the label of each example, int64 (examples,); if an example may have any number of them, 0 or 1,
            float32 (examples, labels).
        labels: number of labels.
        documents: number of each example's document, from 0, ascending. A document is never in two folds.
    """

    features: Floats
    rows: NDArray[np.int64]
    targets: NDArray[np.int64] | Floats
    labels: int
    documents: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A head, and how it does on documents that it was not fitted on.

    Attributes:
        weight: float32 (labels, hidden).
        bias: float32 (labels,).
        penalty: of the squared weights of standardised features.
        temperature: what logits were divided by.
        loss: mean log loss of held-out examples.
        f1: micro-averaged over `scored` labels of held-out examples; over all labels of one each, this is accuracy.
    """

    weight: Floats
    bias: Floats
    penalty: float
    temperature: float
    loss: float
    f1: float


def fit(examples: Examples, *, scored: slice = slice(None), advance: Callable[[int], None] = lambda _: None) -> Fitted:
    """Fit a head; the same examples give the same bits on the same machine.

    Args:
        examples: of at least two documents.
        scored: the labels that count for `f1`.
        advance: called with the number of fits that are done or left out, in all `MOST_FITS`.
    """
    with one_thread(), torch.no_grad():  # sums depend on the number of threads
        problem = _Problem.of(examples)
        heads = [problem.zeros() for _ in range(_fold_count(examples))]
        best = _Choice(penalty=0.0, temperature=1.0, loss=math.inf, f1=0.0)
        waited, done = 0, 0
        for penalty in _penalties(examples):
            heads = [problem.without(fold).solve(penalty, head, _ROUGH) for fold, head in enumerate(heads)]
            choice = _judge(problem, heads, penalty, scored)
            advance(len(heads))
            done += len(heads)
            best, waited = (choice, 0) if choice.loss < best.loss else (best, waited + 1)
            if waited == _PATIENCE:
                break
        weight, bias = problem.unscaled(problem.solve(best.penalty, problem.zeros(), _FINE))
        advance(MOST_FITS - done)
        return Fitted(
            _floats(weight / best.temperature),
            _floats(bias / best.temperature),
            best.penalty,
            best.temperature,
            best.loss,
            best.f1,
        )


@dataclass(frozen=True, slots=True)
class _Choice:
    """A penalty, and what held-out examples say of it."""

    penalty: float
    temperature: float
    loss: float
    f1: float


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """Examples as tensors, with features standardised by `mean` and `scale`."""

    features: Tensor
    rows: Tensor
    targets: Tensor
    folds: Tensor
    labels: int
    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, examples: Examples) -> "_Problem":
        exact = examples.features.size <= _EXACT
        features = torch.from_numpy(examples.features).to(torch.float64 if exact else torch.float32)
        mean, scale = features.mean(0), features.std(0, correction=0).clamp(min=1e-6)
        return cls(
            (features - mean) / scale,
            torch.from_numpy(examples.rows),
            torch.from_numpy(examples.targets),
            torch.from_numpy(_folds(examples)),
            examples.labels,
            mean,
            scale,
        )

    def zeros(self) -> Tensor:
        """A head that knows nothing, (hidden + 1, labels), its last row the bias."""
        return self.features.new_zeros(self.features.shape[1] + 1, self.labels)

    def without(self, fold: int) -> "_Problem":
        """The examples of the other folds."""
        return self._part(self.folds != fold)

    def only(self, fold: int) -> "_Problem":
        """The examples of a fold."""
        return self._part(self.folds == fold)

    def _part(self, chosen: Tensor) -> "_Problem":
        return replace(
            self,
            features=self.features[chosen.repeat_interleave(self.rows)],
            rows=self.rows[chosen],
            targets=self.targets[chosen],
            folds=self.folds[chosen],
        )

    def logits(self, head: Tensor) -> Tensor:
        """(examples, labels)."""
        logits = self.features @ head[:-1] + head[-1]
        if len(logits) == len(self.rows):
            return logits
        return torch.segment_reduce(logits, "max", lengths=self.rows)

    def loss(self, logits: Tensor) -> Tensor:
        """Mean log loss; that of several labels is their sum."""
        if self.targets.dim() == 1:
            return functional.cross_entropy(logits, self.targets)
        targets = self.targets.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(logits, targets) * self.labels

    def solve(self, penalty: float, start: Tensor, tolerance: float) -> Tensor:
        """The head of least loss and penalty, searched from another head until its gradient is within a tolerance."""
        head = start.clone().requires_grad_()
        search = torch.optim.LBFGS(
            [head],
            max_iter=_STEPS,
            tolerance_grad=tolerance,
            tolerance_change=tolerance / 1000,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> float:
            search.zero_grad()
            with torch.enable_grad():
                total = self.loss(self.logits(head)) + penalty / 2 * head[:-1].square().sum()
                total.backward()  # type: ignore[no-untyped-call]
            return float(total.detach())

        search.step(closure)  # type: ignore[no-untyped-call]
        return head.detach()

    def unscaled(self, head: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) for features as they were."""
        weight = head[:-1].T / self.scale
        return weight, head[-1] - weight @ self.mean


def _judge(problem: _Problem, heads: list[Tensor], penalty: float, scored: slice) -> _Choice:
    """What the examples of each fold say of the head that was fitted without them."""
    parts = [problem.only(fold) for fold in range(len(heads))]
    logits = torch.cat([part.logits(head) for part, head in zip(parts, heads, strict=True)])
    whole = replace(problem, targets=torch.cat([part.targets for part in parts]))
    temperature = _temperature(lambda candidate: float(whole.loss(logits / candidate)))
    return _Choice(penalty, temperature, float(whole.loss(logits / temperature)), _f1(logits, whole.targets, scored))


def _temperature(loss: Callable[[float], float]) -> float:
    """The temperature of least loss, which has one minimum: golden section over its logarithm."""
    low, high = map(math.log, _TEMPERATURES)
    ratio = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        if loss(math.exp(first)) <= loss(math.exp(second)):
            high = second
        else:
            low = first
    return math.exp((low + high) / 2)


def _f1(logits: Tensor, targets: Tensor, scored: slice) -> float:
    if targets.dim() == 1:
        found, true = (functional.one_hot(each, logits.shape[1]).bool() for each in (logits.argmax(1), targets))
    else:
        found, true = logits > 0, targets.bool()
    found, true = found[:, scored], true[:, scored]
    wrong = int((found != true).sum())
    right = int((found & true).sum())
    return 2 * right / (2 * right + wrong) if right + wrong else 1.0


def _penalties(examples: Examples) -> list[float]:
    """Penalties from strong to weak; so few examples do not justify weaker ones."""
    return [penalty for penalty in _PENALTIES if penalty * len(examples.targets) >= _LEAST_PENALTY]


def _fold_count(examples: Examples) -> int:
    return min(FOLDS, int(examples.documents[-1]) + 1)


def _folds(examples: Examples) -> NDArray[np.int64]:
    """The fold of each example: documents in turn, those of each label shuffled by a hash."""
    first = np.unique(examples.documents, return_index=True)[1]
    one_each = examples.targets.ndim == 1 and len(first) == len(examples.targets)
    labels = examples.targets[first] if one_each else np.zeros(len(first))
    order = np.lexsort(((np.arange(len(first)) * 2_654_435_761) & 0xFFFFFFFF, labels))
    folds = np.empty(len(first), np.int64)
    folds[order] = np.arange(len(first)) % _fold_count(examples)
    return folds[examples.documents]


def _floats(tensor: Tensor) -> Floats:
    array: Floats = tensor.float().contiguous().numpy()
    return array
