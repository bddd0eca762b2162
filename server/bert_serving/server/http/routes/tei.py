"""Serves the API of text-embeddings-inference, for its client libraries.

``tei_tokens`` has ``/tokenize`` and ``/decode``, ``classify`` has ``/predict``, ``rerank`` has ``/rerank``.

https://huggingface.github.io/text-embeddings-inference
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import numpy as np
from flask import Blueprint, Response, request
from werkzeug.datastructures import Headers

from bert_serving.client.protocol import ROW_MODES

from ...version import __version__
from .. import output_values, schemas, streaming
from .. import serialization as vectors
from ..encoding_call import EncodingCall, PartedCall, PartOfCall
from ..encoding_service import EncodingResult, EncodingService
from ..errors import BadRequest, WrongTask
from ..fields import read_tei_fields
from ..inputs import read_input, read_texts
from ..models import choose
from ..request_context import JSON, json_response, read_options
from ..scores import output_routes, require_dense, require_task
from ..validation import json_type, parse_choice, require_field, truncate_repr

_INPUTS = "a text, a list of texts, or token ids"
#: Names of dtypes in the status, and in this API.
_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def blueprint(service: EncodingService) -> Blueprint:
    routes = Blueprint("tei", __name__)

    @routes.get("/info")
    def info() -> Response:
        return json_response(server_info(choose(service, request.args, request.path)))

    @routes.get("/health")
    def health() -> Response:
        """Clients of text-embeddings-inference read no body, and those of infinity read the time."""
        reason = service.not_ready_reason()
        if not reason:
            return Response(msgspec.json.encode({"unix": time.time()}), mimetype=JSON)
        response = json_response(schemas.TeiError(reason, "Unhealthy"), 503)
        response.headers["Retry-After"] = "2"
        return response

    return routes


def prepare(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a request as the route that the body is for."""
    read = prepare_similarity if isinstance(values.get("inputs"), dict) else prepare_embed
    return read(service, values, headers)


def prepare_embed(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/embed`` request."""
    _require_text_vectors(service)
    values = read_tei_fields(values, schemas.EmbedRequest)
    encoding = parse_choice(values, "encoding_format", ("float", "base64"))
    texts, options = _read(service, values, headers)
    _require_one_vector(options)

    def respond(result: EncodingResult) -> Response:
        array = result.vectors
        if encoding == "base64":
            array = array.astype(np.float32, copy=False)
        if streaming.is_large(array):
            return streaming.list_response(array, streaming.base64 if encoding == "base64" else streaming.numbers, JSON)
        body = b'["%b"]' % b'","'.join(vectors.to_base64(array)) if encoding == "base64" else vectors.to_json(array)
        return Response(body, mimetype=JSON)

    return EncodingCall(texts, respond, not isinstance(texts[0], str), options={"normalize": True} | options)


def prepare_embed_all(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/embed_all`` request, for one vector per token, without padding, or for the output ``multi``."""
    require_task(service, "embed")
    has_multi = "multi" in service.outputs
    if not service.token_level and not has_multi:
        raise WrongTask(
            f"this server has {', '.join(service.outputs)} vectors, and /embed_all returns one per token: use "
            f"{output_routes(service)}, or a server with -pooling_strategy NONE or of a ColBERT model"
        )
    values = read_tei_fields(values, schemas.EmbedAllRequest)
    texts, options = _read(service, values, headers)
    is_tokenized = not isinstance(texts[0], str)
    if has_multi:
        return EncodingCall(texts, _vectors_of_tokens, is_tokenized, options=options | {"outputs": ["multi"]})

    def respond(result: EncodingResult) -> Response:
        lengths = service.num_tokens(texts, options)

        def without_padding(rows: np.ndarray, start: int) -> bytes:
            pairs = zip(rows, lengths[start : start + len(rows)], strict=True)
            return b",".join(vectors.to_json(row[:length]) for row, length in pairs)

        return streaming.list_response(result.vectors, without_padding, JSON)

    return EncodingCall(texts, respond, is_tokenized, options=options)


def _vectors_of_tokens(result: EncodingResult) -> Response:
    return output_values.list_response(output_values.matrices(result.multi or ()), result.nbytes)


def prepare_embed_sparse(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads an ``/embed_sparse`` request, for the weights of tokens of the vocabulary."""
    require_task(service, "embed")
    if "sparse" not in service.outputs:
        raise WrongTask(
            "this server has no sparse vectors, because the model folder describes none: use "
            f"{output_routes(service)}, or a server of a SPLADE model"
        )
    values = read_tei_fields(values, schemas.EmbedSparseRequest)
    texts, options = _read(service, values, headers)

    def respond(result: EncodingResult) -> Response:
        return output_values.list_response(output_values.weights(result.sparse or ()), result.nbytes)

    options["outputs"] = ["sparse"]
    return EncodingCall(texts, respond, not isinstance(texts[0], str), options=options)


def prepare_similarity(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``/similarity`` request: the cosine similarity of a text to each of several texts."""
    _require_text_vectors(service)
    inputs = require_field(values, "inputs", "an object with 'source_sentence' and 'sentences'")
    if not isinstance(inputs, dict):
        raise BadRequest(
            f"'inputs' must be an object with 'source_sentence' and 'sentences', received {json_type(inputs)}", "inputs"
        )
    source = require_field(inputs, "source_sentence", "a text")
    if not isinstance(source, str):
        raise BadRequest(f"'source_sentence' must be a text, received {truncate_repr(source)}", "source_sentence")
    sentences = read_texts(require_field(inputs, "sentences", "a list of texts"), "sentences")
    values = read_tei_fields(values, schemas.SimilarityParameters)
    options = {**read_options(values, headers, service.dimensions), "normalize": True, "pairs": False}
    _require_one_vector(options)
    # In this order, errors name indices of sentences.
    return _SimilarityCall([*sentences, source], _similarities, options=options)


class _SimilarityCall(PartedCall):
    """The sentences of a ``/similarity`` request, and the text to compare them with."""

    def parts(self) -> list[PartOfCall]:
        return [PartOfCall(self.texts, self.options, self._name)]

    def _name(self, number: int) -> str:
        return "source_sentence" if number == len(self.texts) - 1 else f"sentence {number}"


def _similarities(result: EncodingResult) -> Response:
    array = result.vectors.astype(np.float32, copy=False)
    return Response(vectors.to_json(array[:-1] @ array[-1]), mimetype=JSON)


def server_info(service: EncodingService) -> schemas.Info:
    """Describes the model and the limits of the server.

    Raises:
        BertServingError: the service does not reply.
    """
    config, status = service.config, service.health.status()
    dtype = str(status.get("dtype_in_use") or config.dtype)
    workers = [each for each in status.get("workers", ()) if each.get("model") in (None, service.model_name)]
    return schemas.Info(
        model_id=service.model_name,
        model_dtype=_DTYPES.get(dtype, dtype),
        model_type=_model_type(service),
        max_input_length=service.max_length,
        max_client_batch_size=config.max_request_size,
        max_batch_requests=config.max_batch_size,
        max_batch_tokens=max((worker["max_batch_tokens"] for worker in workers), default=config.max_batch_tokens),
        max_concurrent_requests=config.http_max_connect,
        auto_truncate=True,
        tokenization_workers=max(1, len(status.get("tokenizers", ()))),
        version=__version__,
        vector_space=service.vector_space,
    )


def _read(service: EncodingService, values: dict[str, Any], headers: Headers) -> tuple[list[Any], dict[str, Any]]:
    """Returns the texts, or rows of tokens, and the options of a request."""
    texts, is_ids = read_input(require_field(values, "inputs", _INPUTS), "inputs")
    options = read_options(values, headers, service.dimensions)
    if is_ids:
        return service.token_ids.tokens(texts), options
    return texts, {**options, "pairs": False}


def _require_one_vector(options: dict[str, Any]) -> None:
    if options.get("long") in ROW_MODES:
        raise BadRequest(
            f"'long' is {options['long']!r}, but this route returns one vector per text, without offsets: use POST "
            "/encode or /v1/embeddings, or set 'long' to mean",
            "long",
        )


def _model_type(service: EncodingService) -> dict[str, Any]:
    task = service.config.task
    if task == "embed":
        name = service.config.pooling_strategy.name
        return {"embedding": {"pooling": {"REDUCE_MEAN": "mean", "CLS_TOKEN": "cls"}.get(name, name.lower())}}
    labels = {str(index): label for index, label in enumerate(service.labels)}
    kinds = {"classify": "classifier", "rerank": "reranker"}
    return {kinds[task]: {"id2label": labels, "label2id": {label: int(index) for index, label in labels.items()}}}


def _require_text_vectors(service: EncodingService) -> None:
    require_task(service, "embed")
    require_dense(service)
    if service.token_level:
        raise WrongTask("this server returns one vector per token (-pooling_strategy NONE): use /embed_all")
