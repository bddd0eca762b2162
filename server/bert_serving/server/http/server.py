"""Runs waitress with JSON error responses, and discards oversized bodies before closing the connection."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import Any

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge

from .errors import ErrorResponse, error_body

#: Maximum size (bytes) of an oversized body that is read and discarded. A client that is still sending when the
#: connection closes gets a connection error instead of the error response.
MAX_DISCARD = 2**30
#: Maximum size (bytes) of a body that is sent with its head in one write.
SINGLE_WRITE_LIMIT = 65_536
_CONNECTIONS = 512


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Parses one request and discards an oversized body."""

    completed: bool
    expect_continue: bool
    content_length: int
    path = ""  # default for malformed requests; waitress logs it
    _bytes_to_discard = 0

    def received(self, data: bytes) -> int:
        consumed: int
        if self._bytes_to_discard:
            consumed = min(len(data), self._bytes_to_discard)
            self._bytes_to_discard -= consumed
            self.completed = not self._bytes_to_discard
            return consumed
        consumed = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge) and self.completed and not self.chunked:
            if self.expect_continue:
                self.expect_continue = False  # the client has not sent the body and does not have to
            elif self.content_length <= MAX_DISCARD:
                self._bytes_to_discard = self.content_length
                self.completed = False
        return consumed


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Sends the JSON error response to a malformed request or an oversized body."""

    def execute(self) -> None:
        error = self.request.error
        server = self.channel.server
        message = f"{error.reason}: {error.body}"
        if isinstance(error, RequestEntityTooLarge):
            message = f"the body is larger than {self.channel.adj.max_request_body_size - 1} bytes (-http_max_body)"
        response = ErrorResponse(error.code, type(error).__name__, message)
        body = error_body(response, self.request.path or "")
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        server.on_rejected(error.code)


class _Task(WSGITask):  # type: ignore[misc]
    """Sends a response. Head and body of a short response are sent in one write, and so in one packet."""

    wrote_header: bool

    def write(self, data: bytes) -> None:
        if (
            self.complete
            and not self.wrote_header
            and 0 < len(data) <= SINGLE_WRITE_LIMIT
            and self.content_length == len(data)
        ):
            head = self.build_response_header()
            if self.has_body and not self.chunked_response:
                self.channel.write_soon(head + data)
                self.wrote_header = True
                self.content_bytes_written = len(data)
                return
            self.channel.write_soon(head)
            self.wrote_header = True
        super().write(data)


#: ``channel`` is the connection whose request the current thread handles.
_current = threading.local()


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask

    def service(self) -> None:
        _current.channel = self
        try:
            super().service()
        finally:
            _current.channel = None

    @property
    def needs_loop(self) -> bool:
        """Whether the event loop must be woken to handle this connection."""
        return bool(self.total_outbufs_len or self.requests or self.will_close or self.close_when_flushed)


class HttpServer:
    """Runs a WSGI server in a thread.

    Args:
        app: WSGI application.
        threads: number of threads; running and queued requests hold one each.
        max_body: maximum body size (bytes).
        on_rejected: called with the status of a request that did not reach the application.

    Raises:
        OSError: the server cannot bind to the address.
    """

    def __init__(
        self, app: Any, host: str, port: int, threads: int, max_body: int, on_rejected: Callable[[int], None]
    ) -> None:
        self._server = create_server(
            app,
            host=host,
            port=port,
            threads=threads,
            ident="bert-serving",
            connection_limit=_CONNECTIONS,
            asyncore_use_poll=hasattr(select, "poll"),
            channel_timeout=60,
            channel_request_lookahead=1,  # keeps reading, which detects a closed connection
            max_request_body_size=max_body + 1,
            inbuf_overflow=16 * 2**20,  # larger bodies are buffered in a file
            outbuf_overflow=64 * 2**20,
            clear_untrusted_proxy_headers=True,
        )
        self._server.channel_class = _Channel
        self._server.on_rejected = on_rejected
        self._wake_loop = self._server.pull_trigger
        self._server.pull_trigger = self._wake_if_needed
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def _wake_if_needed(self) -> None:
        """Wakes the event loop only if the current connection needs it; replaces waitress' unconditional wake-up.

        A woken loop checks every connection. Most responses are already sent when their task ends.
        """
        channel = getattr(_current, "channel", None)
        if channel is None or channel.needs_loop:
            self._wake_loop()

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether every response is completely sent."""
        while True:
            try:
                channels = list(self._server.active_channels.values())
                break
            except RuntimeError:  # the dictionary changed during iteration
                continue
        return not any(channel.requests or channel.total_outbufs_len for channel in channels)


def redirect_log(log: logging.Logger) -> None:
    """Sends the messages of waitress to the handlers of ``log``."""
    waitress = logging.getLogger("waitress")
    waitress.handlers, waitress.propagate = list(log.handlers), False
    waitress.setLevel(logging.WARNING)
    # waitress warns whenever a request waits for a thread, which is normal here.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
