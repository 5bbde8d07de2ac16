"""How a channel to a server is set up, for both clients."""

import re

from octavo import __version__

MAX_DOCUMENT_BYTES = 16_000_000
"""What a server takes unless it is configured otherwise."""

_HEADROOM = 1024 * 1024  # for what a message holds beside the document
_LOOPBACK = re.compile(r"(localhost|127\.[\d.]+|\[::1\]):\d+|unix(-abstract)?:.+")
_ADDRESS = re.compile(r"[^/:\s]+:\d{1,5}|\[[0-9a-fA-F:.%\w]+\]:\d{1,5}|unix(-abstract)?:.+|(dns|ipv4|ipv6|xds):.+")


def checked_address(address: str) -> str:
    """The address, where it can be one. gRPC would look up 'http' or take port 443 for what it cannot read."""
    if not _ADDRESS.fullmatch(address):
        raise ValueError(f"a server's address is HOST:PORT, [IPV6]:PORT or unix:PATH, not {address!r}")
    return address


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
    if _LOOPBACK.fullmatch(address):
        options.append(("grpc.enable_http_proxy", 0))
    return options
