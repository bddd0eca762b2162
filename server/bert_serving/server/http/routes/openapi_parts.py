"""Builds the parts of the OpenAPI description: schemas, error responses and operations.

The schemas of the bodies are derived from the structs in ``schemas``.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .. import batch_job_schemas as jobs
from .. import cohere_schemas as cohere
from .. import encode_schemas as encode
from .. import schemas
from .. import score_schemas as scores
from ..request_context import JSON

_BODIES: tuple[Any, ...] = (
    encode.EncodeRequest,
    encode.EncodeResponse,
    schemas.EmbeddingsRequest,
    schemas.EmbeddingsResponse,
    schemas.Model,
    schemas.ModelList,
    schemas.HealthState,
    schemas.Error,
    schemas.OpenAIError,
    schemas.EmbedRequest,
    schemas.EmbedAllRequest,
    schemas.EmbedSparseRequest,
    schemas.SimilarityRequest,
    schemas.TokenizeRequest,
    schemas.DecodeRequest,
    schemas.EmbedResponse,
    schemas.EmbedAllResponse,
    schemas.EmbedSparseResponse,
    schemas.SimilarityResponse,
    schemas.TokenizeResponse,
    schemas.DecodeResponse,
    schemas.Info,
    schemas.HealthResponse,
    schemas.TeiError,
    scores.TeiRerankRequest,
    scores.TeiRerankResponse,
    scores.RerankRequest,
    scores.RerankResponse,
    scores.PredictRequest,
    scores.PredictResponse,
    scores.ClassifyRequest,
    scores.ClassifyResponse,
    scores.CohereError,
    cohere.CohereEmbedRequest,
    cohere.CohereEmbedResponse,
    cohere.CohereEmbedFloatsResponse,
    jobs.BatchRequest,
    jobs.FileObject,
    jobs.FileList,
    jobs.FileDeleted,
    jobs.Batch,
    jobs.BatchList,
)
_REFERENCES, SCHEMAS = msgspec.json.schema_components(_BODIES, ref_template="#/components/schemas/{name}")
_SCHEMAS = dict(zip(_BODIES, _REFERENCES, strict=True))

#: Bodies of the routes whose meaning depends on the task of the server.
TASK_REQUESTS = (schemas.EmbedRequest, schemas.SimilarityRequest, scores.PredictRequest, scores.TeiRerankRequest)
TASK_RESPONSES = (schemas.EmbedResponse, schemas.SimilarityResponse, scores.PredictResponse, scores.TeiRerankResponse)


def content(*bodies: Any, example: Any = None) -> dict[str, Any]:
    alternatives = [_SCHEMAS[body] for body in bodies]
    schema = alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    return {JSON: {"schema": schema} | ({} if example is None else {"example": example})}


def operation(
    summary: str,
    description: str,
    response: str,
    content: dict[str, Any],
    errors: tuple[str, ...] = (),
    request: dict[str, Any] | None = None,
    tag: str = "Operations",
    is_public: bool = False,
) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": summary, "description": description, "tags": [tag]}
    if request is not None:
        described["requestBody"] = {"required": True, "content": request}
    described["responses"] = {"200": {"description": response, "content": content}}
    for code in errors:
        described["responses"][code] = {"$ref": f"#/components/responses/{code}"}
    if is_public:
        described["security"] = []
    return described


_ERROR = content(schemas.Error, schemas.OpenAIError, schemas.TeiError, scores.CohereError)
_ERRORS = {
    "400": "The body, or a value in it, is invalid",
    "401": "The token is missing or wrong",
    "403": "The service rejects the key of its own HTTP server",
    "404": "The path, the model, the file or the batch does not exist",
    "409": "The vectors are of another space than the header X-Vector-Space of the request expects",
    "413": "The request exceeds a limit of the server, which the message names",
    "415": "The body is compressed",
    "422": "The engine cannot encode one of the texts; on routes of text-embeddings-inference, a value is invalid",
    "424": "The model is of another kind than the route needs, or the engine cannot encode one of the texts",
    "429": "The server is overloaded, or a limit of the key is used up",
    "502": "The reply of the service cannot be decoded",
    "503": "The server is overloaded or stopping, or the service is unreachable",
    "504": "The service does not reply in time",
    "507": "The disk of the batch jobs is full, or fails",
}
RESPONSES: dict[str, Any] = {code: {"description": text, "content": _ERROR} for code, text in _ERRORS.items()}
for _code in ("429", "503"):
    RESPONSES[_code]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
