"""Serves the routes for operations: health and metrics. Amazon SageMaker calls ``/ping``."""

from __future__ import annotations

from typing import Literal

import msgspec
from flask import Blueprint, Response

from ..encoding_service import EncodingService
from ..metrics import Metrics
from ..request_context import json_response
from ..schemas import HealthState


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

    @routes.get("/metrics")
    def all_metrics() -> Response:
        return Response(metrics.render(), content_type=metrics.content_type)

    return routes


def _state(status: int, state: Literal["alive", "draining", "ready", "not ready"], reason: str = "") -> Response:
    response = json_response(HealthState(state, status, reason or msgspec.UNSET), status)
    if status != 200:
        response.headers["Retry-After"] = "2"
    return response
