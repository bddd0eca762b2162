"""Declares the JSON bodies of the embedding routes of Cohere."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from .schemas import BASE64_LIST, VECTORS

CohereType = Literal["float", "float16", "int8", "uint8", "binary", "ubinary", "base64"]


class ContentPart(Struct):
    """A part of an input."""

    type: Literal["text"]
    text: str


class ContentInput(Struct):
    """An input with one text."""

    content: list[ContentPart]


class CohereEmbedRequest(Struct):
    """Body of /v1/embed and /v2/embed."""

    texts: Annotated[list[str] | None, Meta(description="texts that are not blank")] = None
    inputs: Annotated[list[ContentInput] | None, Meta(description="the texts, in place of texts; /v2 only")] = None
    model: Annotated[str, Meta(description="name of a model of the server; one with a single model ignores it")] = ""
    input_type: Annotated[
        Literal["search_document", "search_query", "classification", "clustering"] | None,
        Meta(description="selects the prompt of the model folder for this use; without such a prompt no effect"),
    ] = None
    embedding_types: Annotated[
        list[CohereType] | None,
        Meta(description="types of the vectors; base64 is that of float. By default float; on /v1 then as one list"),
    ] = None
    output_dimension: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="number of leading dimensions to keep")
    ] = None
    truncate: Annotated[
        Literal["END", "NONE"], Meta(description="NONE: a text longer than max_seq_len is an error")
    ] = "END"
    priority: Annotated[int | None, Meta(description="ignored")] = None


class EmbeddingsByType(Struct):
    """Vectors of each type that the request has named."""

    float_: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = field(default=UNSET, name="float")
    float16: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = UNSET
    int8: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = UNSET
    uint8: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = UNSET
    binary: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = UNSET
    ubinary: Annotated[Raw, Meta(extra_json_schema=VECTORS)] | UnsetType = UNSET
    base64: Annotated[Raw, Meta(extra_json_schema=BASE64_LIST)] | UnsetType = UNSET


class CohereEmbedResponse(Struct):
    """Response of /v2/embed, and of /v1/embed to a body with ``embedding_types``."""

    id: str
    embeddings: EmbeddingsByType
    texts: list[str]
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"


class CohereEmbedFloatsResponse(Struct):
    """Response of /v1/embed to a body without ``embedding_types``."""

    id: str
    embeddings: Annotated[Raw, Meta(extra_json_schema=VECTORS)]
    texts: list[str]
    meta: dict[str, Any]
    response_type: Literal["embeddings_floats"] = "embeddings_floats"
