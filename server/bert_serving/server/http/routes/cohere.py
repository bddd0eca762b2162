"""Serves the embedding routes of Cohere, ``/v1/embed`` and ``/v2/embed``.

https://docs.cohere.com/reference/embed
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
import numpy as np
from flask import Response
from werkzeug.datastructures import Headers

from bert_serving.client.protocol import EMBEDDING_TYPES

from ...model.vector_options import VectorOptions
from .. import cohere_schemas as schemas
from .. import streaming
from ..encoding_call import EncodingCall
from ..encoding_service import EncodingResult, EncodingService
from ..errors import BadRequest, EmptyInput
from ..fields import check_cohere_fields
from ..inputs import read_texts
from ..request_context import JSON, read_model, read_options
from ..scores import require_text_vectors
from ..validation import json_type, parse_choice, parse_count, printable, require_field, truncate_repr

_BASE64 = "base64"
#: Names of prompts in model folders for each ``input_type``; the first that the folder has counts. Folders of
#: sentence-transformers name them so.
_PROMPTS = {
    "search_query": ("search_query", "query"),
    "search_document": ("search_document", "document", "passage", "corpus"),
    "classification": ("classification",),
    "clustering": ("clustering",),
}
_TRUNCATE = ("END", "NONE", "START")


def _prepare(version: str, service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a request.

    Args:
        version: version of the API in the path.

    Raises:
        BadRequest: a field has an invalid value, or the server returns a vector per token.
        WrongTask: the server returns scores.
    """
    require_text_vectors(service)
    check_cohere_fields(values)
    read_model(values)
    texts = _read_texts(version, values)
    types = _read_types(version, values)
    options = {"pairs": False, **read_options({}, headers, service.dimensions), **_read_options(service, values)}
    computed = list(dict.fromkeys("float" if name == _BASE64 else name for name in types or ("float",)))
    if len(computed) == 1:
        options["embedding_type"] = computed[0]
    else:  # the service returns floats, and the response has them as each type
        for name in computed:
            service.require_ranges(_vector_options(options, name))
        options["embedding_type"] = "float"
    respond = partial(_respond, version, service, texts, types, options)
    return EncodingCall(texts, respond, options=options)


#: Readers of requests to ``/v1/embed`` and ``/v2/embed``.
prepare_v1, prepare_v2 = partial(_prepare, "1"), partial(_prepare, "2")


def _read_texts(version: str, values: dict[str, Any]) -> list[str]:
    for name in ("images", "inputs") if version == "1" else ("images",):
        if values.get(name) is not None:
            raise BadRequest(f"'{name}' is not supported on this route: send 'texts'", name)
    inputs = values.get("inputs")
    if inputs is None:
        texts = require_field(values, "texts", "a list of texts")
        if isinstance(texts, str):
            raise BadRequest(f"'texts' must be a list of texts, received a string ({truncate_repr(texts)})", "texts")
        return read_texts(texts, "texts")
    if values.get("texts") is not None:
        raise BadRequest("'texts' and 'inputs' exclude each other: send only one of them", "inputs")
    if not isinstance(inputs, list):
        raise BadRequest(f"'inputs' must be a list of objects, received {json_type(inputs)}", "inputs")
    if not inputs:
        raise EmptyInput("'inputs' is an empty list; send at least one input", "inputs")
    texts = []
    for index, item in enumerate(inputs):
        content = item.get("content") if isinstance(item, dict) else None
        part = content[0] if isinstance(content, list) and len(content) == 1 else None
        text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
        if not isinstance(text, str):
            raise BadRequest(
                f"item {index} of 'inputs' must have one text, as {{'content': [{{'type': 'text', 'text': ...}}]}}, "
                f"received {truncate_repr(item)}",
                "inputs",
            )
        texts.append(text)
    return texts


def _read_types(version: str, values: dict[str, Any]) -> list[str]:
    """Returns the types of the response, each once; none for the response of floats alone."""
    types = values.get("embedding_types")
    if types is None:
        return [] if version == "1" else ["float"]
    if not isinstance(types, list):
        raise BadRequest(f"'embedding_types' must be a list, received {json_type(types)}", "embedding_types")
    if not types:
        raise BadRequest("'embedding_types' is an empty list; name a type, or omit it", "embedding_types")
    known = (*EMBEDDING_TYPES, _BASE64)
    for name in types:
        if name not in known:
            raise BadRequest(
                f"'embedding_types' has {truncate_repr(name)}; the types are {', '.join(known)}", "embedding_types"
            )
    return list(dict.fromkeys(types))


def _read_options(service: EncodingService, values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of Cohere that change vectors, as options of the service."""
    options: dict[str, Any] = {}
    dimensions = parse_count(values, "output_dimension")
    if dimensions is not None and dimensions > service.dimensions:
        raise BadRequest(
            f"'output_dimension' is {dimensions}, but the vectors of this server have {service.dimensions} dimensions",
            "output_dimension",
        )
    if dimensions is not None and dimensions < service.dimensions:
        options["dimensions"] = dimensions
    truncate = parse_choice(values, "truncate", _TRUNCATE)
    if truncate == "START":
        raise BadRequest(
            "'truncate' is START, but this server truncates texts at their end: send END, or NONE to refuse texts that "
            "are too long",
            "truncate",
        )
    if truncate == "NONE":
        options["truncate"] = False
    if values.get("input_type") is not None:
        input_type = parse_choice(values, "input_type", tuple(_PROMPTS))
        pipeline = service.config.pipeline
        prompts = {} if pipeline is None else pipeline.prompts
        if (name := next((each for each in _PROMPTS[input_type] if each in prompts), None)) is not None:
            options["prompt_name"] = name
    return options


def _vector_options(options: dict[str, Any], embedding_type: str) -> VectorOptions:
    return VectorOptions(dimensions=options.get("dimensions"), embedding_type=embedding_type)


def _respond(
    version: str,
    service: EncodingService,
    texts: list[str],
    types: list[str],
    options: dict[str, Any],
    result: EncodingResult,
) -> Response:
    lists: dict[bytes, streaming.ToValues] = {}
    found = result.vectors

    def add(name: str) -> msgspec.Raw:
        to_values: streaming.ToValues = streaming.base64 if name == _BASE64 else streaming.numbers
        embedding_type = "float" if name == _BASE64 else name
        if embedding_type != options["embedding_type"]:
            code = _vector_options(options, embedding_type).code

            def to_type(rows: np.ndarray, start: int) -> bytes:
                return streaming.numbers(service.quantizer.apply(code, rows), start)

            to_values = to_type
        place = streaming.placeholder()
        lists[bytes(place)] = to_values
        return place

    meta = _meta(version, service, result)
    shown = [printable(text) for text in texts]
    body: msgspec.Struct
    if types:
        embeddings = schemas.EmbeddingsByType(**{"float_" if name == "float" else name: add(name) for name in types})
        body = schemas.CohereEmbedResponse(str(uuid.uuid4()), embeddings, shown, meta)
    else:
        body = schemas.CohereEmbedFloatsResponse(str(uuid.uuid4()), add("float"), shown, meta)
    return streaming.json_lists_response(msgspec.json.encode(body), lists, found, JSON)


def _meta(version: str, service: EncodingService, result: EncodingResult) -> dict[str, Any]:
    meta: dict[str, Any] = {
        "api_version": {"version": version},
        "billed_units": {"input_tokens": result.num_tokens},
    }
    if result.num_truncated:
        meta["warnings"] = [
            f"{result.num_truncated} texts are longer than {service.max_length} tokens and were truncated: "
            f"{_first(result.truncated)}"
        ]
    return meta


def _first(rows: Iterable[int]) -> str:
    rows = list(rows)
    return ", ".join(map(str, rows[:20])) + (", ..." if len(rows) > 20 else "")
