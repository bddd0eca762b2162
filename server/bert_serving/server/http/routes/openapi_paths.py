"""Describes the routes of 1.10.0 and of OpenAI, and those for operations."""

from __future__ import annotations

from typing import Any

from .. import cohere_schemas as cohere
from .. import encode_schemas as encode
from .. import schemas
from ..request_context import BYTES, JSON
from .openapi_parts import TASK_REQUESTS, TASK_RESPONSES, content, operation

_ENCODE_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "424", "429", "502", "503", "504")
#: Of routes that need a server of vectors, or have a meaning for each task.
_TASK_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "424", "429", "502", "503", "504")
_TEXTS = {"texts": ["hello world"]}
_RAW_VECTORS = {BYTES: {"schema": {"type": "string", "format": "binary"}}}
_STATUS = {JSON: {"schema": {"type": "object"}}}
_MODEL = {
    "id": "uncased_L-12_H-768_A-12",
    "object": "model",
    "created": 1767225600,
    "owned_by": "bert-serving",
    "vector_space": "0123456789abcdef",
    "task": "embed",
    "outputs": ["dense"],
    "dimensions": 768,
    "labels": [],
    "max_input_length": 25,
}

_NAME = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "Name of the model",
    "schema": {"type": "string"},
}

PATHS: dict[str, Any] = {
    "/encode": {
        "post": operation(
            "Encode texts",
            "Returns one vector per text, in the format of the HTTP server of bert-as-service 1.10. outputs names "
            "other kinds of vectors, if the model has them.",
            "The vectors, in the order of the texts",
            content(encode.EncodeResponse) | _RAW_VECTORS,
            _ENCODE_ERRORS,
            content(encode.EncodeRequest, example={"id": 123, "texts": ["hello world", "good day!"]}),
            "Vectors",
        )
    },
    "/v1/embeddings": {
        "post": operation(
            "Encode texts with the API of OpenAI",
            "Implements the embeddings API of OpenAI: set base_url of its client libraries to /v1 of this server. "
            "The path /embeddings is the same route.",
            "The vectors, in the order of the texts",
            content(schemas.EmbeddingsResponse),
            _TASK_ERRORS,
            content(schemas.EmbeddingsRequest, example={"model": "bert", "input": ["hello world", "good day!"]}),
            "Vectors",
        )
    },
    "/v1/embed": {
        "post": operation(
            "Encode texts with the API of Cohere",
            "Without embedding_types, embeddings is one list of vectors.",
            "The vectors, in the order of the texts",
            content(cohere.CohereEmbedFloatsResponse, cohere.CohereEmbedResponse),
            _TASK_ERRORS,
            content(cohere.CohereEmbedRequest, example=_TEXTS | {"input_type": "search_document"}),
            "Vectors",
        )
    },
    "/v2/embed": {
        "post": operation(
            "Encode texts with the second API of Cohere",
            "embedding_types names the types of the vectors: float by default, float16, int8, uint8, binary, "
            "ubinary and base64. int8 and uint8 need -quantization_ranges.",
            "The vectors by type, in the order of the texts",
            content(cohere.CohereEmbedResponse),
            _TASK_ERRORS,
            content(
                cohere.CohereEmbedRequest,
                example=_TEXTS | {"input_type": "search_document", "embedding_types": ["float", "ubinary"]},
            ),
            "Vectors",
        )
    },
    "/invocations": {
        "post": operation(
            "Encode texts for Amazon SageMaker",
            "Accepts the bodies of /encode, of /v1/embeddings and of POST /, and responds in the same format.",
            "The vectors",
            content(encode.EncodeResponse, schemas.EmbeddingsResponse, *TASK_RESPONSES) | _RAW_VECTORS,
            _TASK_ERRORS,
            content(encode.EncodeRequest, schemas.EmbeddingsRequest, *TASK_REQUESTS, example=_TEXTS),
            "Vectors",
        )
    },
    "/v1/models": {
        "get": operation(
            "List the models",
            "The id is the name of -model, or of the folder of the model. Further fields describe it.",
            "A list of the models",
            content(schemas.ModelList, example={"object": "list", "data": [_MODEL]}),
            ("401",),
            tag="Vectors",
        )
    },
    "/v1/models/{name}": {
        "parameters": [_NAME],
        "get": operation(
            "Get the model by its name",
            "",
            "The model",
            content(schemas.Model, example=_MODEL),
            ("401", "404"),
            tag="Vectors",
        ),
    },
    "/status/server": {
        "get": operation(
            "Get the status of the service",
            "Configuration, state, queue and statistics: the keys of 1.10 and further ones.",
            "The status",
            _STATUS,
            ("401", "503", "504"),
        )
    },
    "/status/client": {
        "get": operation(
            "Get the status of the client of the HTTP server",
            "All HTTP requests use this client of the service.",
            "The status",
            _STATUS,
            ("401",),
        )
    },
    "/healthz": {
        "get": operation(
            "Check whether the HTTP server runs",
            "Does not check the service.",
            "The HTTP server runs",
            content(schemas.HealthState),
            is_public=True,
        )
    },
    "/readyz": {
        "get": operation(
            "Check whether the service is ready",
            "The service is ready if it replies, is in a serving state, and has computed vectors within the last "
            "30 s. If no client sent texts in that time, the HTTP server encodes a probe.",
            "The service is ready",
            content(schemas.HealthState),
            ("503",),
            is_public=True,
        )
    },
    "/ping": {
        "get": operation(
            "Check whether the service is ready, for Amazon SageMaker",
            "Same as /readyz.",
            "The service is ready",
            content(schemas.HealthState),
            ("503",),
            is_public=True,
        )
    },
    "/metrics": {
        "get": operation(
            "Get the Prometheus metrics",
            "Metrics of the service and of the HTTP server.",
            "Metrics in Prometheus' text format",
            {"text/plain": {"schema": {"type": "string"}}},
            ("401",),
        )
    },
}
