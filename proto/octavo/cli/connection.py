"""Connects a client as the options say, and converts its errors to those of the command."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import grpc

from octavo.cli.exits import Failure, Unreachable
from octavo.cli.local import local_server
from octavo.cli.progress import note
from octavo.client import Client, DeadlineExceeded, OctavoError, Retry, Unauthenticated, Unavailable
from octavo.client.channel import checked_address, is_local

_STOPPING = "DRAINING"  # the server's reason
RETRY = Retry(attempts=3)  # a user may wait at a terminal
_NEWS_SECONDS = 1.0  # shorter waits are not told
KEY_VARIABLE = "OCTAVO_API_KEY"  # not an option, which all users of the machine could see in the process list
_OPTIONS = {"labels": "label", "return_tokens": "tokens"}  # where they are not called as the request's fields
_CONNECTION_FAULTS = {
    "errors resolving": "the name does not resolve: check its spelling and the name service",
    "No such file or directory": "there is no such socket: check the path",
    "SETTINGS frame": "another program answers there, which does not speak gRPC: check the port",
    "http1.x": "another program answers there, which does not speak gRPC: check the port",
    "Hostname Verification Check failed": "the server's certificate is for another name",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is invalid or not trusted: name one to trust with --ca",
    "WRONG_VERSION_NUMBER": "the server does not use TLS: remove --tls and --ca",
    "Socket closed": "the server closed the connection: if it uses TLS, add --tls",
    "Failed to create security handshaker": "no trusted certificate can be read: name one with --ca",
}
"""Parts of gRPC's messages about failed connections, with an explanation."""


@contextlib.contextmanager
def connected(options: dict[str, Any], local_arguments: Sequence[str] = ()) -> Iterator[Client]:
    """Connect to the server that the options name, or to a local one that runs for the duration of this context.

    `local_arguments` are additional arguments for the local server.
    """
    with contextlib.ExitStack() as stack:
        if options.get("local", False):
            address = stack.enter_context(local_server(options["model"], arguments=local_arguments))
            client = Client(address, retry=replace(RETRY, on_wait=waits(address)))
        else:
            client = client_of(options)
        address = stack.enter_context(client).address
        try:
            yield client
        except OctavoError as fault:
            raise failure(fault, address) from fault


def client_of(options: dict[str, Any], retry: Retry = RETRY) -> Client:
    """A client of the server that the options name. The key comes from the environment."""
    address = options["server"]
    encrypted = options["tls"] or options["ca"] is not None
    if encrypted and address.startswith("unix:"):
        raise click.BadParameter("a Unix socket is not encrypted: remove --tls and --ca", param_hint="--server")
    token = os.environ.get(KEY_VARIABLE) or None
    allowed = options["allow_plaintext_token"]
    try:
        checked_address(address)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--server") from None
    if token and not (encrypted or allowed or is_local(address)):
        raise click.UsageError(
            f"the key in {KEY_VARIABLE} would be sent to {address} without encryption: add --tls, or "
            "--allow-plaintext-token on a trusted network"
        )
    credentials = _trust(options["ca"]) if encrypted else None
    try:
        return Client(
            address,
            token=token,
            credentials=credentials,
            insecure_token=allowed,
            retry=replace(retry, on_wait=waits(address)),
        )
    except ValueError as fault:
        raise click.UsageError(f"{KEY_VARIABLE}: {fault}") from None


def waits(address: str) -> Callable[[OctavoError, float], None]:
    """A function that tells a user at a terminal what the command waits for; for `Retry.on_wait`."""

    def tell(fault: OctavoError, seconds: float) -> None:
        if seconds >= _NEWS_SECONDS and sys.stderr.isatty():
            told = failure(fault, address)
            why = told.message.rpartition(": ")[0] if isinstance(told, Unreachable) else told.message  # no advice
            note(f"trying again in {seconds:,.0f} s: {why}")

    return tell


def _trust(file: str | None) -> grpc.ChannelCredentials:
    """TLS credentials that trust a file's certificates, or the public authorities."""
    if file is None:
        return grpc.ssl_channel_credentials()
    try:
        data = Path(file).read_bytes()
    except OSError as fault:
        raise click.BadParameter(f"{file}: {fault.strerror}", param_hint="--ca") from None
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise click.BadParameter(f"{file} has no certificate in PEM", param_hint="--ca")
    return grpc.ssl_channel_credentials(data)


def is_unreachable(fault: OctavoError) -> bool:
    """Whether no server answered, or one that is stopping; a server that refuses gives another reason."""
    return isinstance(fault, Unavailable) and fault.reason in {"", _STOPPING}


def failure(fault: OctavoError, address: str) -> click.ClickException:
    """Convert a call's error to the command's."""
    if fault.reason == _STOPPING:
        return Unreachable(f"the server on {address} is stopping: try again when it, or another one, has started")
    if is_unreachable(fault):
        for sign, why in _CONNECTION_FAULTS.items():
            if sign in fault.message:
                return Unreachable(f"{address}: {why}")
        return Unreachable(
            f"no server answers on {address}: start one with 'octavo serve', name another with --server, or add --local"
        )
    return Failure(explained(fault))


def explained(fault: OctavoError) -> str:
    """Rewrite an error for the command line: names options instead of the request's fields, and adds hints."""
    if isinstance(fault, DeadlineExceeded):
        text = str(fault) if fault.reason else "no answer in time"  # without a reason, the words are gRPC's
        return f"{text} (--timeout allows more time)"
    text = str(fault)
    for field in sorted((each.field for each in fault.violations), key=len, reverse=True):
        text = text.replace(" (document.text)", "")  # the file is named already
        text = text.replace(field, option := _option(field))
        name = field.rpartition(".")[2]
        if "_" in name and re.search(rf"\b{name}\b", text):
            text = re.sub(rf"\b{name}\b", option, text).replace(f" ({option})", "")
    said, unsupported, task = text.partition(" not support ")
    if unsupported:
        task = task.replace("_", "-")
        return f"{said}{unsupported}{task} (serve a model that does: 'octavo models fetch --list' names some)"
    if isinstance(fault, Unauthenticated):
        held = os.environ.get(KEY_VARIABLE)
        return f"{text} ({f'check the key in {KEY_VARIABLE}' if held else f'set {KEY_VARIABLE} to your key'})"
    return text


def _option(field: str) -> str:
    """The option that sets a field of the request, else the field."""
    name = re.sub(r"\[\d+\]$", "", field.rpartition(".")[2])
    option = _OPTIONS.get(name, name.replace("_", "-"))
    return f"--{option}" if field.startswith(("options.", "embed.", "tasks[")) else field
