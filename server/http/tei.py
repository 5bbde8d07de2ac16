"""text-embeddings-inference's paths.

Its servers cut texts at the model's length, silently or with an error. Here a text is read whole, unless the caller
sets `truncate`.
"""

import asyncio
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.http import inputs, ranking
from server.http import tei_bodies as bodies
from server.http.endpoint import Reply, Request
from server.http.errors import Headers
from server.http.octavo import Octavo, reading_headers
from server.http.openai import renamed
from server.http.reading import parse
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
FIELDS = (
    ("documents[", "inputs["),
    ("documents", "inputs"),
    ("document.text", "inputs"),
    ("embed.", ""),
    ("rank.", ""),
    ("tasks[0].rank.", ""),
    ("options.", ""),
)
MANY_VALUES = 50_000
MAX_TOKENIZED = 500_000  # characters; what is told of a token takes a hundred times its own


async def embed(octavo: Octavo, request: Request) -> Reply:
    """Embed texts."""
    body = await parse(request.body, bodies.EmbedBody)
    options = inputs.options_of(body.model, body.prompt_name)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    given = await inputs.read(
        octavo, request.context, inputs.own_texts(body.inputs, "inputs", model), body, model, options
    )
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
    body = await parse(request.body, bodies.EmbedPartsBody)
    options = inputs.options_of(body.model, body.prompt_name)
    model = inputs.supporting(octavo, request, "embed_sparse", body.model)
    given = await inputs.read(
        octavo, request.context, inputs.own_texts(body.inputs, "inputs", model), body, model, options
    )
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
    body = await parse(request.body, bodies.PredictBody)
    pairs, nested = inputs.pairs_of(body.inputs)
    if any(len(pair) == 2 for pair in pairs):  # noqa: PLR2004
        return await _predict_pairs(octavo, request, body, pairs, nested=nested)
    model = inputs.supporting(octavo, request, "classify", body.model)
    if body.raw_scores:
        raise InvalidCall("raw_scores", "labels of a document have scores from 0 to 1: its segments' logits are merged")
    options = inputs.options_of(body.model, None)
    given = await inputs.read(octavo, request.context, [pair[0] for pair in pairs], body, model, options)
    task = pb.Task(classify=pb.ClassifyOptions(), model=model.name)
    replies = await octavo.analyze(given.texts, options, task, request.context)
    labels = [
        [{"score": label.score, "label": label.label} for label in reply.results[0].classify.labels]
        for reply in replies
    ]
    return Reply(to_json(labels if nested else labels[0]), _headers_of_each(replies, given))


async def _predict_pairs(
    octavo: Octavo, request: Request, body: bodies.PredictBody, pairs: Sequence[Sequence[str]], *, nested: bool
) -> Reply:
    if any(len(pair) != 2 for pair in pairs):  # noqa: PLR2004
        raise InvalidCall("inputs", "a batch has pairs alone or texts alone")
    model = inputs.supporting(octavo, request, CROSS_ENCODE, body.model)
    label = model.head.facts.labels[0] if model.head and model.head.facts.labels else "LABEL_0"
    options = pb.CallOptions(model=model.name)
    given = await inputs.read(octavo, request.context, [pair[1] for pair in pairs], body, model, options)
    scores, replies = [], []
    for (query, _), text in zip(pairs, given.texts, strict=True):
        task = pb.Task(rank=pb.RankOptions(query=query, method=pb.RANK_METHOD_CROSS_ENCODER), model=model.name)
        replies += await octavo.analyze([text], options, task, request.context)
        scores.append(ranking.score_of(replies[-1].results[0].rank.score, model, raw=body.raw_scores))
    labels = [[{"score": score, "label": label}] for score in scores]
    return Reply(to_json(labels if nested else labels[0]), _headers_of_each(replies, given))


async def rerank(octavo: Octavo, request: Request) -> Reply:
    """Rank texts by how well they answer a query."""
    body = await parse(request.body, bodies.RerankBody)
    if not body.texts:
        raise InvalidCall("texts", "the array is empty")
    options = pb.CallOptions(model=body.model)
    model = ranking.ranker(octavo, request, body.model)
    given = await inputs.read(octavo, request.context, body.texts, body, model, options, query=body.query)
    response = await octavo.rank(given.texts, options, pb.RankOptions(query=body.query, passages=0), request.context)
    ranks = [
        {
            "index": document.index,
            **({"text": body.texts[document.index]} if body.return_text else {}),
            "score": ranking.score_of(document.ranking.score, model, raw=body.raw_scores),
        }
        for document in ranking.ranked(response)
    ]
    return Reply(to_json(ranks), headers_of(None, [response.info], given))


async def similarity(octavo: Octavo, request: Request) -> Reply:
    """Compare a sentence with others by their vectors' cosines."""
    body = await parse(request.body, bodies.SimilarityBody)
    if not body.inputs.sentences:
        raise InvalidCall("inputs.sentences", "the array is empty")
    options = pb.CallOptions(model=body.model)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    given = await inputs.read(octavo, request.context, texts, body.parameters or inputs.Truncating(), model, options)
    response = await octavo.embed(given.texts, options, pb.EmbedOptions(normalize=True), request.context)
    vectors = np.stack(
        [np.frombuffer(result.embedding.document_vector.data, "<f4") for result in response.results]
    ).astype(np.float64)
    segments = sum(len(result.segments) for result in response.results)
    return Reply(to_json((vectors[1:] @ vectors[0]).tolist()), headers_of(segments, [response.info], given))


async def tokenize(octavo: Octavo, request: Request) -> Reply:
    """Tokenise texts; offsets count code points."""
    body = await parse(request.body, bodies.TokenizeBody)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    texts = inputs.own_texts(body.inputs, "inputs", model)
    prefix = model.prefixes[inputs.input_type(body.prompt_name) or ""]
    if (size := sum(map(len, texts))) > MAX_TOKENIZED:
        raise InvalidCall("inputs", f"{size:,} characters; /tokenize takes {MAX_TOKENIZED:,} a call")
    made = await octavo.aside(
        request.context,
        lambda: to_json([_tokens(model, prefix + text, special=body.add_special_tokens) for text in texts]),
    )
    return Reply(made)


async def decode(octavo: Octavo, request: Request) -> Reply:
    """Turn token ids into texts."""
    body = await parse(request.body, bodies.DecodeBody)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    batch: list[Any] = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
    if not body.skip_special_tokens:
        raise InvalidCall("skip_special_tokens", "special tokens have no text")
    texts = [inputs.decoded(model, ids, f"ids[{i}]" if len(batch) > 1 else "ids") for i, ids in enumerate(batch)]
    return Reply(to_json(texts))


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
    fields = await parse(request.body, bodies.AnyBody)
    extra = fields.model_extra or {}
    if "query" in extra and "texts" in extra:
        return await rerank(octavo, request)
    if isinstance(extra.get("inputs"), dict):
        return await similarity(octavo, request)
    return await embed(octavo, request)


def tell(error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
    """An error as TEI's clients read it."""
    message = message_of(error, request_id)
    field = renamed(getattr(error, "field", ""), FIELDS)
    return STATUS[row.tei], to_json({"error": f"{field}: {message}" if field else message, "error_type": row.tei})


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


def _headers_of_each(replies: Sequence[pb.AnalyzeResponse], given: inputs.Read) -> Headers:
    return headers_of(sum(len(reply.segments) for reply in replies), [reply.info for reply in replies], given)


def headers_of(segments: int | None, infos: Sequence[pb.ReplyInfo], given: inputs.Read) -> Headers:
    """TEI's timings in milliseconds, and what was read."""
    usage = pb.Usage(
        tokens=sum(info.usage.tokens for info in infos),
        cached_tokens=sum(info.usage.cached_tokens for info in infos),
    )

    def longest(stage: str) -> bytes:
        return b"%d" % max(getattr(info.timings, stage).ToMilliseconds() for info in infos)

    return [
        *reading_headers(segments, usage, infos[0].fingerprint, given.left_out),
        (b"x-compute-type", b"cpu"),
        (b"x-compute-time", longest("total")),
        (b"x-total-time", longest("total")),
        (b"x-tokenization-time", longest("tokenize")),
        (b"x-queue-time", longest("queue")),
        (b"x-inference-time", longest("compute")),
        (b"x-compute-tokens", b"%d" % usage.tokens),
        (b"x-compute-characters", b"%d" % sum(map(len, given.texts))),
    ]
