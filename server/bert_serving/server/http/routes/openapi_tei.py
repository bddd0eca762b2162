"""Describes the routes of text-embeddings-inference, and those for scores."""

from __future__ import annotations

from typing import Any

from .. import schemas
from .. import score_schemas as scores
from .openapi_parts import content, operation

_TAG = "text-embeddings-inference"
_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "424", "429", "502", "503", "504")
_SCORE_ERRORS = ("400", "401", "403", "409", "413", "415", "422", "424", "429", "502", "503", "504")
_EMBED = {"inputs": ["hello world", "good day!"]}
_RERANK = {"query": "hello", "texts": ["hello world", "good day!"]}
_DOCUMENTS = {"model": "bert", "query": "hello", "documents": ["hello world", "good day!"], "top_n": 1}
_SIMILARITY = {"inputs": {"source_sentence": "hello world", "sentences": ["good day!", "hello"]}}
_ABOUT_RANKINGS = "Needs a server with -task rerank, or a model with sparse or multi vectors, which by names."

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
            "Needs a server with -pooling_strategy NONE, or a model folder with the output multi, such as BGE-M3.",
            "The vectors of the tokens of each text",
            content(schemas.EmbedAllResponse),
            _ERRORS,
            content(schemas.EmbedAllRequest, example=_EMBED),
            _TAG,
        )
    },
    "/embed_sparse": {
        "post": operation(
            "Encode texts into sparse vectors",
            "Needs a server whose model folder has sparse vectors, such as a SPLADE model.",
            "The weights of tokens of the vocabulary of each text",
            content(schemas.EmbedSparseResponse),
            _ERRORS,
            content(schemas.EmbedSparseRequest, example=_EMBED),
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
            "Answer as the route for the task of the server",
            "Same as /embed, or as /similarity if the inputs have a source_sentence. With -task classify, same as "
            "/predict; with -task rerank, or with a query on a server of sparse or multi vectors, same as /rerank.",
            "The response of the route",
            content(
                schemas.EmbedResponse, schemas.SimilarityResponse, scores.PredictResponse, scores.TeiRerankResponse
            ),
            _ERRORS,
            content(schemas.EmbedRequest, schemas.SimilarityRequest, scores.PredictRequest, example=_EMBED),
            _TAG,
        )
    },
    "/predict": {
        "post": operation(
            "Classify texts or pairs of texts",
            "Needs a server with -task classify. A list of two texts is a pair; several texts are lists of their own. "
            "A single input gives a list of labels, several give a list of such lists.",
            "The labels and their scores, the best first",
            content(scores.PredictResponse),
            _ERRORS,
            content(scores.PredictRequest, example={"inputs": [["hello world"], ["good day!", "hello"]]}),
            _TAG,
        )
    },
    "/rerank": {
        "post": operation(
            "Rank texts",
            f"{_ABOUT_RANKINGS} A body with documents, as infinity has them, gives an object.",
            "The indices of the texts and their scores, the best first",
            content(scores.TeiRerankResponse, scores.RerankResponse),
            _ERRORS,
            content(scores.TeiRerankRequest, scores.RerankRequest, example=_RERANK),
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
            "The service is ready; the body has the time, as infinity's has",
            content(schemas.HealthResponse),
            ("503",),
            tag=_TAG,
            is_public=True,
        )
    },
    "/v1/rerank": {
        "post": operation(
            "Rank documents with the API of Cohere and Jina",
            _ABOUT_RANKINGS,
            "The indices of the documents and their scores, the best first",
            content(scores.RerankResponse),
            _SCORE_ERRORS,
            content(scores.RerankRequest, example=_DOCUMENTS),
            "Scores",
        )
    },
    "/v2/rerank": {
        "post": operation(
            "Rank documents with the second API of Cohere",
            _ABOUT_RANKINGS,
            "The indices of the documents and their scores, the best first",
            content(scores.RerankResponse),
            _SCORE_ERRORS,
            content(scores.RerankRequest, example=_DOCUMENTS),
            "Scores",
        )
    },
    "/classify": {
        "post": operation(
            "Classify texts with the API of infinity",
            "Needs a server with -task classify.",
            "The labels of each text and their scores, the best first",
            content(scores.ClassifyResponse),
            _SCORE_ERRORS,
            content(scores.ClassifyRequest, example={"input": ["hello world", "good day!"]}),
            "Scores",
        )
    },
}
