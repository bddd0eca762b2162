"""Serves rankings with the APIs of text-embeddings-inference, infinity, Cohere and Jina.

The fields of the body tell the APIs apart: ``texts`` is that of text-embeddings-inference, ``documents`` the others.
Scores of a cross-encoder are sigmoids of the logits, whatever the model's own function is, unless ``raw_scores`` is
true. Without a cross-encoder, scores are those of ``output_scores``.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import partial
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
from ..output_scores import CompareCall, compare_options, read_by, require_ranking
from ..request_context import JSON, read_model, read_options
from ..schemas import Usage
from ..scores import Item, ScoreCall, best_first, check_size, sigmoid
from ..validation import json_type, parse_bool, parse_count, printable, require_field, truncate_repr


def prepare_rerank(service: EncodingService, values: dict[str, Any], headers: Headers) -> EncodingCall:
    """Reads a ``/rerank`` request of text-embeddings-inference, or of infinity."""
    if "texts" in values and "documents" in values:
        raise BadRequest("the body has 'texts' and 'documents'; send only one of them", "texts")
    if "documents" in values:
        return _prepare_documents("", service, values, headers)
    require_ranking(service)
    values = read_tei_fields(values, schemas.TeiRerankRequest)
    query = _read_query(values)
    texts = read_texts(require_field(values, "texts", "a list of texts, or 'documents'"), "texts")
    count = parse_count(values, "top_n")
    if count is not None and count > len(texts):
        raise BadRequest(f"'top_n' is {count}, but there are {len(texts)} texts: lower it, or omit it for all", "top_n")
    returns_text, is_logit = parse_bool(values, "return_text"), _has_logits(service, values)

    def rank(index: int, score: float) -> schemas.TeiRank:
        return schemas.TeiRank(index, score, printable(texts[index]) if returns_text else msgspec.UNSET)

    def respond(result: EncodingResult) -> Response:
        return streaming.list_response(*_ranking(is_logit, result, count, rank), JSON)

    return _call(service, values, headers, query, "text", texts, respond)


def _prepare_documents(
    version: str, service: EncodingService, values: dict[str, Any], headers: Headers
) -> EncodingCall:
    """Reads a request of Cohere, Jina or infinity.

    Args:
        version: version of the API in the path; documents of the response are objects with a ``text``. Empty for
            infinity, where they are texts.
    """
    require_ranking(service)
    check_score_fields(values, schemas.RerankRequest)
    query = _read_query(values)
    texts = _read_documents(require_field(values, "documents", "a list of texts"))
    count, model = parse_count(values, "top_n"), read_model(values) or service.model_name
    returns_documents, is_logit = parse_bool(values, "return_documents"), _has_logits(service, values)

    def rank(index: int, score: float) -> schemas.Rank:
        found = schemas.Rank(index, score)
        if returns_documents:
            text = printable(texts[index])
            found.document = schemas.TextObject(text) if version else text
        return found

    def respond(result: EncodingResult) -> Response:
        results = streaming.placeholder()
        body = schemas.RerankResponse(
            id=str(uuid.uuid4()),
            object="rerank",
            created=int(time.time()),
            model=model,
            results=results,  # type: ignore[arg-type]  # the streamed list replaces it
            usage=Usage(result.num_tokens, result.num_tokens),
            meta={"api_version": {"version": version}} if version else {},
        )
        ranking = _ranking(is_logit, result, count, rank)
        return streaming.json_response(msgspec.json.encode(body), bytes(results), *ranking, JSON)

    return _call(service, values, headers, query, "document", texts, respond)


#: Readers of requests to ``/v1/rerank`` and ``/v2/rerank``.
prepare_v1, prepare_v2 = partial(_prepare_documents, "1"), partial(_prepare_documents, "2")


def _call(
    service: EncodingService,
    values: dict[str, Any],
    headers: Headers,
    query: str,
    noun: str,
    texts: list[str],
    respond: Callable[[EncodingResult], Response],
) -> EncodingCall:
    options = read_options(values, headers, service.dimensions)
    if (by := read_by(service, values)) is not None:
        added, query_prompt = compare_options(service, by)
        options |= added
        return CompareCall(texts, respond, options=options, query=query, query_prompt=query_prompt, noun=noun)
    pairs: list[Item] = [(query, text) for text in texts]
    check_size(service, query, texts)
    return ScoreCall(pairs, respond, options=options | {"raw_scores": True}, noun=noun)


def _ranking(
    is_logit: bool, result: EncodingResult, count: int | None, to_rank: Callable[[int, float], msgspec.Struct]
) -> tuple[np.ndarray, streaming.ToValues]:
    """Returns the indices of the texts, the best first, and their conversion to JSON.

    Args:
        is_logit: whether the sigmoid of a score is returned.
        count: maximum number of texts; None for all.
        to_rank: makes the JSON value of a text of its index and score.
    """
    scores = result.vectors[:, 0].astype(np.float32)
    if is_logit:
        scores = sigmoid(scores)

    def to_values(indices: np.ndarray, _: int) -> bytes:
        return msgspec.json.encode([to_rank(index, float(scores[index])) for index in indices.tolist()])[1:-1]

    return best_first(result.vectors[:, 0])[:count], to_values


def _has_logits(service: EncodingService, values: dict[str, Any]) -> bool:
    """Returns whether the response has sigmoids: not with ``raw_scores``, and not without a cross-encoder."""
    return not parse_bool(values, "raw_scores") and service.config.task == "rerank"


def _read_query(values: dict[str, Any]) -> str:
    query = _text_of(require_field(values, "query", "a text"))
    if query is None:
        raise BadRequest(f"'query' must be a text, received {truncate_repr(values['query'])}", "query")
    if not query.strip():
        raise BadRequest("'query' is blank; send a text", "query")
    return query


def _read_documents(value: Any) -> list[str]:
    if value == []:
        raise EmptyInput("'documents' is an empty list; send at least one text", "documents")
    if not isinstance(value, list):
        raise BadRequest(f"'documents' must be a list of texts, received {json_type(value)}", "documents")
    texts = []
    for index, item in enumerate(value):
        text = _text_of(item)
        if text is None:
            raise BadRequest(
                f"item {index} of 'documents' must be a text, or an object with a 'text', received "
                f"{truncate_repr(item)}",
                "documents",
            )
        texts.append(text)
    return texts


def _text_of(value: Any) -> str | None:
    """Returns a text, or that in the field ``text`` of an object; None for another value."""
    if isinstance(value, dict):
        value = value.get("text")
    return value if isinstance(value, str) else None
