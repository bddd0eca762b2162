"""Reads the headers and the body of a request, and builds its response."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Response, request
from werkzeug.datastructures import Headers, MIMEAccept
from werkzeug.http import parse_accept_header

from .encoding_service import EncodingResult
from .errors import BadRequest, UnsupportedBody
from .validation import parse_options, printable, truncate_repr

#: Header of a response with its vector space, and of a request with the one that it expects.
VECTOR_SPACE = "X-Vector-Space"
JSON, BYTES = "application/json", "application/octet-stream"


def check_coding(headers: Headers) -> None:
    """Checks that the body of a request is not compressed.

    Raises:
        UnsupportedBody: it is.
    """
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedBody(f"the Content-Encoding {coding!r} is not supported; send the body uncompressed")


def read_body() -> bytes:
    """Returns the body and ignores its content type, because ``curl -d`` declares JSON as a form.

    Raises:
        UnsupportedBody: the body is compressed.
    """
    check_coding(request.headers)
    return request.get_data(cache=False)


def wants_octet_stream(headers: Headers) -> bool:
    """Returns whether ``Accept`` prefers raw bytes to JSON."""
    accept = headers.get("Accept", "")
    if accept in ("", "*/*", JSON, BYTES):  # the usual values; parsing the others is slow
        return accept == BYTES
    return parse_accept_header(accept, MIMEAccept).best_match([JSON, BYTES], JSON) == BYTES


def json_response(body: msgspec.Struct, status: int = 200) -> Response:
    """Encodes a body of ``schemas`` as JSON."""
    return Response(msgspec.json.encode(body), status, mimetype=JSON)


def read_options(values: dict[str, Any], headers: Headers, width: int) -> dict[str, Any]:
    """Returns the options of a request: fields of its body, and the vector space that a header expects.

    Raises:
        BadRequest: a field has an invalid value.
    """
    options = parse_options(values, width)
    if expected := headers.get(VECTOR_SPACE, "").strip():
        options["vector_space"] = expected
    return options


def read_model(values: dict[str, Any]) -> str:
    """Returns the name in the field ``model``, to echo in the response. ``choose`` has selected the model.

    Raises:
        BadRequest: the field is not a name.
    """
    name = values.get("model") or ""
    if not isinstance(name, str):
        raise BadRequest(f"'model' must be a name, received {truncate_repr(name)}", "model")
    return printable(name)


def add_headers(response: Response, encoded: EncodingResult) -> Response:
    """Adds the space of the vectors, and ``Server-Timing`` with durations in milliseconds. Returns the response.

    https://www.w3.org/TR/server-timing/
    """
    if encoded.vector_space is not None:
        response.headers[VECTOR_SPACE] = encoded.vector_space
    if encoded.timing is not None:
        stages = (f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in encoded.timing.items())
        response.headers["Server-Timing"] = ", ".join(stages)
    return response
