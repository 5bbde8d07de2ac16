"""Channel setup for both clients."""

import re

from octavo import __version__

MAX_DOCUMENT_BYTES = 16_000_000
"""The server's default limit."""

_HEADROOM = 1024 * 1024  # for the rest of the message
_LOCAL = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\]):\d+|unix(-abstract)?:.+")
LAST_PORT = 65_535
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, section 2.1
_ADDRESS = re.compile(r"[^/:\s]+:\d{1,5}|\[[0-9a-fA-F:.%\w]+\]:\d{1,5}|unix(-abstract)?:.+|(dns|ipv4|ipv6|xds):.+")


def checked_address(address: str) -> str:
    """Validate an address. gRPC itself would look up the host 'http', or assume port 443 for a malformed address."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"a server's address is HOST:PORT, [IPV6]:PORT or unix:PATH, not {address!r}")
    port = address.rpartition(":")[2]
    if not address.startswith("unix") and port.isdecimal() and not 1 <= int(port) <= LAST_PORT:
        raise ValueError(f"a server's port is a number from 1 to {LAST_PORT}, not {port}")
    return address


def is_local(address: str) -> bool:
    """Whether data sent there stays on this machine: loopback or a Unix socket."""
    return _LOCAL.fullmatch(address) is not None


def authorization(
    address: str, token: str | None, *, encrypted: bool, insecure_token: bool
) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the token in every call; empty without a token.

    Raises:
        ValueError: the token is malformed or would be sent unencrypted. The message does not contain it.
    """
    if token is None:
        return ()
    token = token.strip()  # a token read from a file may end with a newline
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token is empty or contains invalid characters")
    if not (encrypted or insecure_token or is_local(address)):
        raise ValueError(
            f"the token would be sent to {address} without encryption, where others can read it: use TLS credentials, "
            "or insecure_token=True"
        )
    return (("authorization", f"Bearer {token}"),)


def channel_options(address: str, max_document_bytes: int) -> list[tuple[str, str | int]]:
    """Message sizes for whole documents, keepalive for long calls, quick reconnects."""
    most = max_document_bytes + _HEADROOM
    options: list[tuple[str, str | int]] = [
        ("grpc.max_send_message_length", most),
        ("grpc.max_receive_message_length", most),
        # A call is idle while a long document is computed, and home routers drop idle connections.
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
