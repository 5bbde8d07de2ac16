"""The same long texts through libraries, and through servers by their own protocols, each in its own environment.

`transformers` (default settings, fp32), `onnxruntime` (int8) and `openvino` (bf16) are libraries, and get all of every
text, cut after every 510 tokens. `sentence_transformers` and the servers `infinity` and `mlserver` (Hugging Face
runtime, feature extraction) run with default settings, and truncate. How much they read is measured: the shortest
prefix of a text that gives the same vector. Only tokens that were read count for speed.

Each runs at its best batch size or number of callers, in turns with the others. `octavo` is a server in its default
configuration, called through gRPC, without its cache. Latency is for one text at a time. The cosine compares the
document's vector with that of `transformers`, which reads all of it in fp32; other cuts give other vectors, which is
not an error.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from benchmarks import workloads
from benchmarks.fidelity import cosines
from benchmarks.figures import Bars, Figure, Figures, Missing, Outcome, reason_of
from benchmarks.histograms import distribution
from benchmarks.peers.driver import Team
from benchmarks.peers.protocol import Vectors
from benchmarks.peers.servers import KINDS, started
from benchmarks.race import Race
from benchmarks.served import serve
from benchmarks.statistics import percentile_ms, ratio, summarise
from chunking import load_tokenizer
from encoder.threads import usable_cores
from octavo.client import Client
from server.config.schema import ModelSettings

_OURS, _REFERENCE = "octavo", "transformers"
_LIBRARIES = ("transformers", "sentence_transformers", "onnxruntime", "openvino")
_LENGTHS = (500, 1_000, 2_000, 4_000, 8_000)
_RANKS = (50, 95)
_TIMEOUT = 300.0
_SAME = 1 - 1e-5  # cosine of two vectors of the same tokens; of other tokens it is far less
_PART = 0.75  # of a text: who gives the same vector for it has not read to the end

Read = Callable[[Sequence[str], int], tuple[Vectors, float]]
"""Texts, and how many to take on at once → their vectors, and the seconds that it took."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One that is started, and how many texts it may be given at once (a batch, or callers)."""

    read: Read
    at_once: tuple[int, ...]


@click.option(
    "--sets", default=3, show_default=True, help="Sets of texts, each of five lengths from 500 to 8,000 tokens."
)
@click.option("--rounds", default=4, show_default=True, help="Rounds of the race.")
@click.option("--only", multiple=True, help="Race these peers alone (repeatable), beside octavo and transformers.")
@click.option("--install/--no-install", default=True, show_default=True, help="Make missing peers' environments.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
def run(sets: int, rounds: int, only: Sequence[str], install: bool, model: str) -> Figures:
    """Start everyone, find out how far each reads, then race."""
    folder = ModelSettings(path=model).folder
    texts = workloads.consecutive(_LENGTHS * sets)
    tokenizer = load_tokenizer(folder)
    tokens = [len(encoded) for encoded in tokenizer.encode(texts)]
    (probe,) = workloads.with_tokens([max(tokens)], tokenizer).values()
    names = [name for name in (_OURS, *_LIBRARIES, *KINDS) if not only or name in (_OURS, _REFERENCE, *only)]
    with tempfile.TemporaryDirectory(prefix="octavo-peers-") as scratch, ExitStack() as stack:
        peers, missing = _start(names, folder, Path(scratch), stack, texts[0], install)
        limits, vectors = {}, {}
        for name, peer in list(peers.items()):
            click.echo(f"asking how far {name} reads …", err=True)
            try:
                limits[name] = reach(peer.read, probe.split())
                vectors[name] = np.concatenate([peer.read([text], 1)[0] for text in texts])
            except Exception as error:  # noqa: BLE001  one that fails is missing; the others race
                missing[name] = Missing(reason_of(error))
                del peers[name]
        race = _race(peers, texts, rounds)
        waits = _wait(peers, texts)
    missing |= {variant.partition("/")[0]: reason for variant, reason in race.missing.items()}
    read = {name: [min(count, limit) for count in tokens] for name, limit in limits.items()}
    seconds = {name: race.seconds[best] for name in peers if (best := race.fastest(name))}
    return figures_of(names, missing, seconds, waits, read, tokens, vectors)


def reach(read: Read, words: Sequence[str]) -> int:
    """How many of the words, a token each, a reader reads: the fewest that give the vector of all of them."""
    whole, _ = read([" ".join(words)], 1)

    def same(count: int) -> bool:
        return bool(cosines(read([" ".join(words[:count])], 1)[0], whole)[0] > _SAME)

    most = int(_PART * len(words))
    if not same(most):
        return len(words)
    least = 0  # of these it has read all, and more
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (least, middle) if same(middle) else (middle, most)
    return most


def figures_of(
    names: Sequence[str],
    missing: Mapping[str, Missing],
    seconds: Mapping[str, list[float]],
    waits: Mapping[str, list[float]],
    read: Mapping[str, list[int]],
    tokens: Sequence[int],
    vectors: Mapping[str, Vectors],
) -> Figures:
    """Tell of each peer speed in tokens read, documents, latency, what it did not read, and its vectors' cosine."""
    figures: dict[str, Outcome] = {}
    for name in names:
        if name in missing:
            figures[f"speed.{name}"] = missing[name]
            continue
        done = sum(read[name])
        figures |= {
            f"speed.{name}": summarise([done / each for each in seconds[name]], "tokens/s"),
            f"documents.{name}": summarise([len(tokens) / each for each in seconds[name]], "documents/s"),
            f"unread.{name}": Figure(100 * (1 - done / sum(tokens)), "%", n=len(tokens)),
        }
        for rank in _RANKS:
            figures[f"p{rank}_ms.{name}"] = percentile_ms(waits[name], rank)
        figures[f"peers_latency.{name}"] = distribution(waits[name], "What one caller waits for a text")
        if _REFERENCE in vectors and name != _REFERENCE:
            figures[f"cosine.{name}"] = summarise(cosines(vectors[name], vectors[_REFERENCE]), "", np.mean)
        if _OURS in seconds and name != _OURS:
            # Times a token read, within a round.
            above, below = ([each / sum(read[who]) for each in seconds[who]] for who in (name, _OURS))
            figures[f"x_speed.{name}"] = ratio(above, below)
    return {**figures, **_bars(figures, names)}


def _bars(figures: Mapping[str, Outcome], names: Sequence[str]) -> Figures:
    wanted = (
        ("peers_speed.tokens read", "speed", "speed / tokens read a second", "Speed, counting only what was read"),
        ("peers_unread.tokens not read", "unread", "share / %", "Share of the same texts left unread"),
    )
    made: dict[str, Outcome] = {}
    for key, figure, label, title in wanted:
        found = {name: each for name in names if isinstance(each := figures.get(f"{figure}.{name}"), Figure)}
        made[key] = Bars(tuple(found), tuple(each.value for each in found.values()), label, title)
    return made


def _race(peers: Mapping[str, Peer], texts: Sequence[str], rounds: int) -> Race:
    """Race everyone in the best of its ways, which one look finds."""
    race = Race({f"{name}/{size}": _pass(peer, texts, size) for name, peer in peers.items() for size in peer.at_once})
    click.echo(f"looking at {len(race.variants)} ways …", err=True)
    race.keep_fastest(count=1)
    click.echo(f"racing {', '.join(race.variants)} …", err=True)
    race.measure(rounds)
    return race


def _pass(peer: Peer, texts: Sequence[str], at_once: int) -> Callable[[], float]:
    return lambda: peer.read(texts, at_once)[1]


def _wait(peers: Mapping[str, Peer], texts: Sequence[str]) -> dict[str, list[float]]:
    """Seconds of each text alone, text by text in turns."""
    waits: dict[str, list[float]] = {name: [] for name in peers}
    for text in texts:
        for name, peer in peers.items():
            waits[name].append(peer.read([text], 1)[1])
    return waits


def _start(
    names: Sequence[str], folder: Path, scratch: Path, stack: ExitStack, text: str, install: bool
) -> tuple[dict[str, Peer], dict[str, Missing]]:
    peers: dict[str, Peer] = {}
    missing: dict[str, Missing] = {}
    for name in names:
        click.echo(f"starting {name} …", err=True)
        try:
            peer = stack.enter_context(_started(name, folder, scratch, install))
            for size in peer.at_once:
                peer.read([text] * size, size)  # lazy set-up, and threads
            peers[name] = peer
        except Exception as error:  # noqa: BLE001  one that cannot start is missing; the others race
            missing[name] = Missing(reason_of(error))
    return peers, missing


@contextmanager
def _started(name: str, folder: Path, scratch: Path, install: bool) -> Iterator[Peer]:
    if name == _OURS:
        with serve("--model", str(folder)) as server, Client(server.address) as client:
            yield Peer(_asking(client), (1, 8))
    elif name in KINDS:
        with started(name, folder, scratch, install=install) as peer:
            yield Peer(_timed(peer.read), (1, 8))
    else:
        with Team(name, 1, scratch, install=install) as team:
            team.load(name, folder)
            yield Peer(lambda texts, size: team.read(name, texts, size, usable_cores()), (1, 8))


def _asking(client: Client) -> Read:
    def ask(texts: Sequence[str], callers: int) -> Vectors:
        results = client.embed_many(texts, in_flight=callers, timeout=_TIMEOUT, cache_mode="bypass")
        return np.stack([result.vector for result in results])

    return _timed(ask)


def _timed(read: Callable[[Sequence[str], int], Vectors]) -> Read:
    def run(texts: Sequence[str], at_once: int) -> tuple[Vectors, float]:
        start = time.perf_counter()
        vectors = read(texts, at_once)
        return vectors, time.perf_counter() - start

    return run
