"""Whether the server can listen on an address, found out before anything is loaded."""

import errno
import os
import socket
from pathlib import Path

from server.config.values import UNIX, split_address


def check_free(address: str) -> None:
    """Bind `host:port` or `unix:PATH`, and let go.

    Not gRPC's own bind: its ports accept connections from then on, and callers would wait for a server that loads
    where they should go to another. It does not pass the system's error on either, and is content with some of the
    addresses that a name resolves to.

    Raises:
        OSError: why it cannot be had; `strerror` has the system's words.
    """
    if address.startswith(UNIX):
        _check_unix(Path(address.removeprefix(UNIX)))
    else:
        _check_port(*split_address(address))


def _check_port(host: str, port: int) -> None:
    """Raise where the port is taken on one of the host's addresses, or none of them is this machine's."""
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
    """Raise where somebody listens or the path is no socket's. One that a dead server left is gRPC's to replace."""
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
