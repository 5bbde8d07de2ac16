"""`/embed_all`: states of all tokens, as text-embeddings-inference has them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from octavo.v1 import inference_pb2 as pb
from server.errors import DocumentTooLarge, ReplyTooLarge
from server.http import inputs, tei, tei_bodies
from server.http.endpoint import Reply, Request
from server.http.octavo import Octavo
from server.http.reading import parse
from server.inference.answer import Answer
from server.inference.call import CacheMode, Call, Timings, Usage
from server.inference.models import ServedModel
from server.inference.service import Job
from server.inference.tasks import Size
from server.inference.tasks.states import TokenStatesTask
from server.types import Priority


async def embed_all(octavo: Octavo, request: Request) -> Reply:
    """Give the states of all tokens, special tokens included."""
    body = await parse(request.body, tei_bodies.EmbedPartsBody)
    options = inputs.options_of(body.model, body.prompt_name)
    model = octavo.catalogue.resolve(body.model, request.context.client)
    given = await inputs.read(
        octavo, request.context, inputs.own_texts(body.inputs, "inputs", model), body, model, options
    )
    size = sum(len(text.encode()) for text in given.texts)
    if size > octavo.limits.max_document_bytes:
        raise DocumentTooLarge(
            "inputs", f"{size:,} bytes of text; this server takes {octavo.limits.max_document_bytes:,}"
        )
    call = _call(model, options, request)
    jobs = [Job(call, text, f"documents[{i}].text") for i, text in enumerate(given.texts)]
    timings = Timings()
    held = 0

    def grow(sizes: Sequence[tuple[Call, Size]]) -> None:
        nonlocal held
        needed = sum(each.tasks[0].reply_bytes(size) for each, size in sizes)
        if needed > octavo.limits.max_reply_bytes:
            raise ReplyTooLarge("inputs", "states of so many tokens do not fit a reply: send less at once")
        request.context.slot.hold(max(0, needed - held))
        held = max(held, needed)

    answers = await octavo.service.answer(jobs, timings, grow)
    for answer in answers:
        if not isinstance(answer, Answer):
            raise answer
    whole = [answer for answer in answers if isinstance(answer, Answer)]
    made = await asyncio.to_thread(lambda: to_json([_states(answer) for answer in whole]))
    usage = sum((answer.usage for answer in whole), Usage())
    info = pb.ReplyInfo(fingerprint=call.fingerprint, usage=pb.Usage(tokens=usage.tokens, cached_tokens=usage.cached))
    info.timings.total.FromNanoseconds(int(timings.total * 1e9))
    info.timings.compute.FromNanoseconds(int(timings.compute.seconds * 1e9))
    info.timings.tokenize.FromNanoseconds(int(timings.tokenize.seconds * 1e9))
    info.timings.queue.FromNanoseconds(int(timings.queue.seconds * 1e9))
    return Reply(made, tei.headers_of(sum(len(answer.segments) for answer in whole), [info], given))


def _states(answer: Answer) -> list[list[float]]:
    states: Any = answer.of_document()[0]
    rows: list[list[float]] = states.states.tolist()
    return rows


def _call(model: ServedModel, options: pb.CallOptions, request: Request) -> Call:
    """A call in the model's own configuration. States are too large to be kept for each token."""
    context, trunk = request.context, model.trunk or model
    task = TokenStatesTask("states", trunk.runner.encoder.hidden)
    prefix = trunk.prefixes[("", "query", "passage")[options.input_type]]
    return Call(
        context.request_id,
        context.client,
        context.client.plan.cap(Priority.INTERACTIVE),
        context.deadline,
        trunk,
        model,
        trunk.cutting,
        trunk.tokenizer.frame(prefix),
        trunk.window,
        CacheMode.READ_WRITE,
        (task,),
        trunk.fingerprint(trunk.cutting, trunk.window, (task,)),
    )
