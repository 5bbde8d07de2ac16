"""Checks that the server can listen on an address, before anything is loaded."""

import errno
import os
import socket
from pathlib import Path

from server.config.values import UNIX, split_address


def check_free(address: str) -> None:
    """Bind `host:port` or `unix:PATH`, and release it.

    gRPC's own bind would not do: its ports accept connections at once, so callers would wait for a loading server
    instead of trying another. It also hides the system's error, and accepts a name of which only some addresses are
    free.

    Raises:
        OSError: the address is unavailable; `strerror` is the system's message.
    """
    if address.startswith(UNIX):
        _check_unix(Path(address.removeprefix(UNIX)))
    else:
        _check_port(*split_address(address))


def _check_port(host: str, port: int) -> None:
    """Raise if the port is taken on one of the host's addresses, or if none of them can be bound."""
    faults, found = [], socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, kind, protocol, _, where in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
                probe.bind(where)
                probe.listen()
        except OSError as error:
            faults.append(error)
    taken = [error for error in faults if error.errno == errno.EADDRINUSE]
    if taken or len(faults) == len(found):
        raise (taken or faults)[0]


def _check_unix(path: Path) -> None:
    """Raise if a server listens on the path, or it is not a socket. gRPC replaces one that a dead server left."""
    if path.exists() and not path.is_socket():
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return
        except FileNotFoundError:
            probe.bind(str(path))
            path.unlink()
            return
        except BlockingIOError:  # its backlog is full
            pass
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
