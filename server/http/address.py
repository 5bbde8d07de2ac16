"""The port, taken before anything is loaded; connections are refused until the server listens."""

import socket

from server.config.values import split_address
from server.errors import StartError, words_of


def bind(listen: str) -> socket.socket:
    """Bind `host:port`; port 0 selects a free port.

    Raises:
        StartError: the address cannot be had.
    """
    host, port = split_address(listen)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(where)
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        raise StartError(f"cannot listen on {listen} for HTTP: {words_of(error)}; see server.http_listen") from None
    bound.setblocking(False)
    return bound
