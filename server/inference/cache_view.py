"""A call's view of the layer cache: which keys it looks up, in which order, and under which tag it stores.

Three kinds of entries are stored. *Results* of heads, 1 to 2 kB a segment (of labels for each token up to 70 kB), serve
repeats. *States* at cut layers, about 400 kB a segment, serve other heads, late chunking, and models that share lower
layers. *Tokens* of regions, and of texts of medium length, serve repeats and edits. The store knows only keys and
arrays; this file makes the keys.

Methods of `CacheView` block on the disk: they are called in worker threads.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from cache import HeadFields, Key, KeyMaker, Kind, LayoutFields, RunFields, SegmentFields, Store, Tag, TokensFields
from chunking import FORMAT_VERSION, Region, RegionTokens, Segment, Tokens
from server.inference.call import Call
from server.types import Head, Pool, Priority, StateArray, SumRanges, Trained

if TYPE_CHECKING:
    from server.inference.models import ServedModel

Parts = Mapping[Head, NDArray[Any]]


class Doorkeeper:
    """Remembers the latest keys of bulk calls, whose entries are kept only when they come a second time."""

    def __init__(self, most: int = 1 << 18) -> None:
        self._most = most
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._lock = Lock()

    def again(self, key: Key) -> bool:
        """Tell whether the key was seen before, and remember it."""
        with self._lock:
            if key.digest in self._seen:
                self._seen.move_to_end(key.digest)
                return True
            self._seen[key.digest] = None
            if len(self._seen) > self._most:
                self._seen.popitem(last=False)
            return False


@dataclass(frozen=True, slots=True)
class Fields:
    """Makes what the keys of many segments share; remembers what it made."""

    run: Callable[["ServedModel", str, int, int], RunFields]
    layout: Callable[[int, int], LayoutFields]
    head: Callable[[str, Pool | Trained], HeadFields]


class LayerCache:
    """The store with the deployment's keys; gives each call its view."""

    def __init__(self, keys: KeyMaker, store: Store | None, *, keep_results: bool) -> None:
        self._keys = keys
        # Equal fields are one object, so that the key maker digests them once.
        self._fields = Fields(
            lru_cache(maxsize=1024)(run_fields),
            lru_cache(maxsize=1024)(layout_fields),
            lru_cache(maxsize=1024)(head_fields),
        )
        self._store = store
        self._keep_results = keep_results
        self._seen = Doorkeeper()

    def prepare(self, model: "ServedModel", tenant: str) -> None:
        """Digest what a tenant's segments of each length have in common: 14 µs each, which a first call need not take.

        Segments of another window or of pairs, and other tenants', are digested as they come.
        """
        run = self._fields.run(model, tenant, model.cuts[-1], model.window)
        for tokens in range(1, model.runner.encoder.max_tokens + 1):
            self._keys.state(run, SegmentFields(self._fields.layout(tokens, 0), np.zeros(tokens, np.int32)))

    def connect(self) -> None:
        """Connect the calling thread to the store."""
        if self._store is not None:
            self._store.contains_many([Key(Kind.TOKENS, bytes(32))])

    def view(self, call: Call, text: str) -> "CacheView":
        """Return a call's view for one document."""
        return CacheView(self._keys, self._fields, self._store, call, text, self._seen, keep_results=self._keep_results)


class CacheView:
    """Looks up and stores the entries of one document of a call."""

    def __init__(
        self,
        keys: KeyMaker,
        fields: Fields,
        store: Store | None,
        call: Call,
        text: str,
        seen: Doorkeeper,
        *,
        keep_results: bool,
    ) -> None:
        self._keys = keys
        self._fields = fields
        self._tenant = call.client.tenant
        self._text = text
        self._source = store if call.cache_mode.reads else None
        self._target = store if call.cache_mode.writes else None
        self._keep_results = keep_results
        self._seen = seen if call.priority is Priority.BULK else None
        self._model = call.model
        self._runs = {cut: fields.run(call.model, self._tenant, cut, call.window) for cut in call.model.cuts}

    @cached_property
    def _tag(self) -> Tag:
        """Names the document that stores entries. Lazy: read-only calls need no tag."""
        return Tag(self._tenant, self._model.name, self._keys.document(self._tenant, self._text.encode()))

    def key(self, segment: Segment, cut: int | None = None) -> Key:
        """Names a segment's state after `cut` layers; after the last by default."""
        run = self._runs[self._model.cuts[-1] if cut is None else cut]
        return self._keys.state(run, SegmentFields(self._fields.layout(len(segment.ids), segment.second), segment.ids))

    def results(self, wanted: Sequence[tuple[Key, Sequence[Head]]]) -> Sequence[Parts]:
        """What heads made of states earlier, for each (state's key, heads): those that are known, in one look-up."""
        if self._source is None or not self._keep_results:
            return [{} for _ in wanted]
        asked = [(i, head) for i, (_, heads) in enumerate(wanted) for head in heads if _is_kept(head)]
        kept = self._look_up([self._result_key(wanted[i][0], head) for i, head in asked])
        found: list[dict[Head, NDArray[np.float32]]] = [{} for _ in wanted]
        for (i, head), part in zip(asked, kept, strict=True):
            if part is not None:
                found[i][head] = part
        return found

    def states(self, wanted: Sequence[tuple[Segment, Key]]) -> Iterator[tuple[int, int, StateArray]]:
        """For segments, with the keys of their last states: those of which a state is known, in any order.

        Yields:
            The segment's position, the deepest cut whose state is known, and that state, valid until the one after the
            next.
        """
        if self._source is None:
            return
        last = self._model.cuts[-1]
        missing: Sequence[int] = range(len(wanted))
        for cut in reversed(self._model.cuts):
            positions: dict[Key, list[int]] = {}
            for i in missing:
                segment, key = wanted[i]
                positions.setdefault(key if cut == last else self.key(segment, cut), []).append(i)
            missing = []
            for key, state in self._source.each(positions):
                if state is None:
                    missing += positions[key]
                else:
                    for i in positions[key]:
                        yield i, cut, state

    def holds(self, keys: Sequence[Key]) -> list[bool]:
        """Whether each state is known, without reading it."""
        return [False] * len(keys) if self._source is None else self._source.contains_many(keys)

    def keep_computed(self, segment: Segment, key: Key, states: Mapping[int, StateArray], parts: Parts) -> None:
        """Store what was computed of a segment, whose last state the key names. Never waits for the disk."""
        if self._target is None:
            return
        last = self._model.cuts[-1]
        for cut, state in states.items():
            self._leave(key if cut == last else self.key(segment, cut), state)
        self.keep_results(key, parts)

    def keep_results(self, key: Key, parts: Parts) -> None:
        """Store what heads made of a state."""
        if self._target is None or not self._keep_results:
            return
        for head, part in parts.items():
            if _is_kept(head):
                self._leave(self._result_key(key, head), part)

    def _look_up(self, keys: Sequence[Key]) -> list[NDArray[Any] | None]:
        return self._source.get_many(keys, modest=self._seen is not None) if self._source else [None] * len(keys)

    def _leave(self, key: Key, array: NDArray[Any]) -> None:
        """Store an array; for bulk calls only the second time that it is made, and only in free room."""
        if self._target is None or (self._seen and not self._seen.again(key)):
            return
        self._target.put(key, array, self._tag, modest=self._seen is not None)

    def _result_key(self, state: Key, head: Pool | Trained) -> Key:
        return self._keys.result(self._fields.head(self._tenant, head), state)

    def known(self, regions: Sequence[Region]) -> Sequence[RegionTokens | None]:
        """Tokens of regions that were read earlier."""
        if self._source is None:
            return [None] * len(regions)
        found = self._look_up([self._tokens_key(region) for region in regions])
        return [None if rows is None else tokens_of(rows) for rows in found]

    def keep(self, region: Region, tokens: RegionTokens) -> None:
        """Store a region's tokens."""
        if self._target is not None:
            self._leave(self._tokens_key(region), rows_of(tokens))

    def _tokens_key(self, region: Region) -> Key:
        tokenizer = self._model.tokenizer
        return self._keys.tokens(
            TokensFields(
                self._tenant,
                bytes.fromhex(tokenizer.digest),
                tokenizer.library,
                FORMAT_VERSION,
                region.before.encode(),
                region.text.encode(),
            )
        )


def _is_kept(head: Head) -> TypeGuard[Pool | Trained]:
    """Whether a head's results are stored; ranges of tokens are specific to a call."""
    return not isinstance(head, SumRanges)


def rows_of(tokens: RegionTokens) -> NDArray[Any]:
    """A region's tokens as they are stored: (4, n), ids, starts and ends within the region, kinds of boundary.

    As uint16 if all numbers fit it: a region of English then takes 10 to 30 kB, not 20 to 60.
    """
    read = tokens.tokens
    rows = np.stack([read.ids, read.starts, read.ends, tokens.kinds])
    return rows.astype(np.uint16 if rows.max(initial=0) <= np.iinfo(np.uint16).max else np.int32)


def tokens_of(rows: NDArray[Any]) -> RegionTokens:
    """The inverse of `rows_of`."""
    ids, starts, ends, kinds = rows
    tokens = Tokens(ids.astype(np.int32), starts.astype(np.int64), ends.astype(np.int64))
    return RegionTokens(tokens, kinds.astype(np.uint8))


def run_fields(model: "ServedModel", tenant: str, cut: int, window: int) -> RunFields:
    """What decides a state after `cut` layers, apart from the segment."""
    encoder = model.runner.encoder
    return RunFields(
        tenant=tenant,
        architecture=encoder.architecture.canonical(),
        layers=bytes.fromhex(encoder.layer_digests[cut]),
        cut=cut,
        scheme=encoder.scheme,
        numerics=encoder.numerics(cut).encode(),
        window=window or None,
    )


def head_fields(tenant: str, head: Pool | Trained) -> HeadFields:
    """What decides a head's result, apart from the state."""
    if isinstance(head, Trained):
        return HeadFields(tenant, head=b"trained 1", options=head.digest)
    return HeadFields(tenant, head=b"pool 1", options=head.pooling)


def layout_fields(tokens: int, second: int = 0) -> LayoutFields:
    """Tokens from `second` on of type 1, unless it is 0; at positions from 0; the first and the last one global."""
    types = np.full(tokens, bool(second), np.int32)
    types[:second] = 0
    return LayoutFields(types, np.arange(tokens, dtype=np.int32), (0, tokens - 1))


def shared_cuts(model: "ServedModel", others: Iterable["ServedModel"]) -> set[int]:
    """Layers up to which another model computes the same: their states serve both."""
    own = model.runner.encoder
    cuts = set()
    for other in others:
        theirs = other.runner.encoder
        if other is model or theirs.architecture.canonical() != own.architecture.canonical():
            continue
        same = [a == b for a, b in zip(own.layer_digests, theirs.layer_digests, strict=False)]
        cuts.add(same.index(False) - 1 if False in same else len(same) - 1)
    return {cut for cut in cuts if cut > 0}
