"""Limits the number of HTTP connections, the size of request heads, and the time that a connection may wait.

uvicorn parses requests and writes responses. A `Connection` lies between uvicorn's protocol and the socket. It closes a
connection whose deadline has passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from .error_format import format_error
from .errors import ErrorResponse

#: Maximum size (bytes) of the head of a request, and of the heads of all connections together.
MAX_HEAD, MAX_ALL_HEADS = 65_536, 64 * 2**20
#: Memory (bytes) of one header beside its text.
_HEADER_BYTES = 160
#: Time (s) for a client to read its last response; then the connection is closed without it.
CLOSE_SECONDS = 2.0
#: Maximum number of refused connections whose response has not been read.
MAX_REFUSED = 256
#: Maximum number of connections that are closed by their deadlines before other events are handled.
MAX_AT_ONCE = 64
#: Seconds between two checks of the deadlines.
CHECK_INTERVAL = 0.5
#: Key of the `Connection` in the state of an ASGI scope.
STATE_KEY = "connection"

#: Names of the errors that are answered before a request is complete.
_TYPES = {
    400: "BadRequest",
    408: "RequestTimeout",
    431: "RequestHeaderFieldsTooLarge",
    500: "InternalServerError",
    503: "Overloaded",
}


class Connections:
    """All open connections of the server. Runs in the thread of the event loop.

    Args:
        limit: maximum number of open connections; more get the status 503.
        keep_alive: time (s) that a connection without a request stays open.
        read_timeout: time (s) for the head of a request, and again for its body.
        on_rejected: called with the status of a request that did not reach the application.
        vector_space: space of the vectors of the server, which each response names.

    Attributes:
        num_open: number of open connections within the limit, those that have sent nothing included.
        open: those that have sent data.
        refused: connections above the limit.
    """

    def __init__(
        self,
        limit: int,
        keep_alive: float,
        read_timeout: float,
        on_rejected: Callable[[int], None],
        vector_space: str,
    ) -> None:
        self.limit, self.keep_alive, self.read_timeout = limit, keep_alive, read_timeout
        self.on_rejected, self.vector_space = on_rejected, vector_space
        self.num_open = 0
        self.open: set[Connection] = set()
        self.refused: set[Connection] = set()
        self.head_bytes = 0

    async def close_expired(self) -> None:
        """Closes connections whose deadline has passed, until it is cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            now = time.monotonic()
            expired = [each for each in [*self.open, *self.refused] if each.deadline <= now]
            for number, connection in enumerate(expired, 1):
                connection.expire()
                if number % MAX_AT_ONCE == 0:
                    await asyncio.sleep(0)


class Connection(asyncio.Protocol):
    """One connection: passes events to uvicorn's protocol, and counts what it holds.

    Args:
        is_admitted: whether the connection is within the limit; others get the status 503.

    Attributes:
        deadline: time at which the connection is closed, on the monotonic clock.
        is_lost: whether the connection is closed.
    """

    __slots__ = (
        "_connections",
        "_drained",
        "_head_bytes",
        "_head_size",
        "_is_admitted",
        "_is_closing",
        "_is_reading",
        "_make_protocol",
        "_num_ahead",
        "_num_requests",
        "_pending",
        "_protocol",
        "_transport",
        "deadline",
        "is_lost",
    )

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        is_admitted: bool = True,
    ) -> None:
        self._is_admitted = is_admitted
        self._connections: Connections = cast("Any", config.app).connections
        self._make_protocol: Callable[[], HttpToolsProtocol] | None = lambda: HttpToolsProtocol(
            config, server_state, {**app_state, STATE_KEY: self}, _loop
        )
        self._protocol: HttpToolsProtocol | None = None
        self._transport: asyncio.Transport = cast("Any", None)
        self._num_requests = self._head_size = self._head_bytes = 0
        self._is_closing = self._is_reading = self.is_lost = False
        self._num_ahead: int | None = None  # bytes read behind the request in progress
        self._drained: asyncio.Future[None] | None = None
        self._pending: list[bytes] | None = None
        self.deadline = float("inf")

    # -- events of the socket --------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=0)  # `drain` waits until the operating system has everything
        connections, make_protocol = self._connections, self._make_protocol
        self._make_protocol = None
        if not self._is_admitted:
            connections.refused.add(self)
            if len(connections.refused) > MAX_REFUSED:
                self.abort()
                return
            self.reject(503, f"the server has {connections.limit} open connections (-http_max_connections)")
            return
        connections.open.add(self)
        self.deadline = time.monotonic() + connections.keep_alive
        assert make_protocol is not None
        self._protocol = make_protocol()
        self._protocol.connection_made(cast("asyncio.Transport", _Writer(self, self._transport)))

    def data_received(self, data: bytes) -> None:
        if self._is_closing or self._protocol is None:
            return
        if self._num_requests == 0:
            if self._head_size > MAX_HEAD:
                self.reject(431, f"the head of the request is larger than {MAX_HEAD} bytes")
                return
            if self._head_size == 0:
                self.set_deadline(self._connections.read_timeout, is_reading=True)
            end = data.find(b"\r\n\r\n") + 1 or len(data)
            self._head_size += end
            held = end + _HEADER_BYTES * data.count(b"\n", 0, end)
            self._head_bytes += held
            self._connections.head_bytes += held
            if self._connections.head_bytes > MAX_ALL_HEADS:
                self.reject(503, "the server is overloaded: too many requests arrive at the same time; retry later")
                return
        elif self._num_ahead is not None:
            self._num_ahead += len(data)
            if self._num_ahead > MAX_HEAD:
                self._transport.pause_reading()
        self._protocol.data_received(data)

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        self._drained = None
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        if self in self._connections.open:
            self._connections.open.remove(self)
            self._connections.num_open -= 1
        self._connections.refused.discard(self)
        if self._num_requests == 0:
            self._release_head()
        if self._protocol is not None:
            self._protocol.connection_lost(exc)
        self.resume_writing()
        self._protocol = None

    # -- calls of the application ------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        """Records that the head of a request is complete. The application sets the deadlines until `end_request`."""
        self._num_requests += 1
        self.set_deadline(None)

    def end_request(self) -> None:
        """Records that the response is sent."""
        self._num_requests -= 1
        self._num_ahead = None
        self._transport.resume_reading()
        if self._num_requests == 0:
            self._release_head()
            self.set_deadline(self._connections.keep_alive)

    def watch(self) -> None:
        """Goes on reading after a complete request, to notice that the client closes the connection.

        uvicorn stops reading in a large body, and starts again after the response. About `MAX_HEAD` bytes of the
        next requests are read.
        """
        self._num_ahead = 0
        self._transport.resume_reading()

    def set_deadline(self, seconds: float | None, is_reading: bool = False) -> None:
        """Closes the connection in ``seconds``; None for never.

        If ``is_reading``, the rest of the request is missing then, and the client gets the status 408.
        """
        self._is_reading = is_reading
        if not self._is_closing:
            self.deadline = float("inf") if seconds is None else time.monotonic() + seconds

    def hold(self) -> None:
        """Holds written bytes until `flush`, so that head and body of a short response are one packet."""
        self._pending = []

    def flush(self) -> None:
        """Writes the held bytes."""
        pending, self._pending = self._pending, None
        if pending and not (self.is_lost or self._is_closing):
            self._transport.write(b"".join(pending))

    async def drain(self) -> None:
        """Waits until the operating system has taken all written bytes, or the connection is closed."""
        while self._drained is not None and not self.is_lost:
            await asyncio.shield(self._drained)

    # -- calls of uvicorn's protocol, through `_Writer` ----------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._pending is not None:
            self._pending.append(data)
        elif self._num_requests == 0:  # uvicorn itself refuses a malformed request, as plain text
            self.reject(400, "the request is not valid HTTP/1.1; https is not supported")
        elif not self._is_closing:
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        if not self._is_closing:
            self._transport.close()

    # -- closing -----------------------------------------------------------------------------------------------------

    def expire(self) -> None:
        """Closes the connection, because its deadline has passed."""
        if self._is_reading and not self._is_closing and self._drained is None:
            seconds = self._connections.read_timeout
            self.reject(408, f"the request did not arrive within {seconds:.15g} s (-http_read_timeout)")
        else:
            self.abort()

    def reject(self, status: int, message: str) -> None:
        """Answers a request that does not reach the application, and closes the connection."""
        if self._is_closing:
            return
        self._connections.on_rejected(status)
        self._transport.write(_response(status, message, self._connections.vector_space))
        self._finish()

    def abort(self) -> None:
        """Closes the connection at once."""
        self._is_closing = True
        self._transport.abort()

    def _finish(self) -> None:
        """Ends the responses and discards what the client still sends, because a reset would discard the response."""
        self._is_closing = True
        self.deadline = time.monotonic() + CLOSE_SECONDS
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()

    def _release_head(self) -> None:
        self._connections.head_bytes -= self._head_bytes
        self._head_size = self._head_bytes = 0


class _Writer:
    """The transport that uvicorn's protocol writes to."""

    __slots__ = ("close", "get_extra_info", "is_closing", "pause_reading", "resume_reading", "write")

    def __init__(self, connection: Connection, transport: asyncio.Transport) -> None:
        self.write, self.close = connection.write, connection.close
        self.get_extra_info, self.is_closing = transport.get_extra_info, transport.is_closing
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading


def _response(status: int, message: str, vector_space: str) -> bytes:
    _, body = format_error(ErrorResponse(status, _TYPES[status], message), "")
    retry = b"Retry-After: 1\r\n" if status == 503 else b""
    return (
        b"HTTP/1.1 %d %b\r\nServer: bert-serving\r\nContent-Type: application/json\r\n"
        b"X-Vector-Space: %b\r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (status, HTTPStatus(status).phrase.encode(), vector_space.encode(), retry, len(body), body)
    )
