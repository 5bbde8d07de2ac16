"""Texts as callers write them: strings, pairs and token ids; and cut where the caller asks for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.http.endpoint import Request
from server.http.octavo import INPUT_TYPES, Octavo
from server.http.reading import Body
from server.inference.models import ServedModel
from server.inference.truncation import Keep, truncated
from server.limits import Context

PROMPTS = {None: None, "": None, "query": "query", "passage": "passage", "document": "passage"}


class Truncating(Body):
    """What most requests have; `model` is an addition, for servers of several."""

    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right"] = "Right"
    model: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """A request's texts as they are read.

    Attributes:
        left_out: characters that were cut off, as the caller asked.
    """

    texts: list[str]
    left_out: int


async def read(
    octavo: Octavo,
    context: Context,
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
    keep: Keep = "first" if body.truncation_direction == "Right" else "last"
    kept = await octavo.aside(context, lambda: [truncated(text, trunk.tokenizer, most, keep) for text in texts])
    return Read(kept, sum(map(len, texts)) - sum(map(len, kept)))


def texts_of(value: Any, field: str, decode: Callable[[list[int], str], str]) -> list[str]:
    """The texts of a string, of token ids, or of an array of those. `decode` takes ids and their field's name."""
    if isinstance(value, list) and value and _are_ids(value):
        return [decode(value, field)]
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InvalidCall(field, "the array is empty")
    texts = []
    for i, item in enumerate(items):
        where = f"{field}[{i}]" if isinstance(value, list) else field
        if isinstance(item, list) and _are_ids(item):
            item = decode(item, where)  # noqa: PLW2901
        if not isinstance(item, str):
            raise InvalidCall(where, "write a string, an array of token ids, or an array of those")
        texts.append(item)
    return texts


def own_texts(value: Any, field: str, model: ServedModel) -> list[str]:
    """The same, with ids of the model's own vocabulary."""
    return texts_of(value, field, partial(decoded, model))


def _are_ids(items: list[Any]) -> bool:
    return all(isinstance(item, int) and not isinstance(item, bool) for item in items)


def pairs_of(value: Any) -> tuple[list[list[str]], bool]:
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


def supporting(octavo: Octavo, request: Request, kind: str, name: str) -> ServedModel:
    """The model for a kind of task: the one that is named, else the first that supports it."""
    client = request.context.client
    return octavo.catalogue.for_task(kind, name, octavo.catalogue.resolve(name, client), client)


def options_of(model: str, prompt_name: str | None) -> pb.CallOptions:
    """Options of octavo.v1."""
    return pb.CallOptions(model=model, input_type=INPUT_TYPES[input_type(prompt_name)])


def input_type(prompt_name: str | None) -> str | None:
    """The input type of a prompt's name."""
    if prompt_name not in PROMPTS:
        raise InvalidCall("prompt_name", "the prompts are query and passage")
    return PROMPTS[prompt_name]


def decoded(model: ServedModel, ids: list[int], field: str) -> str:
    """The text of ids.

    Raises:
        InvalidCall: an id is none of the vocabulary.
    """
    size = len(model.tokenizer.vocabulary)
    for i, each in enumerate(ids):
        if not 0 <= each < size:
            raise InvalidCall(f"{field}[{i}]", f"{model.name} has token ids from 0 to {size - 1}")
    return model.tokenizer.decode(ids)
