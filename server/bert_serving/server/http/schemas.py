"""Declares the JSON bodies of all requests and responses; the OpenAPI description is derived from these structs.

Request structs document the fields. ``validation`` parses the bodies, because it accepts more (such as ``"true"``) and
explains errors by field. Response structs are also encoded. Their vectors are `msgspec.Raw`, which is already JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

_NUMBERS = {"type": "array", "items": {"type": "number"}}
VECTORS = {"type": "array", "items": _NUMBERS}
TOKEN_VECTORS = {"type": "array", "items": VECTORS}
BASE64_LIST = {"type": "array", "items": {"type": "string"}}

EncodingFormat = Literal["float", "base64"]


# Options of one request, the same on all routes.
Dimensions = Annotated[
    Annotated[int, Meta(ge=1)] | None,
    Meta(description="number of leading dimensions to keep; vectors of length 1 are scaled to it again"),
]
Normalize = Annotated[bool | None, Meta(description="whether vectors have length 1; by default as the server does it")]
PromptName = Annotated[
    str | None, Meta(description="name of a prompt of the model to put before each text; by default the server's")
]
Prompt = Annotated[str | None, Meta(description="text to put before each text, in place of a named prompt")]
Truncate = Annotated[
    bool, Meta(description="truncate texts longer than max_seq_len; if false, such a text is an error")
]


_ABOUT_LONG = (
    "what happens to a text longer than max_seq_len: cut truncates it, error refuses it, mean averages the vectors of "
    "its parts"
)
Long = Annotated[
    Literal["cut", "error", "mean", "chunks", "late"] | None,
    Meta(description=f"{_ABOUT_LONG}, chunks returns them, and late does so in their context"),
]
LongOfOneVector = Annotated[Literal["cut", "error", "mean"] | None, Meta(description=_ABOUT_LONG)]


EmbeddingType = Annotated[
    Literal["float", "float16", "int8", "uint8", "binary", "ubinary"] | None,
    Meta(
        description="type of the numbers; binary and ubinary have the signs of eight numbers in each. By default that "
        "of the server"
    ),
]


Pooling = Annotated[
    str | None,
    Meta(description="pooling strategy of the vectors, such as CLS_TOKEN; by default that of the server"),
]
PoolingLayer = Annotated[
    int | list[int] | None,
    Meta(description="layer, or layers whose vectors are joined; by default all that the server keeps"),
]
ModelName = Annotated[
    str, Meta(description="name of a model of a server with several ones; by default the first one for this route")
]


class VectorFields(Struct, kw_only=True):
    """Options of the vectors of /encode and /v1/embeddings."""

    dimensions: Dimensions = None
    normalize: Normalize = None
    prompt_name: PromptName = None
    prompt: Prompt = None
    truncate: Truncate = True
    long: Long = None
    embedding_type: EmbeddingType = None
    pooling: Pooling = None
    pooling_layer: PoolingLayer = None


class EmbeddingsRequest(VectorFields):
    """Body of /v1/embeddings."""

    input: Annotated[
        str | list[str | int | list[int]],
        Meta(description="a text, a list of texts, token ids of one text, or a list of lists of token ids"),
    ]
    model: Annotated[
        str,
        Meta(
            description="name of a model of the server; one with a single model returns any name in the response. "
            "Token ids are rejected if it is the name of an OpenAI model (text-embedding-...)"
        ),
    ] = ""
    encoding_format: Annotated[
        EncodingFormat, Meta(description="base64: of little-endian float32 values, or of those of embedding_type")
    ] = "float"
    user: Annotated[str, Meta(description="ignored")] = ""


class Embedding(Struct):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: Annotated[Raw, Meta(extra_json_schema={"anyOf": [_NUMBERS, {"type": "string"}]})]
    part: (
        Annotated[
            tuple[int, int, int],
            Meta(description="with chunks: index of the text, offsets from and to in characters"),
        ]
        | UnsetType
    ) = UNSET


class Usage(Struct):
    """Token counts of the request; the two are equal."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(Struct):
    """Response of /v1/embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(Struct, kw_only=True):
    """The served model, in the format of OpenAI with further fields."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "bert-serving"
    vector_space: Annotated[str, Meta(description="name of the space of the vectors; others are not comparable")] = ""
    task: Annotated[str, Meta(description="what the model computes: embed, classify or rerank")]
    outputs: Annotated[list[str], Meta(description="kinds of vectors; empty for scores")]
    dimensions: Annotated[int | None, Meta(description="of a dense vector; null without dense vectors")]
    labels: Annotated[list[str], Meta(description="names of the scores; empty for vectors")]
    max_input_length: Annotated[int, Meta(description="longest sequence in tokens; longer texts are truncated")]


class ModelList(Struct):
    """Response of /v1/models."""

    data: list[Model]
    object: Literal["list"] = "list"


class HealthState(Struct):
    """Response of the health routes."""

    state: Literal["alive", "draining", "ready", "not ready"]
    status: int
    description: Annotated[str, Meta(description="reason, if not ready")] | UnsetType = UNSET


class Error(Struct):
    """Error response."""

    description: Annotated[str, Meta(description="what is wrong, and what to do")]
    status: int
    type: Annotated[str, Meta(description="name of the error")]


# Routes of text-embeddings-inference.
TruncationDirection = Annotated[
    Literal["right", "Right"], Meta(description="texts are truncated at their end; any other value is an error")
]
TeiErrorType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
Inputs = Annotated[
    str | list[str | int | list[int]],
    Meta(description="a text, a list of texts, token ids of one text, or a list of lists of token ids"),
]
TextInputs = Annotated[str | list[str], Meta(description="a text or a list of texts")]


class EmbedRequest(Struct):
    """Body of /embed."""

    inputs: Inputs
    normalize: Annotated[bool, Meta(description="whether vectors have length 1")] = True
    truncate: Truncate = True
    truncation_direction: TruncationDirection = "right"
    prompt_name: PromptName = None
    prompt: Prompt = None
    dimensions: Dimensions = None
    encoding_format: Annotated[EncodingFormat, Meta(description="base64: of little-endian float32 values")] = "float"
    long: LongOfOneVector = None
    model: ModelName = ""


class EmbedAllRequest(Struct):
    """Body of /embed_all."""

    inputs: Inputs
    truncate: Truncate = True
    truncation_direction: TruncationDirection = "right"
    prompt_name: PromptName = None
    prompt: Prompt = None
    model: ModelName = ""


class EmbedSparseRequest(EmbedAllRequest):
    """Body of /embed_sparse; the fields are those of /embed_all."""


class SparseValue(Struct):
    """The weight of a token of the vocabulary."""

    index: Annotated[int, Meta(description="id of the token")]
    value: float


class SimilarityInputs(Struct):
    """Texts of /similarity."""

    source_sentence: Annotated[str, Meta(description="the text to compare with")]
    sentences: Annotated[list[str], Meta(description="the texts to compare")]


class SimilarityParameters(Struct):
    """Options of /similarity."""

    truncate: Truncate = True
    truncation_direction: TruncationDirection = "right"
    prompt_name: PromptName = None
    prompt: Prompt = None
    long: LongOfOneVector = None


class SimilarityRequest(Struct):
    """Body of /similarity."""

    inputs: Annotated[SimilarityInputs, Meta(description="a text, and the texts to compare with it")]
    parameters: Annotated[SimilarityParameters | None, Meta(description="options")] = None
    model: ModelName = ""


class TokenizeRequest(Struct):
    """Body of /tokenize."""

    inputs: TextInputs
    add_special_tokens: Annotated[bool, Meta(description="add the special tokens of the model")] = True
    prompt_name: PromptName = None
    prompt: Prompt = None
    model: ModelName = ""


class Token(Struct):
    """A token. ``text`` is that of the vocabulary. The places in the text are not computed."""

    id: int
    text: str
    special: Annotated[bool, Meta(description="the token is one of the special tokens around a text")]
    start: None = None
    stop: None = None


class DecodeRequest(Struct):
    """Body of /decode."""

    ids: Annotated[list[int | list[int]], Meta(description="token ids of one text, or a list of lists of token ids")]
    skip_special_tokens: Annotated[bool, Meta(description="omit special tokens")] = True
    model: ModelName = ""


class Info(Struct):
    """Response of /info."""

    model_id: str
    model_dtype: str
    model_type: Annotated[dict[str, Any], Meta(description="the kind of the model, and its pooling")]
    max_input_length: Annotated[int, Meta(description="longest sequence in tokens; longer texts are truncated")]
    max_client_batch_size: Annotated[int, Meta(description="maximum number of texts in a request")]
    max_batch_requests: Annotated[int, Meta(description="maximum number of sequences in a batch")]
    max_batch_tokens: int | None
    max_concurrent_requests: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    vector_space: str
    model_sha: None = None
    sha: None = None
    docker_label: None = None


EmbedResponse = list[list[float] | str]
EmbedAllResponse = list[list[list[float]]]
EmbedSparseResponse = list[list[SparseValue]]
SimilarityResponse = list[float]
TokenizeResponse = list[list[Token]]
DecodeResponse = list[str]
HealthResponse = dict[str, float]


class TeiError(Struct):
    """Error response of the routes of text-embeddings-inference."""

    error: Annotated[str, Meta(description="what is wrong, and what to do")]
    error_type: TeiErrorType


class OpenAIErrorDetail(Struct):
    """Content of an error response below /v1."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Struct):
    """Error response below /v1."""

    error: OpenAIErrorDetail
