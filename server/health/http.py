"""The listener for those who operate the server: `/metrics`, `/livez` and `/readyz`, over plain HTTP.

It runs in threads of its own, so that a scrape never delays a call and `/livez` answers when the event loop does not.
"""

import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from ipaddress import IPv6Address, ip_address
from socketserver import TCPServer
from threading import Thread
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from server.config.schema import split_address
from server.errors import StartError

Check = Callable[[], str]
"""Says why not; "" is yes."""


class HttpListener:
    """Listens from construction to `close`, and answers from `start` on.

    Args:
        listen: `host:port`; port 0 takes a free one.
        registry: what `/metrics` shows.
        not_live: why the process should be restarted, "" while it should not.
        not_ready: why calls should go elsewhere, "" while they should not.

    Raises:
        StartError: the address cannot be bound.

    """

    def __init__(self, listen: str, registry: CollectorRegistry, not_live: Check, not_ready: Check) -> None:
        handler = type(
            "_Bound", (_Handler,), {"registry": registry, "checks": {"/livez": not_live, "/readyz": not_ready}}
        )
        host, port = split_address(listen)
        try:
            self._server = _Server((host, port), handler, family=_family(host))
        except OSError as error:
            reason = error.strerror or error
            raise StartError(f"cannot listen on {listen} for metrics: {reason}; see metrics.listen") from None
        self._thread = Thread(
            target=self._server.serve_forever, name="http", daemon=True, kwargs={"poll_interval": 0.1}
        )

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`, with the port that was taken."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def start(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Give the port back."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # two servers on one port would share its scrapes silently
    block_on_close = False  # an idle keep-alive connection must not delay a stop

    def __init__(self, address: tuple[str, int], handler: type["_Handler"], family: socket.AddressFamily) -> None:
        self.address_family = family
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks the resolver for the host's full name


class _Handler(MetricsHandler):
    checks: dict[str, Check]
    timeout = 10  # seconds that a silent client keeps its thread
    server_version = "octavo"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802 - the name is http.server's
        """Answer one of the three paths."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        elif path in self.checks:
            reason = self.checks[path]()
            self._say(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, reason or "ok")
        else:
            self._say(HTTPStatus.NOT_FOUND, "there are /metrics, /livez and /readyz")

    def _say(self, status: HTTPStatus, line: str) -> None:
        body = f"{line}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def _family(host: str) -> socket.AddressFamily:
    try:
        return socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    except ValueError:
        return socket.AF_INET
