"""Serves the embeddings API of OpenAI, for its client libraries and the software built on them.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import msgspec
import numpy as np
from flask import Blueprint, Response
from werkzeug.datastructures import Headers

from .. import serialization as vectors
from .. import streaming
from ..encoding_call import EncodingCall
from ..encoding_service import EncodingResult, EncodingService
from ..errors import BadRequest, NotFound
from ..fields import read_embeddings_fields
from ..inputs import read_input
from ..request_context import JSON, json_response, read_model, read_options
from ..schemas import Embedding, EmbeddingsResponse, Model, ModelList, Usage
from ..scores import require_text_vectors
from ..validation import parse_choice, require_field, truncate_repr

#: Prefix of OpenAI's model names. Token ids sent for such a model come from OpenAI's vocabulary.
_OPENAI_PREFIX = "text-embedding-"


def blueprint(service: EncodingService) -> Blueprint:
    routes = Blueprint("openai", __name__, url_prefix="/v1")
    started = int(time.time())
    served = [_describe(each, started) for each in service.models]

    @routes.get("/models")
    def models() -> Response:
        return json_response(ModelList(served))

    @routes.get("/models/<path:name>")
    def model_by_name(name: str) -> Response:
        for model in served:
            if model.id == name:
                return json_response(model)
        names = ", ".join(repr(model.id) for model in served)
        raise NotFound(f"the model {name!r} does not exist; this server has {names}", "model")

    return routes


def _describe(service: EncodingService, created: int) -> Model:
    return Model(
        id=service.model_name,
        created=created,
        vector_space=service.vector_space,
        task=service.config.task,
        outputs=list(service.outputs),
        dimensions=service.dimensions if "dense" in service.outputs else None,
        labels=list(service.labels),
        max_input_length=service.max_length,
    )


def prepare(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/v1/embeddings`` request.

    Raises:
        BadRequest: a field has an invalid value, or the server returns a vector per token.
        WrongTask: the server returns scores.
    """
    require_text_vectors(service)
    values = read_embeddings_fields(values)
    encoding = parse_choice(values, "encoding_format", ("float", "base64"))
    options = read_options(values, headers, service.dimensions)
    model = read_model(values) or service.model_name
    texts, is_ids = read_input(require_field(values, "input", "a text, a list of texts, or token ids"))
    if is_ids and model.startswith(_OPENAI_PREFIX) and model != service.model_name:
        raise BadRequest(
            f"'input' has token ids for the 'model' {truncate_repr(model)}, but ids of OpenAI's tokenizer are "
            f"invalid in the vocabulary of this server's model, {service.model_name!r}. Send texts: LangChain's "
            "OpenAIEmbeddings does with check_embedding_ctx_length=False. For ids of this model's vocabulary, send "
            "this model's name",
            "input",
        )
    respond = partial(_respond, model, encoding == "base64", "embedding_type" in options)
    if is_ids:
        return EncodingCall(service.token_ids.tokens(texts), respond, is_tokenized=True, options=options)
    return EncodingCall(texts, respond, options={**options, "pairs": False})


def _respond(model: str, is_base64: bool, is_typed: bool, result: EncodingResult) -> Response:
    array, parts = result.vectors, result.parts
    usage = Usage(result.num_tokens, result.num_tokens)
    # Client libraries decode base64 as float32, independent of the dtype of the server.
    if is_base64 and not is_typed:
        array = array.astype(np.float32, copy=False)
    if streaming.is_large(array):
        data = streaming.placeholder()
        encoded = msgspec.json.encode(EmbeddingsResponse("list", data, model, usage))  # type: ignore[arg-type]
        to_values = streaming.embeddings(streaming.base64 if is_base64 else streaming.numbers, parts)
        return streaming.json_response(encoded, bytes(data), array, to_values, JSON)
    rows = [b'"%b"' % row for row in vectors.to_base64(array)] if is_base64 else map(vectors.to_json, array)
    embeddings = [
        Embedding("embedding", index, msgspec.Raw(row), msgspec.UNSET if parts is None else parts[index])
        for index, row in enumerate(rows)
    ]
    return json_response(EmbeddingsResponse("list", embeddings, model, usage))
