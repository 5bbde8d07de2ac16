"""States of documents after a model's last layer: from the layer cache, or computed and stored there.

Entries are those of the server's anonymous client: what it has computed is not computed again, nor the other way round.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from prometheus_client import CollectorRegistry

import chunking
from cache import Key, KeyMaker, SegmentFields, Store, Tag
from chunking import Segment
from encoder.threads import usable_cores
from server.auth.clients import ANONYMOUS
from server.config.schema import Settings
from server.inference.cache_view import layout_fields, run_fields
from server.inference.loading import open_catalogue
from server.inference.models import ServedModel
from server.inference.storage import open_store, secret
from server.telemetry.metrics import Metrics
from server.types import StateArray, Work

_TOGETHER: Final = 64  # segments in memory, 25 MB of a small model's
_FLUSH_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, eq=False)
class States:
    """A model whose states are looked up, or computed on all cores; made by `open_states`."""

    model: ServedModel
    _keys: KeyMaker
    _store: Store | None
    _pool: ThreadPoolExecutor

    def read(self, texts: Sequence[str], advance: Callable[[int], None]) -> Iterator[tuple[int, Segment, StateArray]]:
        """The segments of texts in order, each with the index of its text and its state.

        Args:
            texts: documents.
            advance: called with the number of texts that were read.
        """
        segments = self._segments(texts)
        done = 0
        while group := list(islice(segments, _TOGETHER)):
            states = self._states([(texts[index], segment) for index, segment in group])
            for (index, segment), state in zip(group, states, strict=True):
                yield index, segment, state
            advance(group[-1][0] - done)
            done = group[-1][0]
        advance(len(texts) - done)

    def _segments(self, texts: Iterable[str]) -> Iterator[tuple[int, Segment]]:
        model = self.model
        frame = model.tokenizer.frame(model.prefixes[""])
        for index, text in enumerate(texts):
            for segments in chunking.read(text, model.tokenizer, model.cutting, frame):
                for segment in segments:
                    yield index, segment

    def _states(self, group: Sequence[tuple[str, Segment]]) -> list[StateArray]:
        layers = self.model.runner.layers
        run = run_fields(self.model, ANONYMOUS.tenant, layers, self.model.window)
        keys = [
            self._keys.state(run, SegmentFields(layout_fields(len(segment.ids)), segment.ids)) for _, segment in group
        ]
        looked_up = self._store.each(keys) if self._store else ()
        known = {key: state.copy() for key, state in looked_up if state is not None}
        states: list[StateArray | None] = [known.get(key) for key in keys]
        missing = [index for index, state in enumerate(states) if state is None]
        works = [
            Work(bytes(keys[i]), self.model.runner, group[i][1].ids, self.model.window, 0, None, (layers,), ())
            for i in missing
        ]
        computed = self._pool.map(lambda run: self.model.runner.compute(run, threads=1), list(self._runs(works)))
        made = (each.states[layers] for run in computed for each in run)
        for index, state in zip(missing, made, strict=True):
            states[index] = state
            self._keep(keys[index], state, group[index][0])
        return [state for state in states if state is not None]

    def _runs(self, works: Iterable[Work]) -> Iterator[list[Work]]:
        """Segments that share a run of the encoder."""
        run: list[Work] = []
        for work in works:
            if run and sum(len(each.ids) for each in (*run, work)) > self.model.runner.batch_tokens:
                yield run
                run = []
            run.append(work)
        if run:
            yield run

    def _keep(self, key: Key, state: StateArray, text: str) -> None:
        if self._store:
            document = self._keys.document(ANONYMOUS.tenant, text.encode())
            self._store.put(key, state, Tag(ANONYMOUS.tenant, self.model.name, document))


@contextmanager
def open_states(settings: Settings) -> Iterator[States]:
    """Load the settings' first model, and open the layer cache if it is enabled.

    Raises:
        StartError: the model or the cache cannot be used.
    """
    keys = KeyMaker(secret(settings.cache))
    model = next(iter(open_catalogue(settings, Metrics(CollectorRegistry()))))
    store = open_store(settings.cache) if settings.cache.enabled else None
    with ThreadPoolExecutor(settings.compute.threads or usable_cores(), thread_name_prefix="train") as pool:
        try:
            yield States(model, keys, store, pool)
        finally:
            if store:
                store.close(_FLUSH_SECONDS)
