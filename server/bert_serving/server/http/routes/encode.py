"""Serves the routes of 1.10.0: ``/encode``, ``/status/server`` and ``/status/client``.

The code of 1.10.0 returned the vectors as ``result`` while its documentation described ``results``, and programs depend
on either. JSON responses therefore contain the same vectors twice. The new formats base64 and octet-stream contain them
once.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import msgspec
from flask import Blueprint, Response, request
from flask_json import as_json
from werkzeug.datastructures import Headers

from bert_serving.client.protocol import OUTPUTS, PART_MODES

from ...config.folders import hide_folders
from ...security.curve import is_this_machine
from .. import output_values, streaming
from .. import serialization as vectors
from ..encode_schemas import EncodeResponse
from ..encoding_call import EncodingCall
from ..encoding_service import EncodingResult, EncodingService
from ..errors import BadRequest, WrongTask
from ..fields import check_encode_fields
from ..inputs import read_pairs
from ..request_context import BYTES, JSON, read_options, wants_octet_stream
from ..scores import require_dense
from ..validation import parse_bool, parse_choice, require_field, truncate_repr


def blueprint(service: EncodingService) -> Blueprint:
    routes = Blueprint("encode", __name__)

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


def prepare(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/encode`` request.

    Raises:
        BadRequest: a field has an invalid value.
        WrongTask: the server lacks an output.
    """
    check_encode_fields(values)
    outputs = read_outputs(service, values)
    is_tokenized = parse_bool(values, "is_tokenized")
    show_tokens = parse_bool(values, "show_tokens")
    encoding = parse_choice(values, "encoding_format", ("float", "base64"))
    options = read_options(values, headers, service.dimensions)
    texts = require_field(values, "texts", "a list of texts, or of token lists with is_tokenized")
    if parse_bool(values, "raw_scores"):
        options["raw_scores"] = True
    if values.get("pairs") is not None:
        options["pairs"] = parse_bool(values, "pairs")
        if is_tokenized:
            raise BadRequest("'pairs' and 'is_tokenized' exclude each other: send only one of them", "pairs")
        if options["pairs"]:
            texts = read_pairs(texts, "texts")
    if outputs:
        if wants_octet_stream(headers):
            raise BadRequest(
                f"'outputs' has {', '.join(outputs)}, but {BYTES} is for dense vectors alone: send Accept: {JSON}, "
                "with 'encoding_format': 'base64' for fewer bytes",
                "outputs",
            )
        if options.get("long") in PART_MODES:
            raise BadRequest(
                f"'long' is {options['long']!r}, which is for dense vectors alone: omit it, or 'outputs'", "long"
            )
        respond = partial(_respond_outputs, values.get("id"), encoding == "base64")
        return EncodingCall(texts, respond, is_tokenized, show_tokens, options | {"outputs": outputs})
    if wants_octet_stream(headers):
        return EncodingCall(texts, _as_bytes, is_tokenized, show_tokens, options)
    respond = partial(_respond, values.get("id"), encoding == "base64")
    return EncodingCall(texts, respond, is_tokenized, show_tokens, options)


def read_outputs(service: EncodingService, values: dict[str, Any]) -> list[str]:
    """Returns the outputs of a request; none for dense vectors, or scores, alone.

    Raises:
        BadRequest: the field has an invalid value.
        WrongTask: the server lacks an output, or has no dense vectors and the field is absent.
    """
    outputs = values.get("outputs")
    if outputs is None:
        require_dense(service)
        return []
    names = ", ".join(OUTPUTS)
    if not isinstance(outputs, list) or not outputs:
        raise BadRequest(f"'outputs' must be a list of some of {names}, received {truncate_repr(outputs)}", "outputs")
    for position, name in enumerate(outputs):
        if name not in OUTPUTS or name in outputs[:position]:
            raise BadRequest(
                f"'outputs' must name some of {names}, each once, received {truncate_repr(name)}", "outputs"
            )
        if name not in service.outputs:
            has = (
                f"{', '.join(service.outputs)} vectors" if service.outputs else f"scores (-task {service.config.task})"
            )
            raise WrongTask(
                f"'outputs' has {name}, but this server has {has}: omit it, or use a server of another model"
            )
    return [] if outputs == ["dense"] else outputs


def _respond_outputs(request_id: Any, is_base64: bool, result: EncodingResult) -> Response:
    lists: dict[bytes, streaming.Pieces] = {}

    def add(pieces: streaming.Pieces) -> msgspec.Raw:
        place = streaming.placeholder()
        lists[bytes(place)] = pieces
        return place

    body = EncodeResponse(
        id=msgspec.Raw(json.dumps(request_id).encode()),
        num_tokens=result.num_tokens,
        truncated=result.truncated,
        tokens=msgspec.UNSET if result.tokens is None else result.tokens,
    )
    if result.vectors.shape[1]:
        to_values = streaming.base64 if is_base64 else streaming.numbers
        body.results = add(streaming.pieces_of(result.vectors, to_values))
        if is_base64:
            body.dtype, body.shape = result.vectors.dtype.name, list(result.vectors.shape)
        else:
            body.result = body.results
    if result.sparse is not None:
        body.sparse = add(output_values.columns(result.sparse))  # type: ignore[assignment]  # the list replaces it
    if result.multi is not None:
        body.multi = add(output_values.matrices(result.multi, is_base64))
        if is_base64:
            body.multi_dtype = result.multi[0].dtype.name
            body.multi_shapes = [(len(each), each.shape[1]) for each in result.multi]
    return output_values.response(msgspec.json.encode(body) + b"\n", lists, result.nbytes)


def _respond(request_id: Any, is_base64: bool, result: EncodingResult) -> Response:
    body = EncodeResponse(
        id=msgspec.Raw(json.dumps(request_id).encode()),
        results=msgspec.Raw(),
        num_tokens=result.num_tokens,
        truncated=result.truncated,
        tokens=msgspec.UNSET if result.tokens is None else result.tokens,
        parts=msgspec.UNSET if result.parts is None else result.parts,
    )
    if is_base64:
        body.dtype, body.shape = result.vectors.dtype.name, list(result.vectors.shape)
    if streaming.is_large(result.vectors):
        body.results = streaming.placeholder()
        if not is_base64:
            body.result = body.results
        to_values = streaming.base64 if is_base64 else streaming.numbers
        encoded = msgspec.json.encode(body) + b"\n"
        return streaming.json_response(encoded, bytes(body.results), result.vectors, to_values, JSON)
    if is_base64:
        body.results = msgspec.Raw(b'["%b"]' % b'","'.join(vectors.to_base64(result.vectors)))
    else:
        body.result = body.results = msgspec.Raw(vectors.to_json(result.vectors))
    return Response(msgspec.json.encode(body) + b"\n", mimetype=JSON)


def _as_bytes(result: EncodingResult) -> Response:
    """Returns the raw little-endian values, with their shape and dtype in headers.

    Raises:
        BadRequest: the vectors are of parts of texts, whose offsets are in JSON only.
    """
    if result.parts is not None:
        raise BadRequest(
            f"'long' is 'chunks' or 'late', but {BYTES} has no offsets of the parts: send Accept: {JSON}, with "
            "'encoding_format': 'base64' for fewer bytes",
            "long",
        )
    if streaming.is_large(result.vectors):
        response = streaming.bytes_response(result.vectors, BYTES)
    else:
        response = Response(vectors.to_bytes(result.vectors), mimetype=BYTES)
    response.headers["X-Shape"] = ",".join(map(str, result.vectors.shape))
    response.headers["X-Dtype"] = result.vectors.dtype.name
    response.headers["X-Num-Tokens"] = str(result.num_tokens)
    response.headers["X-Num-Truncated"] = str(result.num_truncated)
    return response
