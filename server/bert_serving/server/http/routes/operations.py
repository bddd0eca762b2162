"""The routes for those who run the server: health, metrics, and the two paths that Amazon SageMaker calls."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response

from ..encoding_service import EncodingService
from ..errors import BadRequest
from ..metrics import Metrics
from ..request_context import JSON, admitted, body
from ..validation import read_object
from . import encode, openai


def blueprint(door: EncodingService, metrics: Metrics) -> Blueprint:
    routes = Blueprint("operations", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        """This process runs. It asks nobody: a service that is away is no reason to restart its HTTP door."""
        return _state(200, "draining" if door.gate.closed else "alive")

    @routes.get("/readyz")
    @routes.get("/ping", endpoint="ping")
    def readyz() -> Response:
        why_not = "the server is stopping" if door.gate.closed else door.readiness.why_not()
        if why_not:
            return _state(503, "not ready", why_not)
        return _state(200, "ready")

    @routes.post("/invocations")
    def invocations() -> Response:
        with admitted(door):
            values: dict[str, Any] = read_object(body())
            if "input" in values:
                return openai.answer(door, values)
            if "texts" in values:
                return encode.answer(door, values)
            raise BadRequest("the body needs 'texts', as for /encode, or 'input', as for /v1/embeddings")

    @routes.get("/metrics")
    def all_metrics() -> Response:
        return Response(metrics.render(), content_type=metrics.content_type)

    return routes


def _state(status: int, state: str, why: str = "") -> Response:
    values = {"state": state, "status": status} | ({"description": why} if why else {})
    response = Response(orjson.dumps(values), status, mimetype=JSON)
    if status != 200:
        response.headers["Retry-After"] = "2"
    return response
