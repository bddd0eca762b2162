"""The routes of 1.10.0: ``/encode``, ``/status/server`` and ``/status/client``.

The code of 1.10.0 called the vectors ``result`` while its documentation promised ``results``, so programs exist for
both: both are in the answer, the same bytes written twice. Who counts bytes asks for base64 or octet-stream, which are
new and need no copy.
"""

from __future__ import annotations

import json
from typing import Any

import orjson
from flask import Blueprint, Response
from flask_json import as_json

from .. import serialization as vectors
from ..encoding_service import Encoded, EncodingService
from ..request_context import BYTES, JSON, admitted, body, wants_bytes, with_timing
from ..validation import need, read_choice, read_object, read_switch


def blueprint(door: EncodingService) -> Blueprint:
    routes = Blueprint("encode", __name__)

    @routes.post("/encode")
    def encode() -> Response:
        with admitted(door):
            return answer(door, read_object(body()))

    @routes.get("/status/server")
    @as_json  # type: ignore[untyped-decorator]
    def status_server() -> dict[str, Any]:
        return dict(door.readiness.status())

    @routes.get("/status/client")
    @as_json  # type: ignore[untyped-decorator]
    def status_client() -> dict[str, Any]:
        return door.client.status

    return routes


def answer(door: EncodingService, values: dict[str, Any]) -> Response:
    """The answer to the body of an ``/encode`` request."""
    is_tokenized = read_switch(values, "is_tokenized")
    show_tokens = read_switch(values, "show_tokens")
    encoding = read_choice(values, "encoding_format", ("float", "base64"))
    texts = need(values, "texts", "the list of texts to encode, or of token lists if is_tokenized")
    encoded = door.encode(texts, is_tokenized, show_tokens)
    if wants_bytes():
        return with_timing(_as_bytes(encoded), encoded)
    extra: dict[str, Any] = {"num_tokens": encoded.num_tokens, "truncated": encoded.truncated}
    if encoded.tokens is not None:
        extra["tokens"] = encoded.tokens
    if encoding == "base64":
        rows = b'["' + b'","'.join(vectors.to_base64(encoded.vectors)) + b'"]'
        keys: tuple[bytes, ...] = (b"results",)
        extra |= {"dtype": encoded.vectors.dtype.name, "shape": list(encoded.vectors.shape)}
    else:
        rows = vectors.to_json(encoded.vectors)
        keys = (b"result", b"results")
    parts = [b'{"id":', json.dumps(values.get("id")).encode()]
    for key in keys:
        parts += [b',"', key, b'":', rows]
    parts += [b",", orjson.dumps(extra)[1:-1], b',"status":200}\n']
    return with_timing(Response(b"".join(parts), mimetype=JSON), encoded)


def _as_bytes(encoded: Encoded) -> Response:
    """Raw little-endian values; the headers say how to read them."""
    response = Response(vectors.to_bytes(encoded.vectors), mimetype=BYTES)
    response.headers["X-Shape"] = ",".join(map(str, encoded.vectors.shape))
    response.headers["X-Dtype"] = encoded.vectors.dtype.name
    response.headers["X-Num-Tokens"] = str(encoded.num_tokens)
    response.headers["X-Num-Truncated"] = str(encoded.num_truncated)
    return response
