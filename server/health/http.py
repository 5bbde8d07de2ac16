"""The HTTP listener for operators: `/metrics`, `/livez` and `/readyz`.

It runs in separate threads, so that a scrape never delays a call and `/livez` answers even if the event loop hangs.
"""

import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from ipaddress import IPv6Address, ip_address
from socketserver import TCPServer
from threading import Thread
from typing import Any, Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import MetricsHandler

from server.config.values import split_address
from server.errors import StartError, words_of

PAUSE_SECONDS = 0.1  # after a fault, so that the listener does not spin

Check = Callable[[], str]
"""Returns the reason for a failed check, or "" if it passed."""

Report = Callable[[BaseException], None]
"""Called with a fault that the listener survived."""


class HttpListener:
    """Binds at construction and answers after `start`.

    Args:
        listen: `host:port`; port 0 selects a free port.
        registry: the metrics to export.
        not_live: returns why the process should be restarted, or "".
        not_ready: returns why calls should go elsewhere, or "".
        report: called with each fault, from the listener's threads.

    Raises:
        StartError: the address cannot be bound.

    """

    def __init__(
        self, listen: str, registry: CollectorRegistry, not_live: Check, not_ready: Check, report: Report
    ) -> None:
        handler = type(
            "_Bound", (_Handler,), {"registry": registry, "checks": {"/livez": not_live, "/readyz": not_ready}}
        )
        host, port = split_address(listen)
        try:
            self._server = _Server((host, port), handler, _family(host), report)
        except (OSError, UnicodeError) as error:
            reason = f"{words_of(error)}; see metrics.listen (empty: none)"
            raise StartError(f"cannot listen on {listen} for metrics: {reason}") from None
        self._report = report
        self._thread = Thread(target=self._serve, name="http", daemon=True)

    @property
    def address(self) -> str:
        """The bound address as `host:port`."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if self._server.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def start(self) -> Self:
        """Start answering."""
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop answering and release the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _serve(self) -> None:
        """Answer until `close`, whatever fails."""
        closed = False
        while not closed:
            try:
                self._server.serve_forever(poll_interval=0.1)
                closed = True
            except Exception as error:  # noqa: BLE001 - without this thread /livez would not answer
                self._report(error)
                time.sleep(PAUSE_SECONDS)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_port = False  # two servers on one port would silently share its scrapes
    block_on_close = False  # an idle keep-alive connection must not delay shutdown

    def __init__(
        self, address: tuple[str, int], handler: type["_Handler"], family: socket.AddressFamily, report: Report
    ) -> None:
        self.address_family = family
        self._report = report
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's method would look up the host's full name

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            return super().get_request()
        except OSError as error:  # such as too many open files: the connection waits, and would be tried again at once
            self._report(error)
            time.sleep(PAUSE_SECONDS)
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """Report what failed, such as starting a thread; a client that hangs up is no fault."""
        del request, client_address
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self._report(error)


class _Handler(MetricsHandler):
    checks: dict[str, Check]
    timeout = 10  # seconds until an idle client is disconnected
    server_version = "octavo"
    sys_version = ""

    def do_GET(self) -> None:  # noqa: N802 - named by http.server
        """Answer a request."""
        path = self.path.partition("?")[0]
        if path == "/metrics":
            super().do_GET()
        elif path in self.checks:
            reason = self.checks[path]()
            self._say(HTTPStatus.SERVICE_UNAVAILABLE if reason else HTTPStatus.OK, reason or "ok")
        else:
            self._say(HTTPStatus.NOT_FOUND, "not found; available: /metrics, /livez, /readyz")

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
