"""Makes what a head is fitted on of a model's states: features of documents, of their segments, or of their tokens.

A document's logits are the mean of its segments', weighted by the tokens that they own. A linear head's are then those
of the mean of the segments' vectors, so heads are fitted on documents by that rule. If a document may have any number
of labels, its logits are the largest over its segments, which are its rows.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from encoder import numpy_to_state
from encoder.fitting import Examples, Floats
from server.inference.models import ServedModel
from server.training.examples import Data, Example, ExampleError, token_labels
from server.training.states import States
from server.types import Pool, StateArray

_MOST_BYTES: Final = 2 << 30  # of features; fitting holds them three times
_LEAST_NORM: Final = 1e-12  # as in embedding

Part = tuple[Floats, NDArray[np.int64]]
"""Features of a segment, (rows, hidden), and of each row its label, or how many tokens it stands for."""


def read_examples(states: States, data: Data, advance: Callable[[int], None]) -> Examples:
    """Make the examples of labelled documents.

    Args:
        states: the model's.
        data: the documents.
        advance: called with the number of documents that were read.

    Raises:
        ExampleError: a document has no tokens, or there are too many of them.
    """
    parts: list[list[Part]] = [[] for _ in data.documents]
    size = 0
    for index, segment, state in states.read([document.text for document in data.documents], advance):
        part = _part(states.model, data, data.documents[index], segment, state)
        parts[index].append(part)
        size += part[0].nbytes
        if size > _MOST_BYTES:
            raise ExampleError(f"{data.documents[index].place}: more than {_MOST_BYTES >> 30} GiB of states; use less")
    for document, own in zip(data.documents, parts, strict=True):
        if not own:
            raise ExampleError(f"{document.place}: the text has no tokens")
    if data.task == "tokens":
        return _of_tokens(data, parts)
    return _of_segments(data, parts) if data.multi_label else _of_documents(data, parts)


def _part(model: ServedModel, data: Data, document: Example, segment: Segment, state: StateArray) -> Part:
    if data.task == "tokens":
        tokens: Floats = numpy_to_state(state)[segment.owned].float().numpy().copy()
        return tokens, token_labels(segment, document.entities, data.labels)
    pool = Pool(model.folder.pooling)
    vector: Floats = model.runner.apply(state, (pool,))[pool]
    if model.folder.normalize:
        vector = vector / np.float32(max(float(np.linalg.norm(vector)), _LEAST_NORM))
    return vector[None], np.array([segment.tokens])


def _of_tokens(data: Data, parts: Sequence[Sequence[Part]]) -> Examples:
    features, labels = (np.concatenate(each) for each in zip(*(part for own in parts for part in own), strict=True))
    tokens = [sum(len(part[0]) for part in own) for own in parts]
    return Examples(
        features, np.ones(len(features), np.int64), labels, len(data.labels), np.repeat(np.arange(len(parts)), tokens)
    )


def _of_segments(data: Data, parts: Sequence[Sequence[Part]]) -> Examples:
    targets = [[label in document.labels for label in data.labels] for document in data.documents]
    return Examples(
        np.concatenate([vector for own in parts for vector, _ in own]),
        np.array([len(own) for own in parts]),
        np.array(targets, np.float32),
        len(data.labels),
        np.arange(len(parts)),
    )


def _of_documents(data: Data, parts: Sequence[Sequence[Part]]) -> Examples:
    targets = [data.labels.index(document.labels[0]) for document in data.documents]
    vectors = [_mean(own) for own in parts]
    count = len(parts)
    return Examples(np.stack(vectors), np.ones(count, np.int64), np.array(targets), len(data.labels), np.arange(count))


def _mean(own: Sequence[Part]) -> Floats:
    """The mean of a document's vectors, weighted by their tokens."""
    vectors, tokens = (np.concatenate(each).astype(np.float64) for each in zip(*own, strict=True))
    mean: Floats = (tokens @ vectors / tokens.sum()).astype(np.float32)
    return mean
