"""Declares the JSON bodies of the routes that return scores: rerank, predict and classify."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from .schemas import ModelName, Truncate, TruncationDirection, Usage

RawScores = Annotated[bool, Meta(description="return logits: do not apply the function that turns them into scores")]
TopN = Annotated[
    Annotated[int, Meta(ge=1)] | None, Meta(description="maximum number of results, the best ones; by default all")
]

By = Annotated[
    Literal["sparse", "multi"] | None,
    Meta(
        description="compare vectors in place of a cross-encoder: sparse by their inner product, multi by MaxSim; by "
        "default the only such output of the model"
    ),
]


class TeiRerankRequest(Struct):
    """Body of /rerank of text-embeddings-inference."""

    query: Annotated[str, Meta(description="the text to compare with")]
    texts: Annotated[list[str], Meta(description="the texts to rank")]
    raw_scores: RawScores = False
    return_text: Annotated[bool, Meta(description="return the texts too")] = False
    top_n: TopN = None
    truncate: Truncate = True
    truncation_direction: TruncationDirection = "right"
    by: By = None
    model: ModelName = ""


class TeiRank(Struct):
    """A text of a ranking."""

    index: Annotated[int, Meta(description="index in the texts of the request")]
    score: float
    text: str | UnsetType = UNSET


class TextObject(Struct):
    """A document as an object."""

    text: str


class RerankRequest(Struct):
    """Body of /v1/rerank and /v2/rerank of Cohere and Jina, and of /rerank of infinity."""

    query: Annotated[str, Meta(description="the text to compare with")]
    documents: Annotated[list[str | TextObject], Meta(description="the texts to rank")]
    model: Annotated[str, Meta(description="name of a model of the server; returned in the response")] = ""
    top_n: TopN = None
    return_documents: Annotated[bool, Meta(description="return the documents too")] = False
    raw_scores: RawScores = False
    truncate: Truncate = True
    by: By = None


class Rank(Struct):
    """A document of a ranking."""

    index: Annotated[int, Meta(description="index in the documents of the request")]
    relevance_score: float
    document: str | TextObject | UnsetType = UNSET


class RerankResponse(Struct):
    """Response of the rerank routes to a body with documents."""

    id: str
    object: Literal["rerank"]
    created: int
    model: str
    results: Annotated[list[Rank], Meta(description="the best first")]
    usage: Usage
    meta: dict[str, Any]


class PredictRequest(Struct):
    """Body of /predict."""

    inputs: Annotated[
        str | list[str | list[str]],
        Meta(description="a text, a pair of texts as a list, or a list of lists, each with a text or a pair"),
    ]
    raw_scores: RawScores = False
    top_k: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="maximum number of labels, the best ones; by default all")
    ] = None
    function_to_apply: Annotated[
        Literal["sigmoid", "softmax", "none"] | None,
        Meta(description="function that turns logits into scores; by default that of the model"),
    ] = None
    truncate: Truncate = True
    truncation_direction: TruncationDirection = "right"
    model: ModelName = ""


class Prediction(Struct):
    """A label and its score."""

    label: str
    score: float


class ClassifyRequest(Struct):
    """Body of /classify of infinity."""

    input: Annotated[str | list[str], Meta(description="a text or a list of texts")]
    model: Annotated[str, Meta(description="name of a model of the server; returned in the response")] = ""
    raw_scores: RawScores = False
    truncate: Truncate = True


class ClassifyResponse(Struct):
    """Response of /classify."""

    id: str
    object: Literal["classify"]
    created: int
    model: str
    data: Annotated[list[list[Prediction]], Meta(description="the labels of each text, the best first")]
    usage: Usage


class CohereError(Struct):
    """Error response below /v2, and of /v1/embed."""

    message: str


TeiRerankResponse = list[TeiRank]
PredictResponse = list[Prediction | list[Prediction]]
