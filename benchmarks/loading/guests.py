"""Configured clients for a server under load, each with a key, a tenant and a plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.auth.keys import Key


@dataclass(frozen=True, slots=True)
class Guest:
    """A client; `key` is what it sends, `record` what the server's settings hold."""

    name: str
    key: str
    record: str


def invite(count: int) -> list[Guest]:
    """Make clients with keys, as `octavo keys add --inline` does."""
    guests = []
    for number in range(count):
        record, key = Key.make()
        guests.append(Guest(f"guest-{number}", key, str(record)))
    return guests


def toml(guests: Sequence[Guest], plan: str = "") -> str:
    """Write the settings that let the guests in, all of them under one plan with these lines."""
    clients = (f'[clients.{guest.name}]\nplan = "guests"\nkeys = ["{guest.record}"]\n' for guest in guests)
    return f"[plans.guests]\n{plan}\n" + "\n".join(clients)
