"""Calls the WSGI application with complete requests."""

from __future__ import annotations

import contextvars
import io
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..security.curve import plain_host

#: Size (bytes) from which pieces of a response are sent.
PIECE_BYTES = 262_144
#: Key of the environment with an error that the application must answer with.
REFUSAL_KEY = "bert_serving.refusal"
#: Key of the environment with the time (s) at which the request arrived, on the clock of `time.perf_counter`.
STARTED_KEY = "bert_serving.started"


class WsgiResponse(NamedTuple):
    """A response of the application.

    Attributes:
        body: all bytes, or None if the response is streamed.
        pieces: pieces of a streamed response.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes | None
    pieces: PieceReader | None


class PieceReader:
    """Reads a streamed response. All calls run in the context of the request, one at a time, in any thread."""

    def __init__(self, iterable: Any, context: contextvars.Context) -> None:
        self._iterable, self._context = iterable, context
        self._iterator: Iterator[bytes] = iter(iterable)
        #: Pieces that `read` returns first.
        self.ahead: list[bytes] = []

    def read(self) -> bytes:
        """Returns the next `PIECE_BYTES` or more; less at the end, and nothing behind it."""
        return self.ahead.pop(0) if self.ahead else self._context.run(self._read)

    def close(self) -> None:
        if hasattr(self._iterable, "close"):
            self._context.run(self._iterable.close)

    def _read(self) -> bytes:
        pieces, size = [], 0
        for piece in self._iterator:
            pieces.append(piece)
            size += len(piece)
            if size >= PIECE_BYTES:
                break
        return b"".join(pieces)


def call(app: Any, environ: dict[str, Any]) -> WsgiResponse:
    """Calls the application in this thread, and reads its response, unless that is large and streamed."""
    context = contextvars.copy_context()
    status, headers, result = context.run(_start, app, environ)
    reader = PieceReader(result, context)
    first = reader.read()
    second = reader.read() if len(first) >= PIECE_BYTES else b""
    if second:
        reader.ahead = [first, second]
        return WsgiResponse(status, headers, None, reader)
    reader.close()
    return WsgiResponse(status, headers, first, None)


def _start(app: Any, environ: dict[str, Any]) -> tuple[int, list[tuple[bytes, bytes]], Any]:
    started: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        started[:] = [int(status[:3]), [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]]

    result = app(environ, start_response)
    status, headers = started
    return status, headers, result


def environ_of(scope: dict[str, Any], body: bytes, started: float) -> dict[str, Any]:
    """Returns the WSGI environment of an ASGI request that arrived at the time ``started``.

    Headers with an underscore are dropped, because the environment cannot tell them from those with a hyphen.
    """
    host, port = scope["server"] or ("", None)
    environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": scope["path"].encode().decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "REMOTE_ADDR": plain_host(scope["client"][0]) if scope["client"] else "",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        STARTED_KEY: started,
    }
    is_http_1_0 = scope["http_version"] == "1.0"
    for name, value in scope["headers"]:
        if b"_" in name or name in (b"content-length", b"transfer-encoding"):
            continue
        if name == b"accept-encoding" and is_http_1_0:  # the length of a compressed response may not be known
            continue
        text = value.decode("latin-1")
        key = "CONTENT_TYPE" if name == b"content-type" else "HTTP_" + name.decode("latin-1").replace("-", "_").upper()
        environ[key] = f"{environ[key]},{text}" if key in environ else text
    return environ
