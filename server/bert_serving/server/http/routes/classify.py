"""Serves the labels of a classifier: ``/predict`` of text-embeddings-inference and ``/classify`` of infinity."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from flask import Response
from werkzeug.datastructures import Headers

from .. import score_schemas as schemas
from .. import streaming
from ..encoding_call import EncodingCall
from ..encoding_service import EncodingResult, EncodingService
from ..errors import BadRequest, EmptyInput
from ..fields import check_score_fields, read_tei_fields
from ..inputs import read_texts
from ..request_context import JSON, read_model, read_options
from ..schemas import Usage
from ..scores import Item, ScoreCall, best_first, require_task, sigmoid, softmax
from ..validation import parse_bool, parse_count, require_field, truncate_repr

_INPUTS = "a text, a pair of texts, or a list of lists, each with a text or a pair"
#: Functions that turn logits into scores, by their names in Hugging Face's API. None is that of the model.
_FUNCTIONS: dict[str | None, Callable[[np.ndarray], np.ndarray] | None] = {
    None: None,
    "sigmoid": sigmoid,
    "softmax": softmax,
    "none": lambda logits: logits,
}


def prepare_predict(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``/predict`` request."""
    require_task(service, "classify")
    values = read_tei_fields(values, schemas.PredictRequest)
    items, is_single = read_items(require_field(values, "inputs", _INPUTS))
    count, function = parse_count(values, "top_k"), _read_function(values)
    options = read_options(values, headers, service.dimensions)
    if function is not None or parse_bool(values, "raw_scores"):
        options["raw_scores"] = True

    def respond(result: EncodingResult) -> Response:
        scores = result.vectors.astype(np.float32, copy=False)
        scores, to_values = scores if function is None else function(scores), _predictions(service, count)
        if is_single:
            return Response(to_values(scores, 0), mimetype=JSON)
        return streaming.list_response(scores, to_values, JSON)

    return ScoreCall(items, respond, options=options)


def prepare_classify(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``/classify`` request."""
    require_task(service, "classify")
    check_score_fields(values, schemas.ClassifyRequest)
    texts = read_texts(require_field(values, "input", "a text or a list of texts"), "input")
    model = read_model(values) or service.model_name
    options = read_options(values, headers, service.dimensions)
    if parse_bool(values, "raw_scores"):
        options["raw_scores"] = True

    def respond(result: EncodingResult) -> Response:
        data = streaming.placeholder()
        body = schemas.ClassifyResponse(
            id=str(uuid.uuid4()),
            object="classify",
            created=int(time.time()),
            model=model,
            data=data,  # type: ignore[arg-type]  # the streamed list replaces it
            usage=Usage(result.num_tokens, result.num_tokens),
        )
        scores = result.vectors.astype(np.float32, copy=False)
        return streaming.json_response(msgspec.json.encode(body), bytes(data), scores, _predictions(service), JSON)

    return ScoreCall(texts, respond, options=options)


def read_items(value: Any) -> tuple[list[Item], bool]:
    """Returns the texts and pairs of texts in the field ``inputs``, and whether it has a single one without a list.

    Raises:
        BadRequest: the field is not a text, a list of one or two texts, or a list of such lists.
    """
    if value == []:
        raise EmptyInput("'inputs' is an empty list; send at least one text", "inputs")
    item = _item(value)
    if item is not None:
        return [item], True
    if not isinstance(value, list):
        raise BadRequest(f"'inputs' must be {_INPUTS}, received {truncate_repr(value)}", "inputs")
    if all(isinstance(text, str) for text in value):
        raise BadRequest(
            f"'inputs' is a list of {len(value)} texts, but such a list is a pair of two texts: put each text in a "
            'list of its own, as in [["a"], ["b"]]',
            "inputs",
        )
    items = [None if isinstance(row, str) else _item(row) for row in value]
    for index, found in enumerate(items):
        if found is None:
            raise BadRequest(
                f"item {index} of 'inputs' must be a list with a text or a pair of texts, received "
                f"{truncate_repr(value[index])}",
                "inputs",
            )
    return items, False  # type: ignore[return-value]


def _item(value: Any) -> Item | None:
    """Returns the text or pair that is a text, or a list of one or two texts; None for another value."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not 1 <= len(value) <= 2 or not all(isinstance(text, str) for text in value):
        return None
    return value[0] if len(value) == 1 else (value[0], value[1])


def _read_function(values: dict[str, Any]) -> Callable[[np.ndarray], np.ndarray] | None:
    name = values.get("function_to_apply")
    if name is not None and (not isinstance(name, str) or name not in _FUNCTIONS):
        raise BadRequest(
            f"'function_to_apply' must be sigmoid, softmax or none, received {truncate_repr(name)}", "function_to_apply"
        )
    if name is not None and parse_bool(values, "raw_scores"):
        raise BadRequest("'function_to_apply' and 'raw_scores' exclude each other: send only one of them", "raw_scores")
    return _FUNCTIONS[name]


def _predictions(service: EncodingService, count: int | None = None) -> streaming.ToValues:
    """Returns the conversion of rows of scores to lists of labels with their scores, the best first."""
    labels = service.labels

    def to_values(rows: np.ndarray, _: int) -> bytes:
        lists = [
            [schemas.Prediction(labels[index], float(row[index])) for index in best_first(row)[:count].tolist()]
            for row in rows
        ]
        return msgspec.json.encode(lists)[1:-1]

    return to_values
