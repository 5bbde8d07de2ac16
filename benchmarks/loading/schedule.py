"""When calls are sent: fixed in advance, so that a slow server does not reduce its own load."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.loading.corpus import Document
from octavo.v1 import inference_pb2 as pb

ANALYZE = "/octavo.v1.InferenceService/Analyze"
STREAM = "/octavo.v1.InferenceService/StreamSegments"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to be made.

    Attributes:
        at: seconds after the schedule's start.
        caller: who makes it, by index.
        request: its message as bytes: while calls are made, nothing is left to build.
        tokens: of its text.
    """

    at: float
    caller: int
    request: bytes
    tokens: int
    method: str = ANALYZE


def poisson(rate: float, seconds: float, draw: random.Random) -> list[float]:
    """Draw arrivals that know nothing of each other, `rate` a second on average."""
    times: list[float] = []
    now = draw.expovariate(rate)
    while now < seconds:
        times.append(now)
        now += draw.expovariate(rate)
    return times


def request_of(
    document: Document, *, cache: str = "BYPASS", priority: str = "UNSPECIFIED", method: str = ANALYZE
) -> bytes:
    """Serialise the request for a document's vector."""
    kind = pb.StreamSegmentsRequest if method == STREAM else pb.AnalyzeRequest
    options = pb.CallOptions(cache_mode=f"CACHE_MODE_{cache}", priority=f"PRIORITY_{priority}")
    tasks = [pb.Task(name="embed", embed=pb.EmbedOptions())]
    return kind(document=pb.Document(text=document.text), options=options, tasks=tasks).SerializeToString()


def calls_of(
    times: Sequence[float], caller: int, documents: Sequence[Document], *, cache: str = "BYPASS"
) -> list[Call]:
    """Give each time its document."""
    together = zip(times, documents, strict=True)
    return [Call(at, caller, request_of(each, cache=cache), each.tokens) for at, each in together]
