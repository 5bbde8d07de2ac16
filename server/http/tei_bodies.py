"""The bodies of text-embeddings-inference's requests; `model` is an addition, for servers of several."""

from typing import Annotated, Any

from pydantic import ConfigDict, WithJsonSchema

from server.http.inputs import Truncating
from server.http.reading import Body, Dimensions

TEXT_OR_IDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
INPUTS = {"anyOf": [*TEXT_OR_IDS["anyOf"], {"type": "array", "items": TEXT_OR_IDS}]}
PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}
PREDICT = {"anyOf": [{"type": "string"}, PAIR, {"type": "array", "items": PAIR}]}
Inputs = Annotated[Any, WithJsonSchema(INPUTS)]


class EmbedBody(Truncating):
    """A request of `/embed`."""

    inputs: Inputs
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: Dimensions | None = None


class EmbedPartsBody(Truncating):
    """A request of `/embed_all` or `/embed_sparse`."""

    inputs: Inputs
    prompt_name: str | None = None


class PredictBody(Truncating):
    """A request of `/predict`. A flat array of two is a pair."""

    inputs: Annotated[Any, WithJsonSchema(PREDICT)]
    raw_scores: bool = False


class RerankBody(Truncating):
    """A request of `/rerank`."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


class Sentences(Body):
    """A sentence, and those to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityBody(Body):
    """A request of `/similarity`."""

    inputs: Sentences
    parameters: Truncating | None = None
    model: str = ""


class TokenizeBody(Body):
    """A request of `/tokenize`."""

    inputs: Annotated[
        Any, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    ]
    add_special_tokens: bool = True
    prompt_name: str | None = None
    model: str = ""


class DecodeBody(Body):
    """A request of `/decode`."""

    ids: list[int] | list[list[int]]
    skip_special_tokens: bool = True
    model: str = ""


class AnyBody(Body):
    """A body whose fields say what it asks for."""

    model_config = ConfigDict(extra="allow")
