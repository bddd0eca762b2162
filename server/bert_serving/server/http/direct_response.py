"""Makes the responses of small requests without Flask's handling of a request, which costs more than a short text.

Routes, errors and extensions are those of the Flask application. Its extensions add the same headers to all responses
of a kind. The application processes the first response of each kind; the headers are remembered for later ones.
"""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, request

from .encoding_call import EncodingCall
from .encoding_service import EncodingResult
from .request_context import VECTOR_SPACE, add_headers
from .request_record import RequestRecorder
from .wsgi import WsgiResponse

#: Keys of the environment on which routing, CORS and compression depend for a POST request.
KEYS_READ = (
    "HTTP_HOST",
    "HTTP_CONNECTION",
    "HTTP_UPGRADE",
    "HTTP_ORIGIN",
    "HTTP_ACCESS_CONTROL_REQUEST_PRIVATE_NETWORK",
    "HTTP_ACCEPT_ENCODING",
)
#: Maximum number of kinds that are remembered, and maximum size (characters) of the values of `KEYS_READ` of one.
MAX_KINDS, MAX_KIND_SIZE = 256, 512

_Headers = list[tuple[bytes, bytes]]
_Kind = tuple[str | int | bool | None, ...]


class DirectResponses:
    """Makes responses of encoded requests. Runs in the thread of the event loop.

    Args:
        app: the application.
        recorder: records requests whose response the application does not process.
        vector_space: space of the vectors of the server.
    """

    def __init__(self, app: Flask, recorder: RequestRecorder, vector_space: str) -> None:
        self._app, self._recorder, self._vector_space = app, recorder, vector_space
        self._min_compressed: int = app.config["COMPRESS_MIN_SIZE"]
        self._added: dict[_Kind, _Headers] = {}

    def make(self, environ: dict[str, Any], path: str, call: EncodingCall, result: EncodingResult) -> WsgiResponse:
        """Makes the response to a POST request for the route ``path``.

        Raises:
            Exception: the application must answer with it.
        """
        response = add_headers(call.respond(result), result)
        response.headers.setdefault(VECTOR_SPACE, self._vector_space)
        body = response.get_data()
        values = [environ.get(key, "") for key in KEYS_READ]
        kind = (path, response.status_code, response.mimetype, len(body) >= self._min_compressed, *values)
        added = self._added.get(kind)
        headers = _encode(response)
        if added is not None:
            self._recorder.record(environ, path, path, response)
            return WsgiResponse(response.status_code, headers + added, body, None)
        response = self._process(environ, response)
        processed, all_headers = response.get_data(), _encode(response)
        if processed == body and sum(map(len, values)) <= MAX_KIND_SIZE:  # it was not compressed
            self._remember(kind, headers, all_headers)
        return WsgiResponse(response.status_code, all_headers, processed, None)

    def _process(self, environ: dict[str, Any], response: Response) -> Response:
        """Calls the functions after a request, of extensions too."""
        with self._app.request_context(environ):
            if request.routing_exception is not None:
                raise request.routing_exception
            return self._app.process_response(response)

    def _remember(self, kind: _Kind, before: _Headers, after: _Headers) -> None:
        if after[: len(before)] != before:
            return
        if len(self._added) >= MAX_KINDS:
            self._added.clear()
        self._added[kind] = after[len(before) :]


def _encode(response: Response) -> _Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
