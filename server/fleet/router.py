"""Rendezvous hashing with bounded loads: a document goes where its layers lie, unless that replica has its share.

Each key ranks all replicas by a hash of both (Thaler and Ravishankar, Using name-based mappings to increase hit rates,
1998), so a replica that joins or leaves moves only the keys that rank it first. No replica takes more than `BOUND`
times the mean load while others have room (Mirrokni, Thorup and Zadimoghaddam, Consistent hashing with bounded loads,
2018); a popular document then goes to the next of its ranking, which soon holds its layers too.

On a ring of points, as that paper has it, what a full replica turns away fills its neighbour, whose own documents move
on in turn: in simulated traffic half of the hits were lost.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

BOUND: Final = 1.25  # of the mean load
MEMORY_SECONDS: Final = 60.0  # load of this age counts a third
IDLE_TOKENS: Final = 30_000.0
"""A replica with less load takes any of its documents, whatever the mean: six seconds of computing in the last minute.
Otherwise an idle fleet would spread each document over all replicas."""

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_HALF: Final = np.uint64(32)
_OLDEST: Final = 100.0  # memories after which loads are counted anew, long before a float overflows


class Router:
    """Sends documents to replicas and keeps count of their loads. Belongs to one event loop.

    A load is a sum of tokens that fades with time: what was sent there, at full price until `settle` tells the price.
    So a document that is answered from its layers weighs little, and an answer that never comes is forgotten.
    """

    def __init__(self, replicas: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoch = clock()
        self._names: list[str] = []
        self._index: dict[str, int] = {}
        self._seeds = np.zeros(0, np.uint64)
        self._loads = np.zeros(0)  # in units that grow with time, so that old load fades untouched
        self.replace(replicas)

    @property
    def loads(self) -> dict[str, float]:
        """Each replica's load now, in tokens."""
        return dict(zip(self._names, (self._loads / self._unit()).tolist(), strict=True))

    def replace(self, replicas: Iterable[str]) -> None:
        """Set the fleet's replicas; those that stay keep their keys and their loads.

        Raises:
            ValueError: there are none.
        """
        names = list(dict.fromkeys(replicas))
        if not names:
            raise ValueError("a fleet has at least one replica")
        loads = [float(self._loads[self._index[name]]) if name in self._index else 0.0 for name in names]
        self._names, self._index = names, {name: i for i, name in enumerate(names)}
        self._seeds = np.array([_seed(name) for name in names], np.uint64)
        self._loads = np.array(loads)

    def owner(self, key: int) -> str:
        """The replica that a key ranks first."""
        return self._names[int(np.argmax(_ranks(self._seeds, key)))]

    def route(self, key: int, tokens: float) -> str:
        """Choose the replica for a document of about so many tokens, and count them as its load."""
        unit = self._unit()
        cost = tokens * unit
        most = max(BOUND * (float(self._loads.sum()) + cost) / len(self._loads), IDLE_TOKENS * unit)
        has_room = self._loads <= max(most - cost, 0.0)  # an idle one has room for any document
        ranks = _ranks(self._seeds, key)
        i = int(np.argmax(np.where(has_room, ranks, 0)) if has_room.any() else np.argmin(self._loads))
        self._loads[i] += cost
        return self._names[i]

    def settle(self, replica: str, tokens: float, charged: float) -> None:
        """Correct a load once a document's price is known.

        Args:
            replica: that answered.
            tokens: what `route` counted.
            charged: what was computed, and the rest at the price of cached tokens.
        """
        if (i := self._index.get(replica)) is not None:  # it may have left
            self._loads[i] = max(0.0, self._loads[i] + (charged - tokens) * self._unit())

    def _unit(self) -> float:
        """What a token weighs now, in units of the loads."""
        memories = (self._clock() - self._epoch) / MEMORY_SECONDS
        if memories > _OLDEST:
            self._loads *= math.exp(-memories)
            self._epoch += memories * MEMORY_SECONDS
            return 1.0
        return math.exp(memories)


def _ranks(seeds: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """How a key ranks each replica: the higher, the sooner."""
    mixed = seeds ^ np.uint64(key)
    for _ in range(2):
        mixed = mixed * _MULTIPLIER
        mixed ^= mixed >> _HALF
    return mixed


def _seed(replica: str) -> int:
    return int.from_bytes(hashlib.blake2b(replica.encode(), digest_size=8).digest(), "little")
