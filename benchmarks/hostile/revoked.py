"""Whether keys revoked while the server cannot read their file are refused once it can."""

import json
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import grpc

from benchmarks.figures import Figure, Figures
from benchmarks.loading.guests import Guest, invite
from benchmarks.served import Served, serve
from octavo.v1 import models_pb2, models_pb2_grpc

_TOGETHER = 5  # keys that are revoked one after the other during one fault
_LOOKS_SECONDS = 1.3  # in which the server looks at the file at least once
_PATIENCE_SECONDS = 5.0  # after the fault
_CALL_SECONDS = 10.0
_PAUSE_SECONDS = 0.05
_OWNER, _OTHERS = 0o600, 0o666  # the server refuses to read a file that others may write


@dataclass(frozen=True, slots=True)
class _Door:
    """A server, the file of its keys, and a connection to it."""

    server: Served
    file: Path
    models: Any  # the stub, which types no timeouts

    def lets_in(self, key: str) -> bool:
        """Whether a call with this key is answered."""
        try:
            self.models.ListModels(
                models_pb2.ListModelsRequest(), metadata=(("authorization", f"Bearer {key}"),), timeout=_CALL_SECONDS
            )
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise
        return True

    def call_for(self, key: str, seconds: float) -> None:
        """Call for so long, so that the server looks at its file."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.lets_in(key)
            time.sleep(_PAUSE_SECONDS)


def measure(revocations: int, seed: int) -> Figures:
    """Revoke keys during one fault after another, and count those that are still accepted."""
    chance = random.Random(seed)
    survivor, *guests = invite(revocations + 1)
    lost = locked_out = 0
    with _opened([survivor, *guests]) as door:
        for start in range(0, revocations, _TOGETHER):
            fault = list(_FAULTS)[start // _TOGETHER % len(_FAULTS)]
            leaving, staying = guests[start : start + _TOGETHER], [survivor, *guests[start + _TOGETHER :]]
            _FAULTS[fault](door, leaving, staying, chance)
            still = _still_let_in(door, leaving)
            lost += len(still)
            locked_out += not door.lets_in(survivor.key)
            click.echo(f"  {start + len(leaving)} of {revocations}: {fault}, {len(still)} still let in", err=True)
            _write(door.file, staying)
            door.call_for(survivor.key, _LOOKS_SECONDS if still else 0.0)
    return {
        "revocations_lost": Figure(lost, "keys", n=revocations),
        "hostile_locked_out": Figure(locked_out, "faults", n=len(range(0, revocations, _TOGETHER))),
    }


@contextmanager
def _opened(guests: Sequence[Guest]) -> Iterator[_Door]:
    with tempfile.TemporaryDirectory(prefix="octavo-keys-") as folder:
        file = Path(folder) / "keys.json"
        _write(file, guests)
        config = "".join(f"[clients.{guest.name}]\n" for guest in guests)
        with (
            serve("--set", f"server.keys_file={file}", config=config) as server,
            grpc.insecure_channel(server.address) as channel,
        ):
            yield _Door(server, file, models_pb2_grpc.ModelServiceStub(channel))


def _still_let_in(door: _Door, guests: Sequence[Guest]) -> list[Guest]:
    """Wait until the keys are refused; return those that are not in time."""
    end, left = time.monotonic() + _PATIENCE_SECONDS, list(guests)
    while left and time.monotonic() < end:
        left = [guest for guest in left if door.lets_in(guest.key)]
        time.sleep(_PAUSE_SECONDS)
    return left


def _text(guests: Sequence[Guest]) -> str:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    rows = [{"client": guest.name, "created": now, "key": guest.record} for guest in guests]
    return json.dumps({"format": 1, "keys": rows}, indent=1)


def _write(file: Path, guests: Sequence[Guest], mode: int = _OWNER) -> None:
    """Replace the file as a whole."""
    made = file.with_suffix(".new")
    made.write_text(_text(guests), encoding="utf-8")
    made.chmod(mode)
    made.replace(file)


def _one_by_one(leaving: Sequence[Guest], staying: Sequence[Guest]) -> Iterator[list[Guest]]:
    """What is left in the file after each revocation."""
    for i in range(1, len(leaving) + 1):
        yield [*leaving[i:], *staying]


def _mode(door: _Door, leaving: Sequence[Guest], staying: Sequence[Guest], chance: random.Random) -> None:
    """Others may write the file, before or from a revocation on; later its mode is put right."""
    if chance.random() < 1 / 2:
        door.file.chmod(_OTHERS)
        door.call_for(staying[0].key, _LOOKS_SECONDS)
    for left in _one_by_one(leaving, staying):
        _write(door.file, left, _OTHERS)
        door.call_for(staying[0].key, chance.uniform(0, _LOOKS_SECONDS / 2))
    door.call_for(staying[0].key, _LOOKS_SECONDS)
    door.file.chmod(_OWNER)


def _descriptors(door: _Door, leaving: Sequence[Guest], staying: Sequence[Guest], chance: random.Random) -> None:
    """The server has no descriptor left to open the file with."""
    with _no_descriptors(door.server.pid):
        for left in _one_by_one(leaving, staying):
            _write(door.file, left)
            door.call_for(staying[0].key, chance.uniform(0, _LOOKS_SECONDS / 2))
        door.call_for(staying[0].key, _LOOKS_SECONDS)


def _partial(door: _Door, leaving: Sequence[Guest], staying: Sequence[Guest], chance: random.Random) -> None:
    """The file is written in place, with a pause at some byte."""
    for left in _one_by_one(leaving, staying):
        text = _text(left)
        with door.file.open("w", encoding="utf-8") as file:
            half = chance.randrange(len(text))
            file.write(text[:half])
            file.flush()
            door.call_for(staying[0].key, chance.uniform(0, 1.5 * _LOOKS_SECONDS))
            file.write(text[half:])


@contextmanager
def _no_descriptors(pid: int) -> Iterator[None]:
    """Forbid a process to open anything."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


_Fault = Callable[[_Door, Sequence[Guest], Sequence[Guest], random.Random], None]
_FAULTS: Mapping[str, _Fault] = {"mode": _mode, "descriptors": _descriptors, "partial": _partial}
