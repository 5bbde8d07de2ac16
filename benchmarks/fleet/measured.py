"""Two replicas of one thread each against one server of two threads: answers, throughput, the hop, affinity."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from benchmarks.figures import Figure, Figures
from benchmarks.fleet.served import fleet
from benchmarks.segmentation import edited, units
from benchmarks.served import serve
from benchmarks.statistics import proportion, ratio, summarise
from benchmarks.texts import english
from octavo.client import Client
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from octavo.v1.models_pb2_grpc import ModelServiceStub

QUIET = ("--set", "log.level=warning")
FAST, DENSE, ENTITIES, CLASSES = "splade-tiny", "all-MiniLM-L6-v2", "sensitive-info-rampart", "reuters-r8"
TOKEN = 4  # characters, about
WITHIN = 120.0  # seconds of a call
CALLERS = 8
Pairs: TypeAlias = tuple[list[float], list[float]]  # of one server, and of the fleet
_VARYING = ("usage", "timings", "request_id", "cursor", "resumed_from_layer", "uncached_tokens")


@contextmanager
def pair(*flags: str, models: Sequence[str]) -> Iterator[tuple[str, str]]:
    """One server of two threads and a fleet of two replicas with one each: their addresses."""
    named = [flag for model in models for flag in ("--model", model)]
    common = (*QUIET, *named)
    replicas = ("--replicas", "2", "--threads", "1")
    with serve(*common, "--set", "compute.threads=2") as one, fleet(*common, *replicas, *flags) as many:
        yield one.address, many.address


def same(documents: int, seed: int) -> Figures:
    """Ask both the same by each method, through stock stubs; all but times, prices and the cache's share is equal."""
    equal: list[bool] = []
    with pair(models=(DENSE, FAST, ENTITIES, CLASSES)) as addresses:
        asked = [_answers(address, documents, seed) for address in addresses]
        equal += [one == other for one, other in zip(*asked, strict=True)]
    return {"fleet_same": proportion(equal)}


def speed(rounds: int, seed: int) -> Figures:
    """Send documents that nobody has seen, and cached ones, to one server and to a fleet in turn."""
    texts = _texts(random.Random(seed))
    long: Pairs = ([], [])
    short: Pairs = ([], [])
    hop: Pairs = ([], [])
    with pair(models=(DENSE,)) as addresses:
        clients = [Client(address) for address in addresses]
        for round_ in range(rounds + 1):  # the first one warms up
            taken = [
                (_rate(client, [next(texts)[: 8_000 * TOKEN] for _ in range(6 * CALLERS)]), _short(client, texts))
                for client in clients
            ]
            if round_:
                for i, (long_rate, short_rate) in enumerate(taken):
                    long[i].append(long_rate)
                    short[i].append(short_rate)
        cached = next(texts)[: 2_000 * TOKEN]
        for _ in range(200):
            for client, seconds in zip(clients, hop, strict=True):
                seconds.append(_seconds(partial(client.embed, cached, timeout=WITHIN)))
        for client in clients:
            client.close()
    added = [1000 * (other - one) for one, other in zip(*hop, strict=True)][20:]
    return {
        "fleet_over_one_long": ratio(long[1], long[0]),
        "fleet_over_one_short": ratio(short[1], short[0]),
        "fleet_hop_ms": summarise(added, "ms"),
        "one_long": summarise(long[0], "documents/s"),
        "one_short": summarise(short[0], "calls/s"),
        "one_cached_ms": summarise([1000 * each for each in hop[0][20:]], "ms"),
    }


def affinity(documents: int, edits: int, seed: int) -> Figures:
    """Edit each document again and again; the share of segments that a fleet finds, over that of one server."""
    draw = random.Random(seed)
    texts = [english(draw, draw.randint(6_000, 30_000)) for _ in range(documents)]
    found: list[list[tuple[int, int]]] = [[], []]
    with pair("--own-caches", models=(FAST,)) as addresses:
        clients = [Client(address) for address in addresses]
        for version in range(edits + 1):
            for i, text in enumerate(texts):
                if version:
                    texts[i] = edited(draw, units("english", text, draw), units("english", texts[i - 1], draw))
            for client, counts in zip(clients, found, strict=True):
                with ThreadPoolExecutor(CALLERS) as callers:
                    counts.extend(callers.map(partial(_found, client), texts))
        for client in clients:
            client.close()
    one, many = (sum(hits for hits, _ in counts) for counts in found)
    return {
        "affinity_hits": Figure(many / one, "share", n=sum(all_ for _, all_ in found[0])),
        "one_hits": Figure(one / sum(all_ for _, all_ in found[0]), "share"),
    }


def _answers(address: str, documents: int, seed: int) -> list[Any]:
    """What a server says to a list of calls, without what may differ."""
    with grpc.insecure_channel(address) as channel:
        inference, models = InferenceServiceStub(channel), ModelServiceStub(channel)
        answers: list[Any] = [_plain(models.ListModels(models_pb2.ListModelsRequest()))]
        answers.append(_plain(models.GetModel(models_pb2.GetModelRequest(name=FAST))))
        draw = random.Random(seed)
        texts = [english(draw, draw.randint(200, 40_000)) for _ in range(documents)]
        for text in texts:
            answers += [_plain(call(request, timeout=WITHIN)) for call, request in _calls(inference, text)]
            stream = pb.StreamSegmentsRequest(document=pb.Document(text=text), tasks=_tasks())
            answers.append([_plain(event) for event in inference.StreamSegments(stream, timeout=WITHIN)])
        start = pb.ProcessDocumentsRequest(start=pb.ProcessStart(tasks=_tasks()))
        parts = [
            pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=str(i), text=text)) for i, text in enumerate(texts)
        ]
        results = inference.ProcessDocuments(iter([start, *parts]), timeout=WITHIN)
        answers.append(sorted(map(repr, map(_plain, results))))
    return answers


def _calls(stub: InferenceServiceStub, text: str) -> list[tuple[Callable[..., Message], Message]]:
    """A call of each unary method."""
    document = pb.Document(text=text)
    several = [pb.Document(text=part) for part in (text, text[: len(text) // 2], text[:300])]
    entities, classes, sparse = (pb.CallOptions(model=model) for model in (ENTITIES, CLASSES, FAST))
    return [
        (stub.Segment, pb.SegmentRequest(document=document)),
        (stub.Embed, pb.EmbedRequest(documents=several, embed=pb.EmbedOptions(return_segment_vectors=True))),
        (stub.Analyze, pb.AnalyzeRequest(document=document, tasks=_tasks())),
        (stub.ClassifyTokens, pb.ClassifyTokensRequest(document=document, options=entities)),
        (stub.Redact, pb.RedactRequest(document=document, options=entities)),
        (stub.Classify, pb.ClassifyRequest(document=document, options=classes)),
        (stub.EmbedSparse, pb.EmbedSparseRequest(document=document, options=sparse)),
        (stub.Rank, pb.RankRequest(documents=several, rank=pb.RankOptions(query="the state of the union"))),
    ]


def _tasks() -> list[pb.Task]:
    return [
        pb.Task(name="embed", embed=pb.EmbedOptions()),
        pb.Task(name="sparse", embed_sparse=pb.EmbedSparseOptions()),
    ]


def _plain(message: Message) -> Message:
    """A message without what differs from call to call."""
    for field, value in message.ListFields():
        if field.name in _VARYING:
            message.ClearField(field.name)
        elif field.message_type:
            for each in value if field.is_repeated else [value]:
                _plain(each)
    return message


def _texts(draw: random.Random) -> Iterator[str]:
    """Texts that differ from their first word on."""
    number = 0
    while True:
        number += 1
        yield f"Number {number}. {english(draw, 9_000 * TOKEN)}"


def _rate(client: Client, texts: Sequence[str]) -> float:
    """Documents a second, some at a time."""
    with ThreadPoolExecutor(CALLERS) as callers:
        return len(texts) / _seconds(lambda: list(callers.map(partial(client.embed, timeout=WITHIN), texts)))


def _short(client: Client, texts: Iterator[str]) -> float:
    """Calls a second with texts of a line or two."""
    text = next(texts)
    lines = [f"{i} {text[100 * i : 100 * (i + 1)]}" for i in range(len(text) // 100)]
    return _rate(client, lines)


def _found(client: Client, text: str) -> tuple[int, int]:
    """Segments of a document that were not computed, and all."""
    segments = client.embed(text, timeout=WITHIN).segments
    reused = [segment.resumed_from_layer is not None for segment in segments]
    return sum(reused), len(reused)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
