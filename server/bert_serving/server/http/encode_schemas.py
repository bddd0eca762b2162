"""Declares the JSON bodies of /encode."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from .schemas import BASE64_LIST, TOKEN_VECTORS, VECTORS, EncodingFormat, ModelName, VectorFields


class EncodeRequest(VectorFields):
    """Body of /encode."""

    texts: Annotated[
        list[str | list[str]],
        Meta(
            description="texts that are not blank; token lists with is_tokenized; lists of two texts with pairs. "
            "'A ||| B' is a pair of texts, unless pairs is false"
        ),
    ]
    id: Annotated[Any, Meta(description="any JSON value; returned in the response")] = None
    is_tokenized: Annotated[bool, Meta(description="texts are lists of tokens")] = False
    pairs: Annotated[
        bool | None, Meta(description="true: texts are pairs, each a list of two texts; false: no text is a pair")
    ] = None
    raw_scores: Annotated[bool, Meta(description="return logits in place of scores; with scores only")] = False
    show_tokens: Annotated[bool, Meta(description="return the tokens of each text")] = False
    encoding_format: Annotated[
        EncodingFormat, Meta(description="base64: each row as base64 of its little-endian values")
    ] = "float"
    model: ModelName = ""
    outputs: Annotated[
        list[Literal["dense", "sparse", "multi"]] | None,
        Meta(description="kinds of vectors, of those that the model has; by default dense vectors alone"),
    ] = None


class SparseWeights(Struct):
    """The weights of a text of the tokens of the vocabulary."""

    indices: Annotated[list[int], Meta(description="ids of the tokens, in increasing order")]
    values: list[float]
    tokens: list[str]


class EncodeResponse(Struct, kw_only=True):
    """Response of /encode."""

    id: Annotated[Raw, Meta(description="id of the request")]
    result: (
        Annotated[Raw, Meta(description="same as results, for programs written for 1.10", extra_json_schema=VECTORS)]
        | UnsetType
    ) = UNSET
    results: (
        Annotated[
            Raw,
            Meta(
                description="one vector per text; without pooling, one vector per token of each text. Absent if "
                "outputs lacks dense",
                extra_json_schema={"anyOf": [VECTORS, TOKEN_VECTORS, BASE64_LIST]},
            ),
        ]
        | UnsetType
    ) = UNSET
    sparse: (
        Annotated[list[SparseWeights], Meta(description="the sparse vector of each text, with outputs")] | UnsetType
    ) = UNSET
    multi: (
        Annotated[
            Raw,
            Meta(
                description="one vector per token of each text, with outputs; with base64, the values of all "
                "vectors of a text",
                extra_json_schema={"anyOf": [TOKEN_VECTORS, BASE64_LIST]},
            ),
        ]
        | UnsetType
    ) = UNSET
    multi_dtype: Annotated[str, Meta(description="float32 or float16, of multi with base64")] | UnsetType = UNSET
    multi_shapes: (
        Annotated[list[tuple[int, int]], Meta(description="shape of the vectors of each text, with base64")] | UnsetType
    ) = UNSET
    num_tokens: Annotated[int, Meta(description="number of tokens of all texts, including [CLS] and [SEP]")]
    truncated: Annotated[
        list[int], Meta(description="indices of texts truncated to max_seq_len; at most the first 1,000")
    ]
    tokens: Annotated[list[list[str]], Meta(description="tokens of each text, with show_tokens")] | UnsetType = UNSET
    parts: (
        Annotated[
            list[tuple[int, int, int]],
            Meta(
                description="of each vector, with chunks and late: index of the text, offsets from and to in characters"
            ),
        ]
        | UnsetType
    ) = UNSET
    dtype: Annotated[str, Meta(description="float32, float16, int8 or uint8, with base64")] | UnsetType = UNSET
    shape: Annotated[list[int], Meta(description="shape of the array, with base64")] | UnsetType = UNSET
    status: int = 200
