"""Writes an error in the format of the API that its path belongs to.

===========================================  ======================================================================
routes of text-embeddings-inference          ``{"error", "error_type"}``, with the statuses of that server
below ``/v1``, and ``/classify``             ``{"error": {"message", "type", "param", "code"}}`` of OpenAI
below ``/v2``, and ``/v1/embed``             ``{"message"}`` of Cohere
all others                                   ``{"description", "status", "type"}`` of 1.10.0
===========================================  ======================================================================
"""

from __future__ import annotations

import msgspec

from bert_serving.client import errors as client_errors

from .errors import EmptyInput, ErrorResponse, InvalidTokenId, Overloaded
from .schemas import Error, OpenAIError, OpenAIErrorDetail, TeiError, TeiErrorType
from .score_schemas import CohereError

#: Paths of text-embeddings-inference.
TEI_PATHS = frozenset(
    (
        *("/", "/embed", "/embed_all", "/embed_sparse", "/similarity", "/rerank", "/predict"),
        *("/tokenize", "/decode", "/info", "/health"),
    )
)
_OVERLOADED = (
    Overloaded.__name__,
    client_errors.OverloadedError.__name__,
    client_errors.RateLimitedError.__name__,
)


def format_error(error: ErrorResponse, path: str) -> tuple[int, bytes]:
    """Returns the status and the JSON body of an error response. ``path`` is canonical."""
    if path in TEI_PATHS:
        status, type_ = _tei_status(error)
        return status, msgspec.json.encode(TeiError(error.message, type_))
    if path.startswith("/v2/") or path == "/v1/embed":
        return error.status, msgspec.json.encode(CohereError(error.message))
    if not path.startswith("/v1/") and path != "/classify":
        return error.status, msgspec.json.encode(Error(error.message, error.status, error.type))
    codes = {
        401: "invalid_api_key",
        404: "not_found",
        409: "vector_space_mismatch",
        413: "too_large",
        429: "rate_limit_exceeded",
    }
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    detail = OpenAIErrorDetail(error.message, kind, error.param, codes.get(error.status))
    return error.status, msgspec.json.encode(OpenAIError(detail))


def _tei_status(error: ErrorResponse) -> tuple[int, TeiErrorType]:
    """Returns the status and the type of text-embeddings-inference. That server has no timeouts, so 504 remains."""
    if error.type == EmptyInput.__name__:
        return 400, "Empty"
    if error.type == InvalidTokenId.__name__:
        return 422, "Tokenizer"
    if error.type in _OVERLOADED:
        return 429, "Overloaded"
    if error.status == 503:
        return 503, "Unhealthy"
    if error.status == 400:
        return 422, "Validation"
    if error.status in (422, 424):
        return 424, "Backend"
    return error.status, "Backend" if error.status >= 500 else "Validation"
