"""From options to a connected client, and from its faults to the command's."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import grpc

from octavo.cli.exits import Failure, Unreachable
from octavo.cli.local import local_server
from octavo.client import Client, DeadlineExceeded, OctavoError, Retry, Unauthenticated, Unavailable
from octavo.client.channel import checked_address, is_local

RETRY = Retry(attempts=3)  # somebody waits at the terminal
KEY_VARIABLE = "OCTAVO_API_KEY"  # not an option, which everybody on the machine could read in the list of processes
_CONNECTION_FAULTS = {
    "errors resolving": "this name does not resolve: is it spelt right, and does the name service answer?",
    "SETTINGS frame": "something answers there that does not speak gRPC: is the port another program's?",
    "http1.x": "something answers there that does not speak gRPC: is the port another program's?",
    "Hostname Verification Check failed": "the server's certificate is for another name",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not trusted or not valid: name one to trust with --ca",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS: leave --tls and --ca out",
    "Socket closed": "the server closed the connection: if it speaks TLS, add --tls",
    "Failed to create security handshaker": "no certificate to trust can be read: name one with --ca",
}
"""What gRPC's messages say of a connection that failed otherwise than because nobody listens, and what to do."""


@contextlib.contextmanager
def connected(options: dict[str, Any], local_arguments: Sequence[str] = ()) -> Iterator[Client]:
    """A client of the server that the options name, or of one that runs as long as this context.

    `local_arguments` are further ones of the latter.
    """
    with contextlib.ExitStack() as stack:
        if options.get("local", False):
            address = stack.enter_context(local_server(options["model"], arguments=local_arguments))
            client = Client(address, retry=RETRY)
        else:
            client = client_of(options)
        address = stack.enter_context(client).address
        try:
            yield client
        except OctavoError as fault:
            raise failure(fault, address) from fault


def client_of(options: dict[str, Any], retry: Retry = RETRY) -> Client:
    """A client of the server that the options name; who calls is in the environment."""
    address = options["server"]
    encrypted = options["tls"] or options["ca"] is not None
    if encrypted and address.startswith("unix:"):
        raise click.BadParameter("a unix socket is not encrypted: leave --tls and --ca out", param_hint="--server")
    token = os.environ.get(KEY_VARIABLE) or None
    allowed = options["allow_plaintext_token"]
    try:
        checked_address(address)
    except ValueError as fault:
        raise click.BadParameter(str(fault), param_hint="--server") from None
    if token and not (encrypted or allowed or is_local(address)):
        raise click.UsageError(
            f"the key in {KEY_VARIABLE} would be sent to {address} without encryption: add --tls, or "
            "--allow-plaintext-token where nobody else listens"
        )
    credentials = _trust(options["ca"]) if encrypted else None
    try:
        return Client(address, token=token, credentials=credentials, insecure_token=allowed, retry=retry)
    except ValueError as fault:
        raise click.UsageError(f"{KEY_VARIABLE}: {fault}") from None


def _trust(file: str | None) -> grpc.ChannelCredentials:
    """TLS that trusts a file's certificates, or the public authorities."""
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
    """Whether nobody answered; a server that refuses gives a reason."""
    return isinstance(fault, Unavailable) and not fault.reason


def failure(fault: OctavoError, address: str) -> click.ClickException:
    """The command's fault for a call's."""
    if is_unreachable(fault):
        for sign, why in _CONNECTION_FAULTS.items():
            if sign in fault.message:
                return Unreachable(f"{address}: {why}")
        return Unreachable(
            f"no server answers on {address}: start one with 'octavo serve', name another with --server, or add --local"
        )
    return Failure(explained(fault))


def explained(fault: OctavoError) -> str:
    """What went wrong in the words of the command line: options for the request's fields, and what would help."""
    text = str(fault)
    for field in sorted((each.field for each in fault.violations), key=len, reverse=True):
        text = text.replace(" (document.text)", "")  # the file is named already
        text = text.replace(field, _option(field))
    if isinstance(fault, Unauthenticated) and not os.environ.get(KEY_VARIABLE):
        return f"{text} (the variable {KEY_VARIABLE} takes the key)"
    if isinstance(fault, DeadlineExceeded):
        return f"{text} (--timeout allows more time)"
    return text


def _option(field: str) -> str:
    """The option that fills a field of the request, else the field."""
    name = field.rpartition(".")[2]
    return f"--{name.replace('_', '-')}" if field.startswith(("options.", "embed.", "tasks[")) else field
