"""Faults in each background loop of a server: does the loop recover, or does /livez fail?"""

import socket
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks import redis_server
from benchmarks.figures import Figure, Figures, Missing
from benchmarks.hostile.victim import FAULTS
from benchmarks.loading.guests import Guest, invite, toml
from benchmarks.served import Served, serve
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc

_PROGRAM = "from benchmarks.hostile.victim import main; main({control!r})"
_MODEL = "splade-tiny"  # small: many servers are started
_PLAN = "tokens_per_minute = 10_000_000"
# Commands of the victim that meet all loops at once, or one that shows itself in no list.
_EVERYWHERE = ("threads", "disk", "gauge", "redis", "executors", "listener", "accept", "watches")
_FAULT_SECONDS = 2.0
_RECOVERY_SECONDS = 10.0
_TOLD_SECONDS = 40.0  # after the fault; /livez reports a blocked event loop after 30 s
_CALL_SECONDS = 5.0
_TOGETHER = 8  # calls: more than a server has streams
_NUMBERS = count()


class NotInjected(Exception):
    """The fault could not be injected; the message says why."""


@dataclass(frozen=True, slots=True)
class _Victim:
    """A server whose loops can be made to fail."""

    server: Served
    control: Path
    guest: Guest
    loops: Counter[str]

    def tell(self, *words: str) -> str:
        """Send a command; the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.control))
            with connection.makefile("rw", encoding="utf-8") as lines:
                lines.write(" ".join(words) + "\n")
                lines.flush()
                return lines.readline().strip()

    def inject(self, name: str, fault: str) -> None:
        """Inject a fault into a loop.

        Raises:
            NotInjected: it could not be injected.
        """
        command = (name, f"{_FAULT_SECONDS:g}") if name in _EVERYWHERE else (name.partition(":")[0], name, fault)
        if (told := self.tell(*command)) != "ok":
            raise NotInjected(told)

    def works(self) -> str:
        """Name what does not work; "" if everything does."""
        try:
            with grpc.insecure_channel(self.server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                for name, check in self._checks(channel).items():
                    if not check():
                        return name
        except (grpc.RpcError, OSError, LookupError) as error:
            return error.code().name if isinstance(error, grpc.Call) else type(error).__name__
        return ""

    def _checks(self, channel: grpc.Channel) -> Mapping[str, Any]:
        health: Any = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        return {
            "a loop is gone": lambda: _kinds(self.tell("loops").split()) >= self.loops,
            "calls": lambda: self._call(channel),
            "cache writer": lambda: self._grows("octavo_cache_entries", lambda: self._call(channel), tier="disk"),
            "loop watch": lambda: self._grows("octavo_event_loop_lag_seconds_count", lambda: time.sleep(0.2)),
            "watches": lambda: next(iter(health.Watch(asked, timeout=_CALL_SECONDS))).status == 1,
        }

    def _call(self, channel: grpc.Channel) -> bool:
        """Make more calls at once than there are streams; all must be answered."""
        embed: Any = inference_pb2_grpc.InferenceServiceStub(channel).Embed
        metadata = (("authorization", f"Bearer {self.guest.key}"),)

        def one(number: int) -> Any:
            document = pb.Document(text=f"Sentence {number} was never sent before. " * 40)
            return embed(pb.EmbedRequest(documents=[document]), timeout=_CALL_SECONDS, metadata=metadata)

        with ThreadPoolExecutor(_TOGETHER) as threads:
            return all(threads.map(one, [next(_NUMBERS) for _ in range(_TOGETHER)]))

    def _grows(self, metric: str, act: Any, **labels: str) -> bool:
        before = self.server.metric(metric, **labels)
        act()
        end = time.monotonic() + _CALL_SECONDS
        while self.server.metric(metric, **labels) <= before and time.monotonic() < end:
            time.sleep(0.05)
        return self.server.metric(metric, **labels) > before

    def is_live(self) -> bool:
        """Whether /livez says so."""
        try:
            with urllib.request.urlopen(f"http://{self.server.metrics_address}/livez", timeout=5) as reply:
                return bool(reply.status == 200)  # noqa: PLR2004
        except (urllib.error.URLError, OSError):
            return False


def measure() -> Figures:
    """Inject each fault into each loop; replace a server that did not recover."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-silent-")))
        try:
            storage = ("--set", f"limits.storage={stack.enter_context(redis_server.running(folder)).url}")
        except redis_server.NoRedis as reason:
            return {"silent_deaths": Missing(str(reason))}
        outcomes = _trials(storage)
    deaths = [name for name, outcome in outcomes.items() if outcome.startswith("silent")]
    reached = {name: outcome for name, outcome in outcomes.items() if not outcome.startswith("not injected")}
    if not reached:
        return {"silent_deaths": Missing("no fault could be injected")}
    return {
        "silent_deaths": Figure(len(deaths), "loops × faults", n=len(reached)),
        "silent_told": Figure(sum(outcome == "told" for outcome in reached.values()), "loops × faults"),
        "silent_not_injected": Figure(len(outcomes) - len(reached), "loops × faults"),
        **{f"silent.{name}": Figure(1, "") for name in deaths},
    }


def _trials(storage: tuple[str, str]) -> dict[str, str]:
    """Return the outcome of each fault in each loop."""
    outcomes: dict[str, str] = {}
    with _started(storage) as victim:
        loops = list({_kind(name): name for name in victim.tell("loops").split()}.values())
    trials = [(name, fault) for name in loops for fault in FAULTS] + [(name, "") for name in _EVERYWHERE]
    while trials:
        with _started(storage) as victim:
            while trials:
                name, fault = trials.pop(0)
                outcome = outcomes[f"{name}.{fault}"] = _outcome(victim, name, fault)
                click.echo(f"  {name} {fault}: {outcome}", err=True)
                if outcome not in {"recovered", "not injected"}:
                    break
    return outcomes


def _outcome(victim: _Victim, name: str, fault: str) -> str:
    began = time.monotonic()
    try:
        victim.inject(name, fault)
    except NotInjected as reason:
        return f"not injected: {reason}"
    if name in _EVERYWHERE:
        while time.monotonic() - began < _FAULT_SECONDS:
            victim.works()  # the loops must meet the fault
    broken = victim.works()
    while broken and time.monotonic() - began < _RECOVERY_SECONDS:
        time.sleep(0.2)
        broken = victim.works()
    if not broken:
        return "recovered"
    while time.monotonic() - began < _TOLD_SECONDS:
        if not victim.is_live():
            return "told"
        time.sleep(0.2)
    return "recovered" if not victim.works() else f"silent: {broken}"


def _kind(name: str) -> str:
    """Drop the name of a task: loops that run the same code are of one kind."""
    return name.rsplit(":", 1)[0] if name.startswith("task") else name


def _kinds(names: list[str]) -> Counter[str]:
    return Counter(map(_kind, names))


@contextmanager
def _started(storage: tuple[str, str]) -> Iterator[_Victim]:
    (guest,) = invite(1)
    with tempfile.TemporaryDirectory(prefix="octavo-victim-") as folder:
        control = Path(folder) / "control"
        program = _PROGRAM.format(control=str(control))
        with serve("--model", _MODEL, *storage, config=toml([guest], _PLAN), program=program) as server:
            unknown = _Victim(server, control, guest, Counter())
            unknown.works()  # what starts with the first call has started
            victim = replace(unknown, loops=_kinds(unknown.tell("loops").split()))
            if broken := victim.works():
                raise RuntimeError(f"the server does not work before any fault: {broken}")
            yield victim
