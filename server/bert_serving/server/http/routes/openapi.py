"""Describes the routes as OpenAPI 3.1 at ``/openapi.json``, and as a page at ``/docs``.

The schemas of the bodies are derived from the structs in ``schemas``.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson
from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as BaseResponse

from ...version import __version__
from .. import schemas
from ..request_context import BYTES, JSON
from .docs_page import render

#: The page loads nothing else and connects to this server only.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint() -> Blueprint:
    routes = Blueprint("openapi", __name__)
    description = orjson.dumps(OPENAPI, option=orjson.OPT_INDENT_2)
    html = render(OPENAPI)

    @routes.get("/openapi.json")
    def openapi_json() -> Response:
        return Response(description, mimetype=JSON)

    @routes.get("/docs")
    def page() -> Response:
        response = Response(html, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    @routes.get("/")
    def root() -> BaseResponse:
        return redirect("docs")

    return routes


_BODIES = (
    schemas.EncodeRequest,
    schemas.EncodeResponse,
    schemas.EmbeddingsRequest,
    schemas.EmbeddingsResponse,
    schemas.Model,
    schemas.ModelList,
    schemas.HealthState,
    schemas.Error,
    schemas.OpenAIError,
)
_REFERENCES, _COMPONENTS = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
_SCHEMAS = dict(zip(_BODIES, _REFERENCES, strict=True))


def _content(*bodies: type[msgspec.Struct], example: Any = None) -> dict[str, Any]:
    alternatives = [_SCHEMAS[body] for body in bodies]
    schema = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    return {JSON: {"schema": schema} | ({} if example is None else {"example": example})}


def _operation(
    summary: str,
    description: str,
    response: str,
    content: dict[str, Any],
    errors: tuple[str, ...] = (),
    request: dict[str, Any] | None = None,
    tag: str = "Operations",
    is_public: bool = False,
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": summary, "description": description, "tags": [tag]}
    if request is not None:
        operation["requestBody"] = {"required": True, "content": request}
    operation["responses"] = {"200": {"description": response, "content": content}}
    for code in errors:
        operation["responses"][code] = {"$ref": f"#/components/responses/{code}"}
    if is_public:
        operation["security"] = []
    return operation


_ERROR = _content(schemas.Error, schemas.OpenAIError)
_ERRORS = {
    "400": "The body, or a value in it, is invalid",
    "401": "The token is missing or wrong",
    "403": "The service rejects the key of its own HTTP server",
    "404": "The path or the model does not exist",
    "409": "The vectors are of another space than the header X-Vector-Space of the request expects",
    "413": "The request exceeds a limit of the server, which the message names",
    "415": "The body is compressed",
    "422": "The engine cannot encode one of the texts",
    "502": "The reply of the service cannot be decoded",
    "503": "The server is overloaded or stopping, or the service is unreachable",
    "504": "The service does not reply in time",
}
_RESPONSES: dict[str, Any] = {code: {"description": text, "content": _ERROR} for code, text in _ERRORS.items()}
_RESPONSES["503"]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}

_ENCODE_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "502", "503", "504")
_RAW_VECTORS = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
_STATUS = {JSON: {"schema": {"type": "object"}}}
_MODEL = {"id": "uncased_L-12_H-768_A-12", "object": "model", "created": 1767225600, "owned_by": "bert-serving"}

OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "bert-serving",
        "version": __version__,
        "description": "Encodes sentences into BERT vectors. With 'Accept: application/octet-stream', /encode returns "
        "the raw little-endian values, with their shape and dtype in the headers X-Shape and X-Dtype. The header "
        "X-Vector-Space of a response names the space of its vectors; a request with this header accepts no other.",
    },
    "paths": {
        "/encode": {
            "post": _operation(
                "Encode texts",
                "Returns one vector per text, in the format of the HTTP server of bert-as-service 1.10.",
                "The vectors, in the order of the texts",
                _content(schemas.EncodeResponse) | _RAW_VECTORS,
                _ENCODE_ERRORS,
                _content(schemas.EncodeRequest, example={"id": 123, "texts": ["hello world", "good day!"]}),
                "Vectors",
            )
        },
        "/v1/embeddings": {
            "post": _operation(
                "Encode texts with the API of OpenAI",
                "Implements the embeddings API of OpenAI: set base_url of its client libraries to /v1 of this server. "
                "The path /embeddings is the same route.",
                "The vectors, in the order of the texts",
                _content(schemas.EmbeddingsResponse),
                _ENCODE_ERRORS,
                _content(schemas.EmbeddingsRequest, example={"model": "bert", "input": ["hello world", "good day!"]}),
                "Vectors",
            )
        },
        "/invocations": {
            "post": _operation(
                "Encode texts for Amazon SageMaker",
                "Accepts the bodies of /encode and of /v1/embeddings, and responds in the same format.",
                "The vectors",
                _content(schemas.EncodeResponse, schemas.EmbeddingsResponse) | _RAW_VECTORS,
                _ENCODE_ERRORS,
                _content(schemas.EncodeRequest, schemas.EmbeddingsRequest, example={"texts": ["hello world"]}),
                "Vectors",
            )
        },
        "/v1/models": {
            "get": _operation(
                "List the model",
                "The id is the name of the folder of the model.",
                "A list with one model",
                _content(schemas.ModelList, example={"object": "list", "data": [_MODEL]}),
                ("401",),
                tag="Vectors",
            )
        },
        "/v1/models/{name}": {
            "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": _operation(
                "Get the model by its name",
                "",
                "The model",
                _content(schemas.Model, example=_MODEL),
                ("401", "404"),
                tag="Vectors",
            ),
        },
        "/status/server": {
            "get": _operation(
                "Get the status of the service",
                "Configuration, state, queue and statistics: the keys of 1.10 and further ones.",
                "The status",
                _STATUS,
                ("401", "503", "504"),
            )
        },
        "/status/client": {
            "get": _operation(
                "Get the status of the client of the HTTP server",
                "All HTTP requests use this client of the service.",
                "The status",
                _STATUS,
                ("401",),
            )
        },
        "/healthz": {
            "get": _operation(
                "Check whether the HTTP server runs",
                "Does not check the service.",
                "The HTTP server runs",
                _content(schemas.HealthState),
                is_public=True,
            )
        },
        "/readyz": {
            "get": _operation(
                "Check whether the service is ready",
                "The service is ready if it replies, is in a serving state, and has computed vectors within the last "
                "30 s. If no client sent texts in that time, the HTTP server encodes a probe.",
                "The service is ready",
                _content(schemas.HealthState),
                ("503",),
                is_public=True,
            )
        },
        "/ping": {
            "get": _operation(
                "Check whether the service is ready, for Amazon SageMaker",
                "Same as /readyz.",
                "The service is ready",
                _content(schemas.HealthState),
                ("503",),
                is_public=True,
            )
        },
        "/metrics": {
            "get": _operation(
                "Get the Prometheus metrics",
                "Metrics of the service and of the HTTP server.",
                "Metrics in Prometheus' text format",
                {"text/plain": {"schema": {"type": "string"}}},
                ("401",),
            )
        },
    },
    "components": {
        "schemas": _COMPONENTS,
        "responses": _RESPONSES,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{"token": []}, {}],
}
