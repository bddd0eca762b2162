"""Serves the routes of 1.10.0: ``/encode``, ``/status/server`` and ``/status/client``.

The code of 1.10.0 returned the vectors as ``result`` while its documentation described ``results``, and programs depend
on either. JSON responses therefore contain the same vectors twice. The new formats base64 and octet-stream contain them
once.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from flask import Blueprint, Response, request
from flask_json import as_json

from ...config.folders import hide_folders
from ...security.curve import is_this_machine
from .. import serialization as vectors
from .. import streaming
from ..encoding_service import EncodingResult, EncodingService
from ..fields import check_encode_fields
from ..request_context import BYTES, JSON, add_headers, read_body, read_options, wants_octet_stream
from ..schemas import EncodeResponse
from ..validation import parse_bool, parse_choice, parse_object, require_field


def blueprint(service: EncodingService) -> Blueprint:
    routes = Blueprint("encode", __name__)

    @routes.post("/encode")
    def encode() -> Response:
        return encode_response(service, parse_object(read_body()))

    @routes.get("/status/server")
    @as_json  # type: ignore[untyped-decorator]
    def status_server() -> dict[str, Any]:
        status = service.health.status()
        is_near = is_this_machine(request.remote_addr or "", service.config.host)
        return dict(status) if is_near else hide_folders(status)

    @routes.get("/status/client")
    @as_json  # type: ignore[untyped-decorator]
    def status_client() -> dict[str, Any]:
        return service.client.status

    return routes


def encode_response(service: EncodingService, values: dict[str, Any]) -> Response:
    """Encodes the texts in the body of an ``/encode`` request and returns the response."""
    check_encode_fields(values)
    is_tokenized = parse_bool(values, "is_tokenized")
    show_tokens = parse_bool(values, "show_tokens")
    encoding = parse_choice(values, "encoding_format", ("float", "base64"))
    options = read_options(values, service.dimensions)
    texts = require_field(values, "texts", "a list of texts, or of token lists with is_tokenized")
    result = service.encode(texts, is_tokenized, show_tokens, options)
    if wants_octet_stream():
        return add_headers(_as_bytes(result), result)
    body = EncodeResponse(
        id=msgspec.Raw(json.dumps(values.get("id")).encode()),
        results=msgspec.Raw(),
        num_tokens=result.num_tokens,
        truncated=result.truncated,
        tokens=msgspec.UNSET if result.tokens is None else result.tokens,
    )
    if encoding == "base64":
        body.dtype, body.shape = result.vectors.dtype.name, list(result.vectors.shape)
    if streaming.is_large(result.vectors):
        body.results = streaming.placeholder()
        if encoding != "base64":
            body.result = body.results
        to_values = streaming.base64 if encoding == "base64" else streaming.numbers
        encoded = msgspec.json.encode(body) + b"\n"
        response = streaming.json_response(encoded, bytes(body.results), result.vectors, to_values, JSON)
        return add_headers(response, result)
    if encoding == "base64":
        body.results = msgspec.Raw(b'["%b"]' % b'","'.join(vectors.to_base64(result.vectors)))
    else:
        body.result = body.results = msgspec.Raw(vectors.to_json(result.vectors))
    return add_headers(Response(msgspec.json.encode(body) + b"\n", mimetype=JSON), result)


def _as_bytes(result: EncodingResult) -> Response:
    """Returns the raw little-endian values, with their shape and dtype in headers."""
    if streaming.is_large(result.vectors):
        response = streaming.bytes_response(result.vectors, BYTES)
    else:
        response = Response(vectors.to_bytes(result.vectors), mimetype=BYTES)
    response.headers["X-Shape"] = ",".join(map(str, result.vectors.shape))
    response.headers["X-Dtype"] = result.vectors.dtype.name
    response.headers["X-Num-Tokens"] = str(result.num_tokens)
    response.headers["X-Num-Truncated"] = str(result.num_truncated)
    return response
