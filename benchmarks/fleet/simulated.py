"""A simulated fleet: whether documents meet their layers again when there are many replicas.

The real routing code (`server.fleet`) gets simulated traffic: documents read by Zipf's law (exponent 1), a fifth of the
requests after an edit, so the popular ones are edited most. A document is a row of segments, each known by the least
hash of its windows; the document's key is the least of those, as for a real text. Replicas keep every segment that they
computed, and the fleet is kept at 70 % of its capacity.
"""

import itertools
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.figures import Curve, Figure, Figures, Outcome
from benchmarks.segmentation import edited, units
from benchmarks.statistics import proportion
from benchmarks.texts import english
from server.fleet.affinity import affinity_key
from server.fleet.router import Router

CACHED_PRICE = 0.1  # of a computed token, as the default limits have it
SPEED = 5_000  # tokens a second that a replica computes: two cores
UTILISATION = 0.7
BLOCK_TOKENS, BLOCKS = 22, 16  # of a segment: 352 tokens, as content-defined segments have on average
NEW_BLOCKS = 2  # a sentence with the windows around it
LONGEST = 60  # segments; the length's logarithm is evenly distributed
DOCUMENTS = 40  # for each replica
EDITED = 0.2  # of the requests
SIZES = (10, 100, 1_000)


def simulate(replicas: int, requests: int, edits: int, seed: int) -> Figures:
    """Replay so many requests for each replica, and edit real texts."""
    replayed = Replay(replicas, seed).run(requests * replicas)
    figures: dict[str, Outcome] = {
        "edits_moved": proportion(list(_edits_moved(edits, seed)), "%"),
        "affinity_simulated": Figure(replayed.hits, "share", n=replayed.segments),
        "affinity_imbalance": Figure(replayed.imbalance, "x", n=replicas),
        "keys_moved": Figure(_keys_moved(replicas, seed), "x", n=replicas),
    }
    others = {size: Replay(size, seed).run(requests * size) for size in SIZES if size != replicas}
    return figures | _curves(dict(sorted({**others, replicas: replayed}.items())))


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a replay's second half."""

    hits: float
    segments: int
    imbalance: float


@dataclass(slots=True)
class _Document:
    """Segments by number, and the least hash of each one's windows, from 0 to 1."""

    segments: list[int]
    least: list[float]


class Replay:
    """Traffic for so many replicas, and what they and one server would find."""

    def __init__(self, replicas: int, seed: int) -> None:
        self._names = [f"replica-{number}" for number in range(replicas)]
        self._draw = random.Random(f"{seed} {replicas}")
        self._numbers = itertools.count()
        self._documents: dict[int, _Document] = {}
        self._numpy = np.random.default_rng(seed)
        self._now = 0.0
        self._router = Router(self._names, clock=lambda: self._now)

    def run(self, requests: int) -> Replayed:
        """Send so many requests; the first half warms the caches."""
        held: dict[str, set[int]] = {name: set() for name in self._names}
        imbalance = 0.0
        by_one: set[int] = set()
        found = found_by_one = segments = 0
        for i, number in enumerate(self._asked(requests)):
            if 2 * i == requests:
                found = found_by_one = segments = 0
            document = self._documents.get(number) or self._documents.setdefault(number, self._new())
            if self._draw.random() < EDITED:
                self._edit(document)
            tokens = len(document.segments) * BLOCK_TOKENS * BLOCKS
            name = self._router.route(int(min(document.least) * 2**64), tokens)
            wanted = set(document.segments)
            known = len(wanted & held[name])
            charged = tokens * (1 - (1 - CACHED_PRICE) * known / len(wanted))
            self._router.settle(name, tokens, charged)
            found, found_by_one, segments = found + known, found_by_one + len(wanted & by_one), segments + len(wanted)
            held[name] |= wanted
            by_one |= wanted
            self._now += charged / (UTILISATION * SPEED * len(self._names))
            if 2 * i >= requests and i % len(self._names) == 0:
                loads = self._router.loads.values()
                imbalance = max(imbalance, max(loads) * len(loads) / sum(loads))
        return Replayed(found / found_by_one, segments, imbalance)

    def _asked(self, requests: int) -> Iterator[int]:
        """Documents by number; the lower, the more popular."""
        shares = 1 / np.arange(1, DOCUMENTS * len(self._names) + 1)
        return iter(self._numpy.choice(len(shares), requests, p=shares / shares.sum()).tolist())

    def _new(self) -> _Document:
        count = round(LONGEST ** self._draw.random())
        return _Document([next(self._numbers) for _ in range(count)], [self._least(0.0, BLOCKS) for _ in range(count)])

    def _edit(self, document: _Document) -> None:
        """Replace two blocks of a segment: if its least hash was theirs, the others' least is what remains."""
        place = self._draw.randrange(len(document.segments))
        least = document.least[place]
        if self._draw.random() < NEW_BLOCKS / BLOCKS:
            least = self._least(least, BLOCKS - NEW_BLOCKS)
        document.segments[place] = next(self._numbers)
        document.least[place] = min(least, self._least(0.0, NEW_BLOCKS))

    def _least(self, above: float, blocks: int) -> float:
        """Draw the least hash of some blocks, of which none is below a value."""
        return above + (1 - above) * (1 - math.exp(math.log(1 - self._draw.random()) / (blocks * BLOCK_TOKENS)))


def _keys_moved(replicas: int, seed: int, keys: int = 20_000) -> float:
    draw = random.Random(seed)
    points = [draw.getrandbits(64) for _ in range(keys)]
    names = [f"replica-{number}" for number in range(replicas + 1)]
    before, after = (Router(some) for some in (names[:-1], names))
    moved = sum(before.owner(key) != after.owner(key) for key in points)
    return moved / keys * (replicas + 1)


def _edits_moved(edits: int, seed: int) -> Iterator[bool]:
    for number in range(edits):
        draw = random.Random(f"fleet {seed} {number}")
        text, other = (english(draw, draw.randint(6_000, 60_000)) for _ in range(2))
        after = edited(draw, units("english", text, draw), units("english", other, draw))
        yield affinity_key(text) != affinity_key(after)


def _curves(replayed: Mapping[int, Replayed]) -> dict[str, Outcome]:
    sizes = tuple(map(float, replayed))
    hits = tuple(each.hits for each in replayed.values())
    imbalance = tuple(each.imbalance for each in replayed.values())
    return {
        "fleet_hits.affinity": Curve(sizes, hits, "replicas", "segments found / found by one server", "Hits", log="x"),
        "fleet_load.affinity": Curve(sizes, imbalance, "replicas", "largest load / mean", "Imbalance", log="x"),
    }
