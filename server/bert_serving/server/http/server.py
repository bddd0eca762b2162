"""The sockets and threads of HTTP: waitress, with errors in JSON and a polite end for bodies that are too large."""

from __future__ import annotations

import logging
import select
import threading
from collections.abc import Callable
from typing import Any

import orjson
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.task import ErrorTask, WSGITask
from waitress.utilities import RequestEntityTooLarge

from .errors import Answer, body_of

#: A body that is too large is read to its end and thrown away up to this size: a client that is still sending when
#: the connection closes sees a broken connection, and never the answer that explains it.
MAX_DISCARD = 2**30
#: Bodies up to this size are copied behind their head.
JOIN_BYTES = 65_536
_CONNECTIONS = 512


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Reads one request; of a body that is too large, only the end."""

    completed: bool
    expect_continue: bool
    content_length: int
    path = ""  # of what is no request at all; waitress names it in its log
    _to_discard = 0

    def received(self, data: bytes) -> int:
        consumed: int
        if self._to_discard:
            consumed = min(len(data), self._to_discard)
            self._to_discard -= consumed
            self.completed = not self._to_discard
            return consumed
        consumed = super().received(data)
        if isinstance(self.error, RequestEntityTooLarge) and self.completed and not self.chunked:
            if self.expect_continue:
                self.expect_continue = False  # nothing was sent yet, and nothing shall be
            elif self.content_length <= MAX_DISCARD:
                self._to_discard = self.content_length
                self.completed = False
        return consumed


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """Answers what was no request, or a body that is too large, in the words of the other errors."""

    def execute(self) -> None:
        error = self.request.error
        server = self.channel.server
        message = f"{error.reason}: {error.body}"
        if isinstance(error, RequestEntityTooLarge):
            message = f"the body is larger than {self.channel.adj.max_request_body_size - 1} bytes (-http_max_body)"
        answer = Answer(error.code, type(error).__name__, message)
        body = orjson.dumps(body_of(answer, self.request.path or ""))
        self.status = f"{error.code} {error.reason}"
        self.response_headers.append(("Content-Type", "application/json"))
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
        server.on_refused(error.code)


class _Task(WSGITask):  # type: ignore[misc]
    """Answers a request. Head and body of a short answer leave together: one call of the system, one packet."""

    wrote_header: bool

    def write(self, data: bytes) -> None:
        if self.complete and not self.wrote_header and 0 < len(data) <= JOIN_BYTES and self.content_length == len(data):
            head = self.build_response_header()
            if self.has_body and not self.chunked_response:
                self.channel.write_soon(head + data)
                self.wrote_header = True
                self.content_bytes_written = len(data)
                return
            self.channel.write_soon(head)
            self.wrote_header = True
        super().write(data)


#: ``channel`` is the connection whose request this thread answers.
_serving = threading.local()


class _Channel(HTTPChannel):  # type: ignore[misc]
    parser_class = _Parser
    task_class = _Task
    error_task_class = _ErrorTask

    def service(self) -> None:
        _serving.channel = self
        try:
            super().service()
        finally:
            _serving.channel = None

    @property
    def needs_loop(self) -> bool:
        """Whether the loop has something to do here that it does not see by itself."""
        return bool(self.total_outbufs_len or self.requests or self.will_close or self.close_when_flushed)


class HttpServer:
    """A WSGI server in a thread.

    Args:
        app: the WSGI application.
        threads: requests in Python at a time, those that wait at the gate included.
        max_body: largest body, in bytes.
        on_refused: called with the status of a request that did not reach the application.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self, app: Any, host: str, port: int, threads: int, max_body: int, on_refused: Callable[[int], None]
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
            channel_request_lookahead=1,  # goes on reading, and so sees a client that hangs up
            max_request_body_size=max_body + 1,
            inbuf_overflow=16 * 2**20,  # beyond it, a file
            outbuf_overflow=64 * 2**20,
            clear_untrusted_proxy_headers=True,
        )
        self._server.channel_class = _Channel
        self._server.on_refused = on_refused
        self._wake_loop = self._server.pull_trigger
        self._server.pull_trigger = self._wake_if_needed
        self._thread = threading.Thread(target=self._server.run, name="http", daemon=True)

    def _wake_if_needed(self) -> None:
        """In place of waitress' own call after each answer: the loop looks at every connection when it is woken.

        Most answers have left by then, and the loop waits for the next request of the connection as before.
        """
        channel = getattr(_serving, "channel", None)
        if channel is None or channel.needs_loop:
            self._wake_loop()

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def is_idle(self) -> bool:
        """Whether every request is answered, to the last byte."""
        while True:
            try:
                channels = list(self._server.active_channels.values())
                break
            except RuntimeError:  # it changed meanwhile
                continue
        return not any(channel.requests or channel.total_outbufs_len for channel in channels)


def log_to(log: logging.Logger) -> None:
    """Sends waitress' own messages where the others go."""
    waitress = logging.getLogger("waitress")
    waitress.handlers, waitress.propagate = list(log.handlers), False
    waitress.setLevel(logging.WARNING)
    # That a request waits a moment for a thread is no news.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
