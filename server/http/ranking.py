"""What TEI's, Jina's and Cohere's rerank have in common."""

import math

from octavo.v1 import inference_pb2 as pb
from server.errors import EmptyDocument
from server.http.endpoint import Request
from server.http.inputs import supporting
from server.http.octavo import Octavo
from server.inference.models import ServedModel


def ranker(octavo: Octavo, request: Request, name: str) -> ServedModel:
    """The model that ranks, by the choice of Rank."""
    return supporting(octavo, request, "rank", name)


def ranked(response: pb.RankResponse) -> list[pb.RankedDocument]:
    """The documents that were ranked.

    Raises:
        EmptyDocument: one has no token.
    """
    for document in response.documents:
        if document.HasField("status"):
            raise EmptyDocument(f"texts[{document.index}]")
    return list(response.documents)


def score_of(score: float, model: ServedModel, *, raw: bool) -> float:
    """A document's score; a cross-encoder's logit from 0 to 1 unless it is wanted raw."""
    if raw or not model.is_cross_encoder:
        return score
    return 1 / (1 + math.exp(-score)) if score > 0 else math.exp(score) / (1 + math.exp(score))
