"""A fleet under load while replicas are killed, its model changes, or too much is asked of one replica."""

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.figures import Curve, Figure, Figures
from benchmarks.fleet.measured import DENSE, FAST, QUIET
from benchmarks.fleet.served import Fleet, fleet, wait_for_engines
from benchmarks.served import serve
from benchmarks.statistics import summarise
from benchmarks.texts import english
from octavo.client import Client, OctavoError

DEADLINE = 30.0
CALLERS = 4  # of unary calls, beside one of streams and one of bulk
DOCUMENTS = 60
REPLICAS = ("--replicas", "2", "--threads", "1")
SETTLE_SECONDS = 2.0
PATIENCE = 300.0
FIRST_RATE, GROWTH = 2.0, 1.05  # calls a second, and how it grows each second
CHARACTERS = 6_000  # of each of these calls, about 1,500 tokens
LONG = 24  # calls that wait: more tokens than a replica's queue may hold
MOST_WAITING = 1_000

Vectors = dict[str, dict[str, bytes]]


@dataclass
class Load:
    """What became of the calls of a while."""

    vectors: Vectors
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    wrong: int = 0
    models: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def judge(self, text: str, model: str, vector: bytes) -> None:
        """Count an answer."""
        self.answered += 1
        self.models.add(model)
        self.wrong += self.vectors[model][text] != vector

    @contextmanager
    def on(self, address: str) -> Iterator[None]:
        """Load a fleet until the block ends."""
        texts = [*next(iter(self.vectors.values()))]
        work = [*[self._unary] * CALLERS, self._streams, self._bulk]
        with ThreadPoolExecutor(len(work)) as callers:
            running = [callers.submit(each, address, texts, random.Random(i)) for i, each in enumerate(work)]
            try:
                yield
            finally:
                self.over.set()
                for each in running:
                    each.result()

    def _unary(self, address: str, texts: list[str], draw: random.Random) -> None:
        def call(client: Client, text: str) -> None:
            reply = client.embed(text, timeout=DEADLINE)
            self.judge(text, reply.model.name, reply.vector.tobytes())

        self._again(address, texts, draw, call)

    def _streams(self, address: str, texts: list[str], draw: random.Random) -> None:
        def call(client: Client, text: str) -> None:
            stream = client.stream(text, timeout=DEADLINE)
            for _ in stream:
                pass
            summary = stream.summary
            assert summary is not None
            self.judge(text, summary.model.name, summary.results["embed"].vector.tobytes())

        self._again(address, texts, draw, call)

    def _bulk(self, address: str, texts: list[str], draw: random.Random) -> None:
        def call(client: Client, _: str) -> None:
            chosen = draw.sample(texts, 10)
            found = dict(client.process(enumerate(chosen), timeout=DEADLINE))
            for i, text in enumerate(chosen):
                reply = found[i]
                if isinstance(reply, OctavoError):
                    raise reply
                self.judge(text, reply.model.name, reply.results["embed"].vector.tobytes())

        self._again(address, texts, draw, call)

    def _again(self, address: str, texts: list[str], draw: random.Random, call: Callable[[Client, str], None]) -> None:
        with Client(address) as client:
            while not self.over.is_set():
                try:
                    call(client, draw.choice(texts))
                except (OctavoError, KeyError) as error:
                    self.failed.append(f"{call.__qualname__} {type(error).__name__}: {error}")


def kills(number: int, seed: int) -> Figures:
    """Kill a replica at random moments of a load, again and again; each is back before the next."""
    draw = random.Random(seed)
    load = Load(_vectors(seed, FAST))
    back: list[float] = []
    with fleet(*QUIET, *REPLICAS, "--model", FAST) as served, load.on(served.address):
        for _ in range(number):
            time.sleep(draw.uniform(0.5, SETTLE_SECONDS))
            served.kill_one(draw)
            began = time.monotonic()
            time.sleep(SETTLE_SECONDS)  # until it has gone, and Ray knows
            wait_for_engines(served, 2)
            back.append(time.monotonic() - began)
    return {
        "fleet_kills_lost": Figure(len(load.failed), "calls", n=load.answered + len(load.failed)),
        "fleet_kills_wrong": Figure(load.wrong, "answers", n=load.answered),
        "fleet_kills": Figure(number, "kills"),
        "fleet_back_s": summarise(back, "s"),
    }


def rolling(seed: int) -> Figures:
    """Change the model under load, there and back."""
    load = Load(_vectors(seed, FAST, DENSE))
    seconds: list[float] = []
    with fleet(*QUIET, *REPLICAS, config=_config(FAST)) as served, load.on(served.address):
        for model in (DENSE, FAST):
            time.sleep(SETTLE_SECONDS)
            began = time.monotonic()
            served.change(_config(model))
            served.changed()
            seconds.append(time.monotonic() - began)
            time.sleep(SETTLE_SECONDS)
            load.models.clear()
            time.sleep(SETTLE_SECONDS)
            if load.models != {model}:
                raise RuntimeError(f"after the change to {model} answers come from {sorted(load.models)}")
    return {
        "rolling_failed": Figure(len(load.failed) + load.wrong, "calls", n=load.answered + len(load.failed)),
        "rolling_s": summarise(seconds, "s"),
    }


def scaling(seed: int, seconds: float = 60.0) -> Figures:
    """Ask more and more of one replica, and no more once its queue is long; the seconds from there until it shrinks."""
    sizes = ("--replicas", "1", "--max-replicas", "2", "--threads", "1")
    with fleet(*QUIET, *sizes, "--model", DENSE) as served, Client(served.address) as client:
        samples = _samples(served, client, random.Random(seed), seconds)
    times, depths, engines = zip(*samples, strict=True)
    long = next(i for i, depth in enumerate(depths) if depth >= LONG)
    peak = depths.index(max(depths))
    if engines[peak] == 1:
        raise RuntimeError("the queue was longest before there was a second replica")
    return {
        "scale_up_s": Figure(times[peak] - times[long], "s", n=len(samples)),
        "fleet_queue.calls": Curve(times, depths, "seconds", "calls that wait", "Scaling up"),
    }


def _samples(served: Fleet, client: Client, draw: random.Random, seconds: float) -> list[tuple[float, float, int]]:
    """Send ever more texts a second, and for some time as many; times, calls that wait, and engines at each."""
    text = english(draw, 1_000_000)
    began, end, rate = time.monotonic(), math.inf, FIRST_RATE
    samples: list[tuple[float, float, int]] = []
    calls: list[Future[object]] = []
    with ThreadPoolExecutor(MOST_WAITING) as callers:
        while (now := time.monotonic()) < end:
            start = draw.randrange(len(text) - CHARACTERS)
            calls.append(callers.submit(client.embed, text[start : start + CHARACTERS], timeout=PATIENCE))
            waiting = sum(not call.done() for call in calls)
            samples.append((now - began, float(waiting), len(served.engines())))
            if end == math.inf:
                rate *= GROWTH ** (1 / rate)
                end = now + seconds if waiting >= LONG else end
            time.sleep(max(0.0, now + 1 / rate - time.monotonic()))
        for call in calls:
            call.result()
    return samples


def _vectors(seed: int, *models: str) -> Vectors:
    """What one server answers, by model and text."""
    draw = random.Random(seed)
    texts = [english(draw, draw.randint(500, 12_000)) for _ in range(DOCUMENTS)]
    flags = [flag for model in models for flag in ("--model", model)]
    with serve(*QUIET, *flags) as server, Client(server.address) as client:
        return {model: {text: client.embed(text, model=model).vector.tobytes() for text in texts} for model in models}


def _config(model: str) -> str:
    return f'[[models]]\npath = "{model}"\n'
