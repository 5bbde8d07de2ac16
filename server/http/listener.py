"""The HTTP server: uvicorn on the running loop, with bounds on what a peer may hold.

By itself uvicorn lets a peer stay silent within a header, send headers without end, queue any number of requests and
never read its reply. `Connection` closes such connections.
"""

import asyncio
import logging
import socket
import ssl
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 << 10
FRAMING_BYTES = 8  # of chunked bodies, a byte of content
HEADER_SECONDS = 10.0  # from the first byte of a header, or from connecting, to its end; and of a body after its reply
KEEP_ALIVE_SECONDS = 75  # that a connection may be idle
STALL_SECONDS = 30.0  # in which a reader must take a part of its reply
LEAST_READ_BYTES = 64 << 10
MAX_PIPELINED = 16
MAX_CONNECTIONS = 1024
BACKLOG = 512


class HttpListener:
    """Serves an application on a bound socket, once it is started.

    Args:
        app: answers requests.
        bound: the socket.
        tls: encrypts connections, if there is one.
    """

    def __init__(self, app: ASGIApp, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self._socket = bound
        self._scheme = "https" if tls else "http"
        config = Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            server_header=False,
            access_log=False,
            log_config=None,
            log_level=logging.CRITICAL,  # what fails is logged by the endpoints
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            backlog=BACKLOG,
        )
        config.load()
        config.ssl = tls
        self._server = uvicorn.Server(config)
        self._ticking: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The bound address as a URL."""
        host, port = self._socket.getsockname()[:2]
        return f"{self._scheme}://[{host}]:{port}" if ":" in host else f"{self._scheme}://{host}:{port}"

    async def start(self) -> None:
        """Accept connections."""
        self._server.lifespan = self._server.config.lifespan_class(self._server.config)
        await self._server.startup(sockets=[self._socket])
        self._ticking = asyncio.create_task(self._server.main_loop())  # renews the date

    async def stop(self, grace: float) -> None:
        """Close the port, let requests that are running end within `grace` seconds, and close all connections."""
        if self._ticking is None:
            self._socket.close()
            return
        self._ticking.cancel()
        for server in self._server.servers:
            server.close()
        state = self._server.server_state
        for connection in [*state.connections]:
            connection.shutdown()
        if state.tasks and grace:
            await asyncio.wait([*state.tasks], timeout=grace)
        for task in (running := [*state.tasks]):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for connection in [*state.connections]:
            if isinstance(connection, Connection):  # all of them
                connection.abort()


class Connection(HttpToolsProtocol):
    """A connection whose peer may hold only so much, and only for so long."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None  # runs while a header is awaited
        self._began = False  # a message did, in this piece
        self._received = 0  # bytes of the message after the piece in which it began
        self._content = 0  # bytes of its body
        self._unread = 0  # bytes of the reply that waited at the last look
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; too many connections are not served."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.abort()
            return
        self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_timer()
        self._stop_watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in a piece."""
        self._began = False
        super().data_received(data)
        if not self._began:
            self._received += len(data)
        if self._received > MAX_HEADER_BYTES + (1 + FRAMING_BYTES) * self._content:
            self._refuse()
        elif self._is_idle and self._timer is None and self.timeout_keep_alive_task is None:
            self._await_header()  # or the rest of a body that nobody reads

    def on_message_begin(self) -> None:
        """A request's first byte has come."""
        super().on_message_begin()
        self._began = True
        self._received = self._content = 0
        if self._timer is None:
            self._await_header()

    def on_headers_complete(self) -> None:
        """Serve a request, or queue it behind others of this connection."""
        self._stop_timer()
        if self.transport.is_closing():
            return
        if len(self.pipeline) >= MAX_PIPELINED:
            self.abort()
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a part of a body."""
        self._content += len(body)
        super().on_body(body)

    def pause_writing(self) -> None:
        """The peer reads more slowly than the reply is written."""
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._watch = self.loop.call_later(STALL_SECONDS, self._check_reader)

    def resume_writing(self) -> None:
        """The peer has read enough."""
        self._stop_watch()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its peer has read all."""
        if self.transport.get_write_buffer_size():
            self.abort()
        super().timeout_keep_alive_handler()

    def abort(self) -> None:
        """Close at once, whatever was not written yet."""
        with suppress(AttributeError):  # Python 3.11.2's TLS raises it for a connection that has ended
            self.transport.abort()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def _check_reader(self) -> None:
        left = self.transport.get_write_buffer_size()
        if left > self._unread - LEAST_READ_BYTES:
            self.abort()
            return
        self._unread = left
        self._watch = self.loop.call_later(STALL_SECONDS, self._check_reader)

    def _await_header(self) -> None:
        self._timer = self.loop.call_later(HEADER_SECONDS, self.abort)

    def _refuse(self) -> None:
        if self.transport.is_closing():
            return
        if self._is_idle:
            self.transport.write(b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\r\n")
            self.transport.close()
        else:
            self.abort()

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    def _stop_watch(self) -> None:
        if self._watch:
            self._watch.cancel()
            self._watch = None
