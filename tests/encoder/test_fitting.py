"""Fitting heads: the optimum that scikit-learn finds, calibrated, and the same each time."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from encoder.fitting import FOLDS, MOST_FITS, Examples, Fitted, _folds, fit

HIDDEN, LABELS = 12, 3


def drawn(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features, and labels that are drawn by the scores of a linear head."""
    draw = np.random.default_rng(seed)
    truth = np.random.default_rng(1).normal(size=(HIDDEN, LABELS))
    features = (draw.normal(size=(count, HIDDEN)) * np.linspace(0.1, 5, HIDDEN) + 3).astype(np.float32)
    logits = (features - 3) @ truth / 5
    return features, (logits + draw.gumbel(size=logits.shape)).argmax(axis=1)


def examples(features: NDArray[np.float32], labels: NDArray[np.int64]) -> Examples:
    count = len(features)
    return Examples(features, np.ones(count, np.int64), labels, LABELS, np.arange(count))


def logits(head: Fitted, features: NDArray[np.float32]) -> NDArray[np.float32]:
    found: NDArray[np.float32] = features @ head.weight.T + head.bias
    return found


def test_the_head_is_scikit_learns_on_standardised_features() -> None:
    features, labels = drawn(400, seed=2)
    head = fit(examples(features, labels))
    mean, scale = features.mean(axis=0), features.std(axis=0)
    theirs = LogisticRegression(C=1 / (head.penalty * len(features)), tol=1e-8, max_iter=10_000)
    theirs.fit((features - mean) / scale, labels)
    expected = theirs.decision_function((features - mean) / scale) / head.temperature
    assert np.abs(logits(head, features) - expected).max() < 1e-3


def test_a_head_learns_and_its_held_out_figures_hold_for_new_examples() -> None:
    features, labels = drawn(1000, seed=2)
    head = fit(examples(features, labels))
    fresh, truth = drawn(4000, seed=3)
    scores = np.exp(logits(head, fresh).astype(np.float64))
    scores /= scores.sum(axis=1, keepdims=True)
    accuracy = float(np.mean(scores.argmax(axis=1) == truth))
    assert accuracy == pytest.approx(head.f1, abs=0.04)
    assert accuracy > 0.7
    assert scores.max(axis=1).mean() == pytest.approx(accuracy, abs=0.03)  # calibrated
    loss = -np.log(scores[np.arange(len(truth)), truth]).mean()
    assert loss == pytest.approx(head.loss, abs=0.05)


def test_the_same_examples_give_the_same_bits() -> None:
    first, second = (fit(examples(*drawn(300, seed=2))) for _ in range(2))
    assert first.weight.tobytes() == second.weight.tobytes()
    assert first.bias.tobytes() == second.bias.tobytes()


def test_any_number_of_labels_each_by_its_largest_row() -> None:
    draw = np.random.default_rng(5)
    rows = draw.integers(1, 5, size=300)
    features = draw.normal(size=(int(rows.sum()), HIDDEN)).astype(np.float32)
    first = np.concatenate([[0], np.cumsum(rows)[:-1]])
    targets = draw.integers(2, size=(300, LABELS)).astype(np.float32)
    for example, (start, count) in enumerate(zip(first, rows, strict=True)):
        for label in np.flatnonzero(targets[example]):
            features[start + draw.integers(count), label] += 8  # one row carries the label
    head = fit(Examples(features, rows, targets, LABELS, np.arange(300)))
    found = np.maximum.reduceat(logits(head, features), first) > 0
    assert np.mean(found == targets) > 0.97
    assert head.f1 > 0.95


def test_a_document_is_in_one_fold_and_each_label_in_all() -> None:
    labels = np.array([0] * 40 + [1] * 5)
    single = examples(np.zeros((45, HIDDEN), np.float32), labels)
    folds = _folds(single)
    assert all(set(folds[labels == label]) == set(range(FOLDS)) for label in (0, 1))
    documents = np.repeat(np.arange(9), 5)
    tokens = Examples(single.features, single.rows, labels, 2, documents)
    assert all(len(set(_folds(tokens)[documents == each])) == 1 for each in range(9))


def test_a_label_of_one_example_is_no_fault() -> None:
    features, labels = drawn(30, seed=2)
    labels[:] = 0
    labels[7] = 2
    done: list[int] = []
    head = fit(examples(features, labels), advance=done.append)
    assert np.isfinite(head.weight).all()
    assert sum(done) == MOST_FITS
