"""Describes the routes as OpenAPI 3.1 at ``/openapi.json``, and as a page at ``/docs``.

``openapi_paths``, ``openapi_tei`` and ``openapi_jobs`` have the routes.
"""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as BaseResponse

from ...version import __version__
from ..request_context import JSON
from .docs_page import render
from .openapi_jobs import JOB_PATHS
from .openapi_parts import RESPONSES, SCHEMAS
from .openapi_paths import PATHS
from .openapi_tei import TEI_PATHS

#: The page loads nothing else and connects to this server only.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def blueprint(has_jobs: bool) -> Blueprint:
    """Returns the routes; ``has_jobs`` tells whether the server runs batch jobs."""
    routes = Blueprint("openapi", __name__)
    openapi = OPENAPI | {"paths": OPENAPI["paths"] | JOB_PATHS} if has_jobs else OPENAPI
    description = orjson.dumps(openapi, option=orjson.OPT_INDENT_2)
    html = render(openapi)

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


OPENAPI: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {
        "title": "bert-serving",
        "version": __version__,
        "description": "Encodes sentences into BERT vectors. With 'Accept: application/octet-stream', /encode returns "
        "the raw little-endian values, with their shape and dtype in the headers X-Shape and X-Dtype. The header "
        "X-Vector-Space of a response names the space of its vectors, or else that of the server; a request with this "
        "header accepts no other.",
    },
    "paths": PATHS | TEI_PATHS,
    "components": {
        "schemas": SCHEMAS,
        "responses": RESPONSES,
        "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
    },
    "security": [{"token": []}, {}],
}
