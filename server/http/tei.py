"""text-embeddings-inference's paths.

Its servers cut texts at the model's length, silently or with an error. Here a text is read whole, unless the caller
sets `truncate`.
"""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, WithJsonSchema
from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import EmptyDocument, InvalidCall
from server.http.endpoint import Reply, Request
from server.http.errors import Headers
from server.http.octavo import INPUT_TYPES, Octavo, reading_headers
from server.http.openai import renamed
from server.http.reading import Body, Dimensions, parse
from server.http.truncation import Direction, truncated
from server.inference.models import CROSS_ENCODE, ServedModel
from server.status import Row, message_of

STATUS = {
    "Unhealthy": 503,
    "Backend": 424,
    "Overloaded": 429,
    "Validation": 422,
    "Tokenizer": 422,
    "Empty": 400,
    "Unauthorized": 401,
    "Forbidden": 403,
}
PROMPTS = {None: None, "": None, "query": "query", "passage": "passage", "document": "passage"}
FIELDS = (
    ("documents[", "inputs["),
    ("documents", "inputs"),
    ("document.text", "inputs"),
    ("embed.", ""),
    ("rank.", ""),
    ("tasks[0].rank.", ""),
    ("options.", ""),
)
TEXT_OR_IDS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}
TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
INPUTS = {"anyOf": [*TEXT_OR_IDS["anyOf"], {"type": "array", "items": TEXT_OR_IDS}]}
PAIR = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}
PREDICT = {"anyOf": [{"type": "string"}, PAIR, {"type": "array", "items": PAIR}]}
MANY_VALUES = 50_000

Inputs = Annotated[Any, WithJsonSchema(INPUTS)]


class Truncating(Body):
    """What most requests have; `model` is an addition, for servers of several."""

    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    model: str = ""


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


@dataclass(frozen=True, slots=True)
class Read:
    """A request's texts as they are read.

    Attributes:
        left_out: characters that were cut off, as the caller asked.
    """

    texts: list[str]
    left_out: int


async def embed(octavo: Octavo, request: Request) -> Reply:
    """Embed texts."""
    body = await parse(request.body, EmbedBody)
    options = options_of(body.model, body.prompt_name)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    given = await read(octavo, texts_of(body.inputs, "inputs", model), body, model, options)
    wanted = pb.EmbedOptions(normalize=body.normalize, dimensions=body.dimensions)
    response = await octavo.embed(given.texts, options, wanted, request.context)
    vectors = [result.embedding.document_vector for result in response.results]

    def write() -> bytes:
        return to_json([np.frombuffer(vector.data, "<f4").tolist() for vector in vectors])

    values = sum(vector.shape[0] for vector in vectors)
    made = await asyncio.to_thread(write) if values > MANY_VALUES else write()
    segments = sum(len(result.segments) for result in response.results)
    return Reply(made, headers_of(segments, [response.info], given))


async def embed_sparse(octavo: Octavo, request: Request) -> Reply:
    """Make sparse vectors."""
    body = await parse(request.body, EmbedPartsBody)
    options = options_of(body.model, body.prompt_name)
    model = _supporting(octavo, request, "embed_sparse", body.model)
    given = await read(octavo, texts_of(body.inputs, "inputs", model), body, model, options)
    task = pb.Task(embed_sparse=pb.EmbedSparseOptions(), model=model.name)
    replies = await octavo.analyze(given.texts, options, task, request.context)
    vectors = [reply.results[0].embed_sparse.document_vector for reply in replies]
    made = to_json(
        [
            [{"index": i, "value": weight} for i, weight in zip(vector.indices, vector.weights, strict=True)]
            for vector in vectors
        ]
    )
    return Reply(made, _headers_of_each(replies, given))


async def predict(octavo: Octavo, request: Request) -> Reply:
    """Classify texts, or score pairs with a cross-encoder."""
    body = await parse(request.body, PredictBody)
    pairs, nested = _pairs(body.inputs)
    if any(len(pair) == 2 for pair in pairs):  # noqa: PLR2004
        return await _predict_pairs(octavo, request, body, pairs, nested=nested)
    model = _supporting(octavo, request, "classify", body.model)
    if body.raw_scores:
        raise InvalidCall("raw_scores", "labels of a document have scores from 0 to 1: its segments' logits are merged")
    options = options_of(body.model, None)
    given = await read(octavo, [pair[0] for pair in pairs], body, model, options)
    task = pb.Task(classify=pb.ClassifyOptions(), model=model.name)
    replies = await octavo.analyze(given.texts, options, task, request.context)
    labels = [
        [{"score": label.score, "label": label.label} for label in reply.results[0].classify.labels]
        for reply in replies
    ]
    return Reply(to_json(labels if nested else labels[0]), _headers_of_each(replies, given))


async def _predict_pairs(
    octavo: Octavo, request: Request, body: PredictBody, pairs: Sequence[Sequence[str]], *, nested: bool
) -> Reply:
    if any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004
        raise InvalidCall("inputs", "a batch has pairs alone or texts alone")
    model = _supporting(octavo, request, CROSS_ENCODE, body.model)
    label = model.head.facts.labels[0] if model.head and model.head.facts.labels else "LABEL_0"
    options = pb.CallOptions(model=model.name)
    given = await read(octavo, [pair[1] for pair in pairs], body, model, options)
    scores, replies = [], []
    for (query, _), text in zip(pairs, given.texts, strict=True):
        task = pb.Task(rank=pb.RankOptions(query=query, method=pb.RANK_METHOD_CROSS_ENCODER), model=model.name)
        replies += await octavo.analyze([text], options, task, request.context)
        scores.append(score_of(replies[-1].results[0].rank.score, model, raw=body.raw_scores))
    labels = [[{"score": score, "label": label}] for score in scores]
    return Reply(to_json(labels if nested else labels[0]), _headers_of_each(replies, given))


async def rerank(octavo: Octavo, request: Request) -> Reply:
    """Rank texts by how well they answer a query."""
    body = await parse(request.body, RerankBody)
    if not body.texts:
        raise InvalidCall("texts", "the array is empty")
    options = pb.CallOptions(model=body.model)
    model = ranker(octavo, request, body.model)
    given = await read(octavo, body.texts, body, model, options, query=body.query)
    response = await octavo.rank(given.texts, options, pb.RankOptions(query=body.query, passages=0), request.context)
    ranks = [
        {
            "index": document.index,
            **({"text": body.texts[document.index]} if body.return_text else {}),
            "score": score_of(document.ranking.score, model, raw=body.raw_scores),
        }
        for document in ranked(response)
    ]
    return Reply(to_json(ranks), headers_of(None, [response.info], given))


async def similarity(octavo: Octavo, request: Request) -> Reply:
    """Compare a sentence with others by their vectors' cosines."""
    body = await parse(request.body, SimilarityBody)
    if not body.inputs.sentences:
        raise InvalidCall("inputs.sentences", "the array is empty")
    options = pb.CallOptions(model=body.model)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    given = await read(octavo, texts, body.parameters or Truncating(), model, options)
    response = await octavo.embed(given.texts, options, pb.EmbedOptions(normalize=True), request.context)
    vectors = np.stack(
        [np.frombuffer(result.embedding.document_vector.data, "<f4") for result in response.results]
    ).astype(np.float64)
    segments = sum(len(result.segments) for result in response.results)
    return Reply(to_json((vectors[1:] @ vectors[0]).tolist()), headers_of(segments, [response.info], given))


async def tokenize(octavo: Octavo, request: Request) -> Reply:
    """Tokenise texts; offsets count code points."""
    body = await parse(request.body, TokenizeBody)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    texts = texts_of(body.inputs, "inputs", model)
    prefix = model.prefixes[_input_type(body.prompt_name) or ""]
    made = await asyncio.to_thread(
        lambda: to_json([_tokens(model, prefix + text, special=body.add_special_tokens) for text in texts])
    )
    return Reply(made)


async def decode(octavo: Octavo, request: Request) -> Reply:
    """Turn token ids into texts."""
    body = await parse(request.body, DecodeBody)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    batch: list[Any] = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
    if not body.skip_special_tokens:
        raise InvalidCall("skip_special_tokens", "special tokens have no text")
    return Reply(to_json([_decoded(model, ids, f"ids[{i}]") for i, ids in enumerate(batch)]))


async def info(octavo: Octavo, request: Request) -> Reply:
    """Describe the server and its default model."""
    request.context.client.check_model(octavo.catalogue.default.name)
    model = octavo.catalogue.default
    encoder = model.runner.encoder
    kind: dict[str, Any] = {"embedding": {"pooling": model.pooling}}
    if model.is_cross_encoder:
        kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    return Reply(
        to_json(
            {
                "model_id": model.name,
                "model_sha": model.digest,
                "model_dtype": encoder.scheme,
                "served_model_name": model.name,
                "model_type": kind,
                "max_concurrent_requests": octavo.limits.max_concurrent,
                "max_input_length": encoder.max_tokens,
                "max_batch_tokens": model.runner.batch_tokens,
                "max_client_batch_size": octavo.limits.max_inputs,
                "auto_truncate": False,
                "tokenization_workers": 1,
                "version": version("octavo"),
            }
        )
    )


async def root(octavo: Octavo, request: Request) -> Reply:
    """Do what the body's fields are those of, as Hugging Face's clients ask it of an endpoint's root."""
    fields = await parse(request.body, AnyBody)
    extra = fields.model_extra or {}
    if "query" in extra and "texts" in extra:
        return await rerank(octavo, request)
    if isinstance(extra.get("inputs"), dict):
        return await similarity(octavo, request)
    return await embed(octavo, request)


class AnyBody(Body):
    """A body whose fields say what it asks for."""

    model_config = ConfigDict(extra="allow")


def tell(error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
    """An error as TEI's clients read it."""
    message = message_of(error, request_id)
    field = renamed(getattr(error, "field", ""), FIELDS)
    return STATUS[row.tei], to_json({"error": f"{field}: {message}" if field else message, "error_type": row.tei})


def ranker(octavo: Octavo, request: Request, name: str) -> ServedModel:
    """The model that ranks, by the choice of Rank."""
    client = request.context.client
    return octavo.catalogue.for_task("rank", name, octavo.catalogue.resolve(name, client), client)


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


async def read(
    octavo: Octavo,
    texts: list[str],
    body: Truncating,
    model: ServedModel,
    options: pb.CallOptions,
    query: str = "",
) -> Read:
    """The texts, cut where the caller asked for it."""
    if len(texts) > octavo.limits.max_inputs:
        raise InvalidCall("inputs", f"a call has 1 to {octavo.limits.max_inputs:,} texts")
    if not body.truncate:
        return Read(texts, 0)
    trunk = model.trunk or model
    frame = trunk.tokenizer.pair_frame(query) if query and model.is_cross_encoder else None
    if frame is None:
        prefix = trunk.prefixes[("", "query", "passage")[options.input_type]]
        frame = trunk.tokenizer.frame(prefix)
    most = max(1, trunk.runner.encoder.max_tokens - len(frame))
    direction = body.truncation_direction
    cut = await asyncio.to_thread(lambda: [truncated(text, most, trunk.tokenizer, direction) for text in texts])
    return Read([text for text, _ in cut], sum(left for _, left in cut))


def texts_of(value: Any, field: str, model: ServedModel) -> list[str]:
    """The texts of a string, ids of the model's own vocabulary, or an array of those."""
    if isinstance(value, list) and value and _are_ids(value):
        return [_decoded(model, value, field)]
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InvalidCall(field, "the array is empty")
    texts = []
    for i, item in enumerate(items):
        where = f"{field}[{i}]" if isinstance(value, list) else field
        if isinstance(item, list) and _are_ids(item):
            item = _decoded(model, item, where)  # noqa: PLW2901
        if not isinstance(item, str):
            raise InvalidCall(where, "write a string, an array of token ids, or an array of those")
        texts.append(item)
    return texts


def _are_ids(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def _pairs(value: Any) -> tuple[list[list[str]], bool]:
    """The texts or pairs of a prediction, and whether it is a batch. A flat array of one or two is a text or a pair."""
    if isinstance(value, str):
        return [[value]], False
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            if len(value) <= 2:  # noqa: PLR2004
                return [value], False
            raise InvalidCall("inputs", "a flat array has one text or a pair; a batch is an array of arrays")
        if all(_is_text_or_pair(item) for item in value):
            return value, True
    raise InvalidCall("inputs", "write a string, a pair of strings, or an array of arrays of one or two strings")


def _is_text_or_pair(item: Any) -> bool:
    return isinstance(item, list) and 1 <= len(item) <= 2 and all(isinstance(text, str) for text in item)  # noqa: PLR2004


def _supporting(octavo: Octavo, request: Request, kind: str, name: str) -> ServedModel:
    client = request.context.client
    return octavo.catalogue.for_task(kind, name, octavo.catalogue.resolve(name, client), client)


def options_of(model: str, prompt_name: str | None) -> pb.CallOptions:
    """Options of octavo.v1."""
    return pb.CallOptions(model=model, input_type=INPUT_TYPES[_input_type(prompt_name)])


def _input_type(prompt_name: str | None) -> str | None:
    if prompt_name not in PROMPTS:
        raise InvalidCall("prompt_name", "the prompts are query and passage")
    return PROMPTS[prompt_name]


def _tokens(model: ServedModel, text: str, *, special: bool) -> list[dict[str, Any]]:
    tokens = model.tokenizer.encode([text])[0]
    frame, words = model.tokenizer.frame(), model.tokenizer.vocabulary

    def marks(ids: Any) -> list[dict[str, Any]]:
        return [{"id": i, "text": _word(words, i), "special": True, "start": None, "stop": None} for i in ids.tolist()]

    own = [
        {"id": i, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for i, start, stop in zip(tokens.ids.tolist(), tokens.starts.tolist(), tokens.ends.tolist(), strict=True)
    ]
    return [*marks(frame.head), *own, *marks(frame.tail)] if special else own


def _word(words: Sequence[str], i: int) -> str:
    return words[i] if i < len(words) else ""


def _decoded(model: ServedModel, ids: list[int], field: str) -> str:
    """The text of ids.

    Raises:
        InvalidCall: an id is none of the vocabulary.
    """
    size = len(model.tokenizer.vocabulary)
    for i, each in enumerate(ids):
        if not 0 <= each < size:
            raise InvalidCall(f"{field}[{i}]", f"{model.name} has token ids from 0 to {size - 1}")
    return model.tokenizer.decode(ids)


def _headers_of_each(replies: Sequence[pb.AnalyzeResponse], given: Read) -> Headers:
    return headers_of(sum(len(reply.segments) for reply in replies), [reply.info for reply in replies], given)


def headers_of(segments: int | None, infos: Sequence[pb.ReplyInfo], given: Read) -> Headers:
    """TEI's timings in milliseconds, and what was read."""
    usage = pb.Usage(
        tokens=sum(info.usage.tokens for info in infos),
        cached_tokens=sum(info.usage.cached_tokens for info in infos),
    )

    def longest(stage: str) -> bytes:
        return b"%d" % max(getattr(info.timings, stage).ToMilliseconds() for info in infos)

    headers = [
        *reading_headers(segments, usage, infos[0].fingerprint),
        (b"x-compute-type", b"cpu"),
        (b"x-compute-time", longest("total")),
        (b"x-total-time", longest("total")),
        (b"x-tokenization-time", longest("tokenize")),
        (b"x-queue-time", longest("queue")),
        (b"x-inference-time", longest("compute")),
        (b"x-compute-tokens", b"%d" % usage.tokens),
        (b"x-compute-characters", b"%d" % sum(map(len, given.texts))),
    ]
    if given.left_out:
        headers.append((b"x-octavo-truncated-characters", b"%d" % given.left_out))
    return headers
