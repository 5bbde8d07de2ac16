"""Tasks' answers as tensors. A model's outputs differ in name by task: those that are asked for say which it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from server.inference.models import ServedModel
from server.inference.tasks import Classification, Embedding, Entities, Ranking, Redaction
from server.inference.tasks.embed import DataTypeName, Vectors, encoded
from server.kserve.tensors import Tensor

Kind = Literal["embed", "rank", "classify", "classify_tokens", "redact", "embed_sparse"]

TEXT, QUERY, TOKEN_COUNT = "text", "query", "token_count"
VARIES = -1


@dataclass(frozen=True, slots=True)
class Output:
    """An output as metadata describes it: -1 for sizes that vary. The first one is the number of texts, or of rows."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoding:
    """What embeddings' values are encoded as.

    Attributes:
        data_type: as octavo.v1 names it.
        shifted: signed bytes become unsigned by adding 128, and unsigned ones signed by subtracting it.
    """

    data_type: DataTypeName
    shifted: bool = False

    def of(self, vectors: Vectors) -> NDArray[Any]:
        """Encode vectors."""
        values = encoded(vectors, self.data_type)
        return (values.view(np.uint8) ^ 0x80).view(SHIFTED[values.dtype.kind]) if self.shifted else values


SHIFTED: dict[str, type[np.generic]] = {"i": np.uint8, "u": np.int8}
ENCODINGS = {
    "float": Encoding("float32"),
    "float16": Encoding("float16"),
    "int8": Encoding("int8"),
    "uint8": Encoding("int8", shifted=True),
    "ubinary": Encoding("binary"),
    "binary": Encoding("binary", shifted=True),
}
"""By the parameter `embedding_type`."""


def outputs_of(model: ServedModel) -> dict[Kind, tuple[Output, ...]]:
    """A model's outputs for each kind of task that it supports; its own task comes first."""
    labels = len(model.folder.head.labels) if model.folder.head else VARIES
    known: dict[Kind, tuple[Output, ...]] = {
        "classify_tokens": (
            Output("entity_spans", "INT64", (VARIES, 2)),
            Output("entity_labels", "BYTES", (VARIES,)),
            Output("entity_scores", "FP32", (VARIES,)),
            Output("entity_rows", "INT64", (VARIES,)),
        ),
        "redact": (Output("redacted", "BYTES", (VARIES, 1)),),
        "classify": (
            Output("labels", "BYTES", (VARIES, labels)),
            Output("label_scores", "FP32", (VARIES, labels)),
        ),
        "embed_sparse": (
            Output("sparse_indices", "INT64", (VARIES,)),
            Output("sparse_weights", "FP32", (VARIES,)),
            Output("sparse_rows", "INT64", (VARIES,)),
        ),
        "embed": (Output("embeddings", "FP32", (VARIES, model.runner.encoder.hidden)),),
        "rank": (Output("scores", "FP32", (VARIES,)), Output("best_spans", "INT64", (VARIES, 2))),
    }
    kinds: list[Kind] = [kind for kind in known if kind in model.tasks]
    if model.is_cross_encoder:
        kinds.sort(key=lambda kind: kind != "rank")
    return {kind: known[kind] for kind in kinds}


def tensors_of(answers: Sequence[Any], tokens: Sequence[int], encoding: Encoding) -> dict[str, Tensor]:
    """All outputs of a task.

    Args:
        answers: of one task, for each text.
        tokens: that each text has.
        encoding: of embeddings.
    """
    return _tensors(answers, encoding) | {TOKEN_COUNT: Tensor.of(np.array(tokens, np.int32))}


def _tensors(answers: Sequence[Any], encoding: Encoding) -> dict[str, Tensor]:
    match answers[0]:
        case Embedding():
            vectors = np.concatenate([answer.document for answer in answers])
            return {"embeddings": Tensor.of(encoding.of(vectors))}
        case Ranking():
            spans = [(answer.passages[0].start, answer.passages[0].end) for answer in answers]
            return {
                "scores": Tensor.of(np.array([answer.score for answer in answers], np.float32)),
                "best_spans": Tensor.of(np.array(spans, np.int64)),
            }
        case Classification():
            labels = [label for answer in answers for label in answer.labels]
            shape = len(answers), len(answers[0].labels)
            return {
                "labels": Tensor.of_texts([label.label for label in labels], shape),
                "label_scores": Tensor.of(np.array([label.score for label in labels], np.float32).reshape(shape)),
            }
        case Entities():
            found = Entities.joined(answers)
            return {
                "entity_spans": Tensor.of(found.spans),
                "entity_labels": Tensor.of_texts(found.labels, (len(found),)),
                "entity_scores": Tensor.of(found.scores.astype(np.float32)),
                "entity_rows": _rows(len(answer) for answer in answers),
            }
        case Redaction():
            return {"redacted": Tensor.of_texts([answer.text for answer in answers], (len(answers), 1))}
        case _:
            vectors_of = [answer.document for answer in answers]
            return {
                "sparse_indices": Tensor.of(np.concatenate([vector.indices for vector in vectors_of])),
                "sparse_weights": Tensor.of(np.concatenate([vector.weights for vector in vectors_of])),
                "sparse_rows": _rows(len(vector.indices) for vector in vectors_of),
            }


def _rows(sizes: Iterable[int]) -> Tensor:
    """Where each text's rows begin, and where the last one's end: as `indptr` of a sparse matrix."""
    return Tensor.of(np.array([0, *accumulate(sizes)], np.int64))
