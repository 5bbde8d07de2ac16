"""The polite client: sends one small call after another and times each."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from benchmarks.endpoint import Endpoint
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc

CALLS = 300
_PAUSE_SECONDS = 0.01
_DEADLINE_SECONDS = 10.0  # what a call that failed counts as
_MOST_SECONDS = 90.0  # of a series: each call may fail at its deadline
_WARM_CALLS = 30


@dataclass(slots=True)
class Calls:
    """Seconds that calls took; one that failed counts as its deadline."""

    seconds: list[float] = field(default_factory=list)
    failed: int = 0


class Polite:
    """Sends new sentences one at a time, with a pause after each answer."""

    def __init__(self, channel: grpc.Channel, token: str | None) -> None:
        self._embed: Any = inference_pb2_grpc.InferenceServiceStub(channel).Embed  # its stub types no timeouts
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._count = 0

    def calls(self, going_on: Callable[[], bool] = lambda: False, at_least: int = CALLS) -> Calls:
        """Call at least ``at_least`` times, and on for as long as ``going_on`` holds."""
        made, end = Calls(), time.monotonic() + _MOST_SECONDS
        while (len(made.seconds) < at_least or going_on()) and time.monotonic() < end:
            began = time.monotonic()
            try:
                self._call()
            except grpc.RpcError:
                made.failed += 1
                made.seconds.append(_DEADLINE_SECONDS)
            else:
                made.seconds.append(time.monotonic() - began)
            time.sleep(_PAUSE_SECONDS)
        return made

    def warm_up(self) -> None:
        """Call a few times without counting.

        Raises:
            grpc.RpcError: the server does not answer.
        """
        for _ in range(_WARM_CALLS):
            self._call()

    def _call(self) -> None:
        self._count += 1
        text = f"This is the polite caller's sentence number {self._count} of today."
        request = pb.EmbedRequest(documents=[pb.Document(text=text)])
        self._embed(request, timeout=_DEADLINE_SECONDS, metadata=self._metadata)


@contextmanager
def polite(target: Endpoint) -> Iterator[Polite]:
    """Connect the caller and warm it up."""
    with grpc.insecure_channel(target.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        caller = Polite(channel, target.token)
        caller.warm_up()
        yield caller
