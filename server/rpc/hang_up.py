"""Ends the connection of a peer that does not read.

gRPC's asyncio server cannot cancel a call: behind a reply that the peer does not take, no status can be sent, and gRPC
holds the reply until the connection ends. So the connection's socket is shut down, and gRPC sees it end.
"""

import errno
import os
import socket
import stat
from collections.abc import Container, Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote

DESCRIPTORS = Path("/dev/fd")


def hang_up(peer: str, ports: Container[int]) -> bool:
    """Shut down the connection that a peer made, by gRPC's name of it (`ipv4:127.0.0.1:5`, `ipv6:%5B::1%5D:5`).

    Args:
        peer: whose.
        ports: that the server listens on. One of them is the connection's own: a connection that the process itself
            made, as to Redis, can have the same address at its other end, and is spared.

    Returns:
        Whether it was found. A peer on a unix socket has no name of its own, and is not.
    """
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return False
    host, _, port = rest.rpartition(":")
    wanted = _plain(host.strip("[]")), int(port)
    try:
        entries = os.listdir(DESCRIPTORS)  # noqa: PTH208 - numbers, not paths
    except OSError:  # such as too many open files
        return False
    for entry in entries:
        with suppress(OSError), _socket(int(entry)) as connection:  # closed meanwhile, or no socket
            if connection.family in {socket.AF_INET, socket.AF_INET6} and connection.getsockname()[1] in ports:
                address = connection.getpeername()
                if (_plain(address[0]), address[1]) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
    return False


@contextmanager
def _socket(descriptor: int) -> Iterator[socket.socket]:
    """A descriptor's socket, by a duplicate, which is closed at the end.

    Raises:
        OSError: it is no socket.
    """
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    with closing(socket.socket(fileno=os.dup(descriptor))) as connection:
        yield connection


def _plain(host: str) -> str:
    """An address in one form: a socket for both versions names IPv4 peers as `::ffff:127.0.0.1`."""
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)
