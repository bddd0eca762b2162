"""Serves the routes for operations: health, metrics, and the two paths that Amazon SageMaker calls."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from flask import Blueprint, Response

from ..encoding_service import EncodingService
from ..errors import BadRequest
from ..metrics import Metrics
from ..request_context import json_response, read_body
from ..schemas import HealthState
from ..validation import parse_object
from . import encode, openai


def blueprint(service: EncodingService, metrics: Metrics) -> Blueprint:
    routes = Blueprint("operations", __name__)

    @routes.get("/healthz")
    def healthz() -> Response:
        """Reports that the HTTP process runs, without a check of the service.

        A restart of this process does not help if the service is unreachable.
        """
        return _state(200, "draining" if service.limiter.closed else "alive")

    @routes.get("/readyz")
    @routes.get("/ping", endpoint="ping")
    def readyz() -> Response:
        reason = service.not_ready_reason()
        if reason:
            return _state(503, "not ready", reason)
        return _state(200, "ready")

    @routes.post("/invocations")
    def invocations() -> Response:
        values: dict[str, Any] = parse_object(read_body())
        if "input" in values:
            return openai.embeddings_response(service, values)
        if "texts" in values:
            return encode.encode_response(service, values)
        raise BadRequest("the body must have 'texts', as for /encode, or 'input', as for /v1/embeddings")

    @routes.get("/metrics")
    def all_metrics() -> Response:
        return Response(metrics.render(), content_type=metrics.content_type)

    return routes


def _state(status: int, state: Literal["alive", "draining", "ready", "not ready"], reason: str = "") -> Response:
    response = json_response(HealthState(state, status, reason or msgspec.UNSET), status)
    if status != 200:
        response.headers["Retry-After"] = "2"
    return response
