"""Serves ``POST /`` and ``/invocations`` of Amazon SageMaker, whose bodies tell what to do with them."""

from __future__ import annotations

from typing import Any

from werkzeug.datastructures import Headers

from ..encoding_call import EncodingCall
from ..encoding_service import EncodingService
from ..errors import BadRequest
from . import classify, encode, openai, rerank, tei

_BY_TASK = {"embed": tei.prepare, "classify": classify.prepare_predict, "rerank": rerank.prepare_rerank}


def prepare_by_task(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``POST /`` request as the route for the task of the server, or for a ranking of its outputs, does."""
    if "query" in values and "inputs" not in values and service.compared:
        return rerank.prepare_rerank(service, values, headers)
    return _BY_TASK[service.config.task](service, values, headers)


def prepare_invocations(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/invocations`` request as the route of its fields does."""
    if "input" in values:
        return openai.prepare(service, values, headers)
    if "inputs" in values or "query" in values:
        return prepare_by_task(service, values, headers)
    if "texts" in values:
        return encode.prepare(service, values, headers)
    raise BadRequest(
        "the body must have 'texts', as for /encode, 'input', as for /v1/embeddings, or 'inputs' or 'query', as for /"
    )
