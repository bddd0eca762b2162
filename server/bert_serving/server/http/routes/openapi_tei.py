"""Describes the routes of text-embeddings-inference."""

from __future__ import annotations

from typing import Any

from .. import schemas
from ..request_context import JSON
from .openapi_parts import content, operation

_TAG = "text-embeddings-inference"
_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "424", "429", "503", "504")
_EMBED = {"inputs": ["hello world", "good day!"]}
_SIMILARITY = {"inputs": {"source_sentence": "hello world", "sentences": ["good day!", "hello"]}}

TEI_PATHS: dict[str, Any] = {
    "/embed": {
        "post": operation(
            "Encode texts",
            "Returns one vector per text. Vectors have length 1, unless normalize is false.",
            "The vectors, in the order of the texts",
            content(schemas.EmbedResponse),
            _ERRORS,
            content(schemas.EmbedRequest, example=_EMBED),
            _TAG,
        )
    },
    "/embed_all": {
        "post": operation(
            "Encode texts into one vector per token",
            "Needs a server with -pooling_strategy NONE.",
            "The vectors of the tokens of each text",
            content(schemas.EmbedAllResponse),
            _ERRORS,
            content(schemas.EmbedAllRequest, example=_EMBED),
            _TAG,
        )
    },
    "/similarity": {
        "post": operation(
            "Compare a text with others",
            "Returns the cosine similarity of the text to each of the others.",
            "The similarities, in the order of the sentences",
            content(schemas.SimilarityResponse),
            _ERRORS,
            content(schemas.SimilarityRequest, example=_SIMILARITY),
            _TAG,
        )
    },
    "/": {
        "post": operation(
            "Encode or compare texts",
            "Same as /embed, or as /similarity if the inputs have a source_sentence.",
            "The response of the route",
            content(schemas.EmbedResponse, schemas.SimilarityResponse),
            _ERRORS,
            content(schemas.EmbedRequest, schemas.SimilarityRequest, example=_EMBED),
            _TAG,
        )
    },
    "/tokenize": {
        "post": operation(
            "Tokenize texts",
            "Texts are not truncated.",
            "The tokens of each text",
            content(schemas.TokenizeResponse),
            ("400", "401", "413", "415", "422", "429", "503"),
            content(schemas.TokenizeRequest, example={"inputs": "hello world"}),
            _TAG,
        )
    },
    "/decode": {
        "post": operation(
            "Convert token ids to texts",
            "",
            "The texts",
            content(schemas.DecodeResponse),
            ("400", "401", "413", "415", "422", "429", "503"),
            content(schemas.DecodeRequest, example={"ids": [[7, 8]]}),
            _TAG,
        )
    },
    "/info": {
        "get": operation(
            "Get the model and the limits",
            "",
            "The model and the limits",
            content(schemas.Info),
            ("401", "503", "504"),
            tag=_TAG,
        )
    },
    "/health": {
        "get": operation(
            "Check whether the service is ready",
            "Same check as /readyz.",
            "The service is ready; the body is empty",
            {JSON: {"schema": {}}},
            ("503",),
            tag=_TAG,
            is_public=True,
        )
    },
}
