"""A call as the server understands it: checked, with every default filled in, and free of protobuf."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any

from chunking import Cutting, Frame, Segment
from server.auth.clients import Client
from server.errors import DeadlineExceeded
from server.inference.known import KnownDigests
from server.inference.tasks import EmbedTask, Task
from server.types import Computed, Head, Priority

if TYPE_CHECKING:
    from server.inference.models import ServedModel


class CacheMode(Enum):
    """What a call wants of the cache."""

    READ_WRITE = "read_write"
    READ_ONLY = "read_only"
    REFRESH = "refresh"
    BYPASS = "bypass"

    @property
    def reads(self) -> bool:
        """Whether what was kept may be used."""
        return self in {CacheMode.READ_WRITE, CacheMode.READ_ONLY}

    @property
    def writes(self) -> bool:
        """Whether what is computed is kept."""
        return self in {CacheMode.READ_WRITE, CacheMode.REFRESH}


@dataclass(slots=True)
class Usage:
    """Token counts; `processed = computed + cached`.

    Attributes:
        kept: what the model would have read for segments that only the caller's own vectors were wanted of.
    """

    tokens: int = 0
    processed: int = 0
    computed: int = 0
    kept: int = 0

    @property
    def cached(self) -> int:
        """Tokens of segments for which no layer ran."""
        return self.processed - self.computed

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.tokens + other.tokens,
            self.processed + other.processed,
            self.computed + other.computed,
            self.kept + other.kept,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What holds for all documents of a call, on one trunk: a caller's tasks on several trunks are as many calls.

    Attributes:
        deadline: of the monotonic clock, in seconds.
        model: whose layers run, and whose tokenizer cuts.
        frame: what surrounds each segment's own tokens.
        named: the model of the first task, which a reply names; another one if that is a head on the layers of `model`.
        fingerprint: two vectors may share an index only when theirs are equal.
        asked: usage of its tasks' queries, which were answered before its documents.
        known: segments whose vectors the caller holds. Embed tasks need nothing of them.
    """

    request_id: str
    client: Client
    priority: Priority
    deadline: float
    model: "ServedModel"
    named: "ServedModel"
    cutting: Cutting
    frame: Frame
    window: int
    cache_mode: CacheMode
    tasks: tuple[Task[Any], ...]
    fingerprint: str
    asked: Usage = field(default_factory=Usage)
    known: KnownDigests = field(default_factory=KnownDigests)

    @property
    def is_slow(self) -> bool:
        """Whether merging a segment takes so long that it must not be done on the event loop."""
        return any(task.is_slow for task in self.tasks)

    def heads(self, segment: Segment, *, kept: bool = False) -> tuple[Head, ...]:
        """What the model has to make of a segment for all of the tasks, each once."""
        return tuple(dict.fromkeys(head for task in self.tasks_of(kept=kept) for head in task.heads(segment)))

    def tasks_of(self, *, kept: bool) -> Sequence[Task[Any]]:
        """The tasks that need a segment: all of them, unless the caller keeps its vector."""
        return [task for task in self.tasks if not isinstance(task, EmbedTask)] if kept else self.tasks

    def knowing(self, known: KnownDigests) -> "Call":
        """The same call for a caller that holds the vectors of some segments: no document's vector can be made."""
        if not known:
            return self
        tasks = (replace(task, document=False) if isinstance(task, EmbedTask) else task for task in self.tasks)
        return replace(self, known=known, tasks=tuple(tasks))


@dataclass(slots=True)
class Stage:
    """Wall time during which a call was in a stage, in seconds: overlapping stays count once."""

    seconds: float = 0.0
    _until: float = 0.0

    def stay(self, start: float, end: float) -> None:
        """Count a stay; stays come about in the order of their ends."""
        self.seconds += max(0.0, end - max(start, self._until))
        self._until = max(self._until, end)


@dataclass(slots=True)
class Timings:
    """Wall time of a call's stages."""

    began: float = field(default_factory=time.monotonic)
    tokenize: Stage = field(default_factory=Stage)
    queue: Stage = field(default_factory=Stage)
    cache: Stage = field(default_factory=Stage)
    compute: Stage = field(default_factory=Stage)

    def computed(self, computed: Computed) -> None:
        """Count what a segment went through."""
        self.queue.stay(computed.queued, computed.started)
        self.compute.stay(computed.started, computed.finished)

    @property
    def total(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self.began


@asynccontextmanager
async def within(
    deadline: float, message: str = "the deadline passed before the answer was ready"
) -> AsyncIterator[None]:
    """Bound what happens inside by a time of the monotonic clock, which is the event loop's own.

    Args:
        deadline: in seconds; infinity is no bound.
        message: what the caller is told.

    Raises:
        DeadlineExceeded: the time came first.
    """
    try:
        async with asyncio.timeout(None if math.isinf(deadline) else deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceeded(message) from None
