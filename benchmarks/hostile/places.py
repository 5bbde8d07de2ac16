"""Places still held by stalled calls after the default deadline."""

import time

from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures
from benchmarks.hostile.attackers import attacking
from benchmarks.hostile.clients import stalled_streams
from benchmarks.served import Served, serve

__all__ = ["measure"]

_DEADLINE_SECONDS = 5.0
_AFTER_SECONDS = 5.0
_BEGIN_SECONDS = 20.0  # in which the calls must have begun


def measure() -> Figures:
    """Let 64 calls stall, and count what is in flight when their time and 5 s more are over."""
    deadline = f"server.default_deadline_seconds={_DEADLINE_SECONDS:g}"
    with serve("--set", deadline) as server, attacking(stalled_streams, Endpoint(server.address)) as attacker:
        end, most = time.monotonic() + _BEGIN_SECONDS, 0.0
        while not attacker.is_spent() and time.monotonic() < end:
            most = max(most, _in_flight(server))
            time.sleep(0.1)
        time.sleep(_DEADLINE_SECONDS + _AFTER_SECONDS)
        places, held = _in_flight(server), server.metric("octavo_request_bytes_in_flight")
        counted = attacker.stop()
    return {
        "hostile_places": Figure(places, "calls"),
        "hostile_places_most": Figure(most, "calls"),
        "hostile_places_bytes": Figure(held, "bytes"),
        **{f"hostile_client.places.{what}": Figure(value, "") for what, value in counted.items()},
    }


def _in_flight(server: Served) -> float:
    try:
        return server.metric("octavo_requests_in_flight")
    except LookupError:  # nobody has called yet
        return 0.0
