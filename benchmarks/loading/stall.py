"""A server double that stalls, which a harness that waits for slow servers would not notice."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc

from benchmarks import histograms
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures
from benchmarks.loading.generator import Generator, Sent
from benchmarks.loading.schedule import ANALYZE, Call
from benchmarks.loading.tally import latencies

_STALL_SECONDS, _STALLS_AT = 1.0, 200  # calls before
_CALLS, _RATE = 1000, 200.0  # a second: the stall meets a fifth of them
_ANSWER_SECONDS = 0.001
_DEADLINE = 10.0
_SEEN = 0.7  # of the stall: of 200 calls planned in it, the tenth longest waits for 0.95
_TITLE = "A server that stalls for a second"
_MILLI = 1000.0


def stalled() -> Figures:
    """Send it a schedule, and the same calls one after the other, as harnesses do that see no stall.

    The one who waits makes a single call during the stall, which is one in a thousand.
    """
    calls = [Call(i / _RATE, 0, b"", 0) for i in range(_CALLS)]
    with Generator() as generator:
        with stalling_server() as address:
            by_schedule = generator.offer([Endpoint(address)], calls, _DEADLINE).result()
        with stalling_server() as address:
            one_by_one = generator.saturate([Endpoint(address)], calls, in_flight=1).result()
    told = {"by_schedule": _distribution(by_schedule), "one_by_one": _distribution(one_by_one)}
    p99 = {name: float(histograms.percentiles(each, 99)[0]) for name, each in told.items()}
    return {
        "stall_seen": Figure(float(_SEEN * _STALL_SECONDS <= p99["by_schedule"] < 2 * _STALL_SECONDS), ""),
        **{f"stall_p99_ms.{name}": Figure(_MILLI * seconds, "ms", n=_CALLS) for name, seconds in p99.items()},
        **{f"stall.{name}": each for name, each in told.items()},
    }


@contextmanager
def stalling_server(seconds: float = _STALL_SECONDS, after: int = _STALLS_AT) -> Iterator[str]:
    """Answer calls one after the other, at once but for one that comes after so many; the address."""
    answered = 0

    def analyze(request: bytes, context: grpc.ServicerContext) -> bytes:
        nonlocal answered
        del context
        time.sleep(seconds if answered == after else _ANSWER_SECONDS)
        answered += 1
        return request

    service, method = ANALYZE.strip("/").split("/")
    handler: Any = grpc.unary_unary_rpc_method_handler(analyze)
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def _distribution(sent: Sent) -> Any:
    return histograms.distribution(latencies(sent.answers), _TITLE)
