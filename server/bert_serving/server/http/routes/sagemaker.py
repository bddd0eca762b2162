"""Serves ``/invocations`` of Amazon SageMaker: the bodies of ``/encode`` and of ``/v1/embeddings``."""

from __future__ import annotations

from typing import Any

from werkzeug.datastructures import Headers

from ..encoding_call import EncodingCall
from ..encoding_service import EncodingService
from ..errors import BadRequest
from . import encode, openai


def prepare(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a request as the route of its fields does."""
    if "input" in values:
        return openai.prepare(service, values, headers)
    if "texts" in values:
        return encode.prepare(service, values, headers)
    raise BadRequest("the body must have 'texts', as for /encode, or 'input', as for /v1/embeddings")
