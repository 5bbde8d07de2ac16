"""The response of Rank: documents by descending score."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from octavo.v1 import inference_pb2 as pb
from server.errors import EmptyDocument
from server.inference.answer import Answer
from server.inference.call import Call, Timings, Usage
from server.inference.tasks.rank import Ranking, best_first, fused
from server.status import status_of
from server.v1 import replies
from server.v1.requests import offset_unit, passages_of
from server.v1.results import ranking

Answers = Sequence[Answer | EmptyDocument]
FEWER = "ask for fewer passages, or rank fewer documents at a time"
"""To who asks for too much; a ranking has no stream."""


def response(
    request: pb.RankRequest,
    calls: Sequence[Call],
    answers: Answers,
    timings: Timings,
    price: Callable[[Usage], float],
) -> pb.RankResponse:
    """Rank documents. Their answers come call by call, each in the order of the request."""
    count, unit = len(request.documents), offset_unit(request.options)
    passes = [answers[i * count : (i + 1) * count] for i in range(len(calls))]
    usages = [_usage(each) for each in passes]
    total = sum(usages, Usage())
    response = pb.RankResponse(
        info=replies.reply_info(calls, total, timings, price(total)),
        trunks=[
            replies.trunk(call, replies.usage_of(usage, price(usage)))
            for call, usage in zip(calls, usages, strict=True)
        ],
    )
    faults = {i: answer for each in passes for i, answer in enumerate(each) if isinstance(answer, EmptyDocument)}
    ranked = [i for i in range(count) if i not in faults]
    methods = [method for trunk, each in enumerate(passes) for method in _methods([each[i] for i in ranked], trunk)]
    rankings = fused(methods, passages_of(request.rank, "rank")) if len(methods) > 1 else [*chain(*methods)]
    for place in best_first(rankings)[: request.top_k or None]:
        document = request.documents[ranked[place]]
        of_document = ranking(rankings[place], document.text, unit)
        response.documents.add(id=document.id, index=ranked[place], ranking=of_document)
    for i, fault in sorted(faults.items()):
        status = status_of(fault, calls[0].request_id)
        response.documents.add(id=request.documents[i].id, index=i, status=status)
    return response


def _methods(answers: Answers, trunk: int) -> list[tuple[Ranking, ...]]:
    """For each task of a call, what it says of each document."""
    return list(zip(*(_rankings(answer, trunk) for answer in answers if isinstance(answer, Answer)), strict=True))


def _rankings(answer: Answer, trunk: int) -> list[Ranking]:
    """What each task says of a document, whose passages name the trunk."""
    return [
        replace(each, passages=tuple(replace(passage, trunk=trunk) for passage in each.passages))
        for each in answer.of_document()
        if isinstance(each, Ranking)
    ]


def _usage(answers: Answers) -> Usage:
    """Usage of one pass over all documents. They share a call, whose queries were answered once."""
    whole = [answer for answer in answers if isinstance(answer, Answer)]
    return sum((answer.usage for answer in whole), whole[0].call.asked if whole else Usage())
