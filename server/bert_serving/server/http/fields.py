"""Refuses fields of a body that ask for other vectors than this server computes.

A field with the value null counts as absent. Fields that identify a request or its user pass.
"""

from __future__ import annotations

from typing import Any

from .errors import BadRequest
from .schemas import EmbeddingsRequest, EncodeRequest
from .validation import truncate_repr

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
_OPTIONS = MEANINGFUL | {"dimensions", "encoding_format", "normalize", "prompt", "prompt_name"}
_ENCODE_FIELDS = EncodeRequest.__struct_fields__
_EMBEDDINGS_FIELDS = (*EmbeddingsRequest.__struct_fields__, "id")


def check_encode_fields(values: dict[str, Any]) -> None:
    """Checks the fields of an ``/encode`` body.

    Raises:
        BadRequest: a field would change the vectors, and this server does not know it.
    """
    _refuse([name for name in values if name in MEANINGFUL], values, _ENCODE_FIELDS)


def check_embeddings_fields(values: dict[str, Any]) -> None:
    """Checks the fields of an ``/v1/embeddings`` body.

    Raises:
        BadRequest: a field is unknown.
    """
    _refuse([name for name in values if name not in _EMBEDDINGS_FIELDS], values, _EMBEDDINGS_FIELDS)


def check_tei_fields(values: dict[str, Any], known: tuple[str, ...]) -> None:
    """Checks the fields of a body for a route of text-embeddings-inference, which ignores other unknown fields.

    Raises:
        BadRequest: a field would change the response, and the route does not know it.
    """
    _refuse([name for name in values if name in _OPTIONS and name not in known], values, known)


def _refuse(names: list[str], values: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in names:
        if values[name] is not None:
            raise BadRequest(
                f"the field {name[:60]!r} ({truncate_repr(values[name])}) is not supported, so it cannot change the "
                f"response: omit it; known fields: {', '.join(known)}",
                name[:60],
            )
