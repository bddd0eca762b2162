"""Refuses fields of a body that ask for other vectors than this server computes.

A field with the value null counts as absent. Fields that identify a request or its user pass.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .cohere_schemas import CohereEmbedRequest
from .encode_schemas import EncodeRequest
from .errors import BadRequest
from .schemas import EmbeddingsRequest
from .validation import json_type, truncate_repr

#: Fields of other embedding APIs that change vectors or their form. /encode refuses them; it ignores other unknown
#: fields, as 1.10 did.
MEANINGFUL = frozenset(
    (
        "add_special_tokens",
        "chat_template",
        "dimension",
        "embedding_type",
        "embedding_types",
        "input_type",
        "instruct",
        "instruction",
        "late_chunking",
        "layer",
        "max_length",
        "normalize_embeddings",
        "normalized",
        "outputs",
        "output_dimension",
        "output_dtype",
        "pooling",
        "pooling_layer",
        "pooling_strategy",
        "query_instruction",
        "return_multivector",
        "sparse",
        "task",
        "task_type",
        "truncate_dim",
        "truncate_prompt_tokens",
        "truncation",
        "truncation_direction",
    )
)
#: Fields of some routes of text-embeddings-inference, without influence on its others.
_OPTIONS = MEANINGFUL | {"dimensions", "encoding_format", "long", "normalize", "prompt", "prompt_name"}
#: Fields of APIs for scores that change them.
_OF_SCORES = _OPTIONS | {"max_chunks_per_doc", "max_tokens_per_doc", "rank_fields", "top_k", "function_to_apply"}
_OF_COHERE = _OPTIONS | {"max_tokens"}
_ENCODE_FIELDS = EncodeRequest.__struct_fields__
_EMBEDDINGS_FIELDS = (*EmbeddingsRequest.__struct_fields__, "id")


def _canonical(name: str) -> str:
    """Returns a name of a field without case, separators and plural, in American spelling."""
    return name.lower().replace("_", "").replace("-", "").replace("normalise", "normalize").removesuffix("s")


#: Fields of /encode that 1.10 did not have. It ignored other spellings of its own ones, and so does this server.
_CANONICAL = frozenset(map(_canonical, _ENCODE_FIELDS)) - frozenset(map(_canonical, ("id", "texts", "is_tokenized")))


def check_encode_fields(values: dict[str, Any]) -> None:
    """Checks the fields of an ``/encode`` body.

    Raises:
        BadRequest: a field would change the vectors, and this server does not know it; or its name is another spelling
            of one that it knows, such as ``normalise`` or ``promptName``.
    """
    names = [name for name in values if name not in _ENCODE_FIELDS]
    _refuse([name for name in names if name in MEANINGFUL or _canonical(name) in _CANONICAL], values, _ENCODE_FIELDS)


def read_embeddings_fields(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of an ``/v1/embeddings`` body, without those that only clients of infinity send.

    These name the modality of the input, and ask for 0 dimensions if they want all.

    Raises:
        BadRequest: a field is unknown, or the modality is not text.
    """
    modality = values.get("modality")
    if modality is not None:
        if modality != "text":
            raise BadRequest(f"'modality' is {truncate_repr(modality)}, but this server encodes texts only", "modality")
        values = {name: value for name, value in values.items() if name != "modality"}
        if values.get("dimensions") == 0:
            del values["dimensions"]
    _refuse([name for name in values if name not in _EMBEDDINGS_FIELDS], values, _EMBEDDINGS_FIELDS)
    return values


def read_tei_fields(values: dict[str, Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    """Returns the fields of a body for a route of text-embeddings-inference, which ignores other unknown fields.

    Those in ``parameters`` count too, where some libraries put options.

    Args:
        struct: declares the fields of the route.

    Raises:
        BadRequest: ``parameters`` is not an object, or a field asks for another response than the route gives.
    """
    parameters = values.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            raise BadRequest(f"'parameters' must be an object, received {json_type(parameters)}", "parameters")
        values = {**values, **parameters}
    direction = values.get("truncation_direction")
    if direction is not None and (not isinstance(direction, str) or direction.lower() != "right"):
        raise BadRequest(
            f"'truncation_direction' is {truncate_repr(direction)}, but this server truncates texts at their end: omit "
            'it, or shorten the texts before sending them; "truncate": false refuses texts that are too long',
            "truncation_direction",
        )
    known = struct.__struct_fields__
    _refuse([name for name in values if name in _OPTIONS and name not in known], values, known)
    return values


def check_cohere_fields(values: dict[str, Any]) -> None:
    """Checks the fields of an ``/v1/embed`` or ``/v2/embed`` body.

    Raises:
        BadRequest: a field would change the vectors, and the routes do not know it.
    """
    known = CohereEmbedRequest.__struct_fields__
    _refuse([name for name in values if name in _OF_COHERE and name not in known], values, known)


def check_score_fields(values: dict[str, Any], struct: type[msgspec.Struct]) -> None:
    """Checks the fields of a body for a route of Cohere, Jina or infinity that returns scores.

    Raises:
        BadRequest: a field would change the scores, and the route does not know it.
    """
    known = struct.__struct_fields__
    _refuse([name for name in values if name in _OF_SCORES and name not in known], values, known)


def _refuse(names: list[str], values: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in names:
        if values[name] is not None:
            raise BadRequest(
                f"the field {name[:60]!r} ({truncate_repr(values[name])}) is not supported, so it cannot change the "
                f"response: omit it; known fields: {', '.join(known)}",
                name[:60],
            )
