"""Ends the connection of a peer that does not read.

gRPC's asyncio server cannot cancel a call: behind a reply that the peer does not take, no status can be sent, and gRPC
holds the reply until the connection ends. So the connection's socket is shut down, and gRPC sees it end.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import unquote

DESCRIPTORS = Path("/dev/fd")


def hang_up(peer: str) -> bool:
    """Shut down the connection from gRPC's name of a peer (`ipv4:127.0.0.1:5`, `ipv6:%5B::1%5D:5`).

    Only a connection that this process accepted, whose own port is one that it listens on: one that it made, as to a
    Redis, can have the same address at its other end.

    Returns:
        Whether it was found. A peer on a unix socket has no name of its own, and is not.
    """
    scheme, _, rest = unquote(peer).partition(":")
    if scheme not in {"ipv4", "ipv6"}:
        return False
    host, _, port = rest.rpartition(":")
    wanted = _plain(host.strip("[]")), int(port)
    ports = {each.getsockname()[1] for each in _sockets() if _listens(each)}
    for each in _sockets():
        with suppress(OSError):  # it is not connected
            address = each.getpeername()
            if (_plain(address[0]), address[1]) == wanted and each.getsockname()[1] in ports:
                each.shutdown(socket.SHUT_RDWR)
                return True
    return False


def _sockets() -> Iterator[socket.socket]:
    """This process's internet sockets, each valid until the next; none when there are too many open files."""
    with suppress(OSError):
        for entry in os.listdir(DESCRIPTORS):  # noqa: PTH208 - numbers, not paths
            with suppress(OSError), _socket(int(entry)) as each:  # closed meanwhile, or no socket
                if each.family in {socket.AF_INET, socket.AF_INET6}:
                    yield each


def _listens(each: socket.socket) -> bool:
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


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
