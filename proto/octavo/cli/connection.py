"""From options to a connected client, and from its faults to the command's."""

import contextlib
from collections.abc import Iterator
from typing import Any

import click

from octavo.cli.exits import Failure, Unreachable
from octavo.cli.local import local_server
from octavo.client import Client, OctavoError, Retry, Unavailable

RETRY = Retry(attempts=3)  # somebody waits at the terminal


@contextlib.contextmanager
def connected(options: dict[str, Any]) -> Iterator[Client]:
    """A client of the server that the options name, or of one that runs as long as this context."""
    with contextlib.ExitStack() as stack:
        local = options.get("local", False)
        address = stack.enter_context(local_server(options["model"])) if local else options["server"]
        try:
            client = stack.enter_context(Client(address, retry=RETRY))
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint="--server") from None
        try:
            yield client
        except OctavoError as fault:
            raise failure(fault, address) from fault


def is_unreachable(fault: OctavoError) -> bool:
    """Whether nobody answered; a server that refuses gives a reason."""
    return isinstance(fault, Unavailable) and not fault.reason


def failure(fault: OctavoError, address: str) -> click.ClickException:
    """The command's fault for a call's."""
    if is_unreachable(fault):
        return Unreachable(
            f"no server answers on {address}: start one with 'octavo serve', name another with --server, or add --local"
        )
    return Failure(str(fault))
