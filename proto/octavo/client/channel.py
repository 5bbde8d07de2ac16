"""How a channel to a server is set up, for both clients."""

import re

from octavo import __version__

MAX_DOCUMENT_BYTES = 16_000_000
"""What a server takes unless it is configured otherwise."""

_HEADROOM = 1024 * 1024  # for what a message holds beside the document
_LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+|unix(-abstract)?:.+")
LAST_PORT = 65_535
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_ADDRESS = re.compile(r"[^/:\s]+:\d{1,5}|\[[0-9a-fA-F:.%\w]+\]:\d{1,5}|unix(-abstract)?:.+|(dns|ipv4|ipv6|xds):.+")


def checked_address(address: str) -> str:
    """The address, where it can be one. gRPC would look up 'http' or take port 443 for what it cannot read."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"a server's address is HOST:PORT, [IPV6]:PORT or unix:PATH, not {address!r}")
    port = address.rpartition(":")[2]
    if not address.startswith("unix") and port.isdecimal() and not 1 <= int(port) <= LAST_PORT:
        raise ValueError(f"a server's port is a number from 1 to {LAST_PORT}, not {port}")
    return address


def is_local(address: str) -> bool:
    """Whether nobody but this machine sees what is sent there: loopback or a unix socket."""
    return _LOCAL.fullmatch(address) is not None


def authorization(
    address: str, token: str | None, *, encrypted: bool, insecure_token: bool
) -> tuple[tuple[str, str], ...]:
    """The metadata of every call that shows the token; none without one.

    Raises:
        ValueError: it is no token, or others could read it on its way. The message does not show it.
    """
    if token is None:
        return ()
    token = token.strip()  # the line end of the file that it was read from
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token is empty or has characters that a token cannot have")
    if not (encrypted or insecure_token or is_local(address)):
        raise ValueError(
            f"the token would be sent to {address} without encryption, for others to read: give credentials for TLS, "
            "or insecure_token=True"
        )
    return (("authorization", f"Bearer {token}"),)


def channel_options(address: str, max_document_bytes: int) -> list[tuple[str, str | int]]:
    """Message sizes for whole documents, keepalive for long calls, quick reconnects."""
    most = max_document_bytes + _HEADROOM
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", most),
        ("grpc.max_receive_message_length", most),
        # A long document's call is silent while it is computed; home routers forget silent connections.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", f"octavo-client/{__version__}"),
    ]
    if is_local(address):
        options.append(("grpc.enable_http_proxy", 0))
    return options
