"""HTTP/2 below gRPC: a client that controls its flow control windows, and can send parts of messages.

A connection never acknowledges what it receives, so the server gets only the initial windows.
"""

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

MOST_WINDOW = (1 << 31) - 1
_BUFFER_BYTES = 1 << 20  # made ready for the socket at a time
_CHUNK_BYTES = 1 << 18
_CONNECT_SECONDS = 10.0


def frame(message: bytes, length: int | None = None, *, compressed: bool = False) -> bytes:
    """Put gRPC's five bytes before a message; `length` is what they claim, by default the truth."""
    return struct.pack("!BI", compressed, len(message) if length is None else length) + message


@dataclass(slots=True)
class _Body:
    """What a stream has still to send."""

    left: memoryview
    end: bool


class Connection:
    """One connection with any number of calls; `window` bytes of each reply may come, `whole` of all together."""

    def __init__(self, address: str, *, window: int = 0, whole: int | None = None) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), _CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._authority = address
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        if whole is not None:
            self._h2.increment_flow_control_window(whole)
        self._out = bytearray()
        self._bodies: dict[int, _Body] = {}
        self.sent = 0
        self.received = 0
        self.statuses: dict[int, str] = {}
        self.open = True
        self._flush()

    def call(self, method: str, *, token: str | None = None, timeout: str | None = None) -> int:
        """Begin a call with its headers alone; the id of its stream."""
        stream = self._h2.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
        ]
        headers += [("grpc-timeout", timeout)] if timeout else []
        headers += [("authorization", f"Bearer {token}")] if token else []
        self._h2.send_headers(stream, headers)
        self._flush()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = False) -> None:
        """Send bytes as the server's windows allow, after those before; `end` half-closes the call behind them."""
        before = self._bodies.get(stream)
        left = bytes(before.left) + data if before else data
        self._bodies[stream] = _Body(memoryview(left), end)

    def reset(self, stream: int) -> None:
        """Cancel a call."""
        self._bodies.pop(stream, None)
        with contextlib.suppress(ProtocolError):  # it has ended already
            self._h2.reset_stream(stream, ErrorCodes.CANCEL)
        self._flush()

    def read(self, stream: int, size: int = MOST_WINDOW // 2) -> None:
        """Let the server send so many bytes more of a reply."""
        with contextlib.suppress(ProtocolError):
            self._h2.increment_flow_control_window(size, stream)
            self._h2.increment_flow_control_window(1 << 20)
        self._flush()

    def waiting(self, stream: int) -> bool:
        """Whether bytes wait for the server's window."""
        return stream in self._bodies

    @property
    def has_output(self) -> bool:
        """Whether bytes wait for the socket."""
        self._fill()
        return bool(self._out)

    def write(self) -> None:
        """Write what the socket takes."""
        try:
            count = self.socket.send(memoryview(self._out)[:_CHUNK_BYTES].tobytes())
        except BlockingIOError:
            return
        except OSError:
            self._lost()
            return
        del self._out[:count]
        self.sent += count

    def take(self) -> None:
        """Take in what came."""
        try:
            data = self.socket.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        try:
            events = self._h2.receive_data(data)
        except ProtocolError:
            self._lost()
            return
        for event in events:
            self._hear(event)
        self._flush()

    def close(self) -> None:
        """Leave without a word."""
        self.open = False
        self.socket.close()

    def _fill(self) -> None:
        for stream, body in list(self._bodies.items()):
            if len(self._out) > _BUFFER_BYTES or not self.open:
                return
            try:
                self._send_some(stream, body)
            except ProtocolError:  # the server has ended the call
                self._bodies.pop(stream, None)

    def _send_some(self, stream: int, body: _Body) -> None:
        while body.left and len(self._out) <= _BUFFER_BYTES:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(body.left))
            if size <= 0:
                return
            self._h2.send_data(stream, body.left[:size].tobytes())
            body.left = body.left[size:]
            self._flush()
        if not body.left:
            if body.end:
                self._h2.end_stream(stream)
                self._flush()
            self._bodies.pop(stream, None)

    def _flush(self) -> None:
        self._out += self._h2.data_to_send()

    def _hear(self, event: Event) -> None:
        if isinstance(event, DataReceived):
            self.received += len(event.data)
        elif isinstance(event, ResponseReceived | TrailersReceived):
            if status := dict(event.headers or ()).get("grpc-status"):  # type: ignore[call-overload]
                self.statuses[event.stream_id] = status
        elif isinstance(event, StreamReset):
            self.statuses.setdefault(event.stream_id, "reset")
        elif isinstance(event, StreamEnded):
            self.statuses.setdefault(event.stream_id, "ended")
        elif isinstance(event, ConnectionTerminated):
            self._lost()

    def _lost(self) -> None:
        self.open = False


def drive(connections: Sequence[Connection], seconds: float, done: Callable[[], bool] = lambda: False) -> None:
    """Send and receive on all connections for so long, or until it is done or none is left."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and not done():
        alive = [connection for connection in connections if connection.open]
        if not alive:
            return
        sending = [connection for connection in alive if connection.has_output]
        readable, writable, _ = select.select(
            [each.socket for each in alive], [each.socket for each in sending], [], min(left, 0.05)
        )
        for connection in alive:
            if connection.socket in writable:
                connection.write()
            if connection.socket in readable:
                connection.take()
