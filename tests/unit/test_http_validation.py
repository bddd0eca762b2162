"""Tests the validation of bodies, error responses and token ids."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client import errors as client_errors
from bert_serving.server.http import validation
from bert_serving.server.http.error_format import format_error
from bert_serving.server.http.errors import (
    BadRequest,
    BodyTooLarge,
    EmptyInput,
    InvalidTokenId,
    Overloaded,
    Stopping,
    WrongTask,
    to_error_response,
)
from bert_serving.server.http.output_scores import require_ranking
from bert_serving.server.http.scores import require_dense, require_task
from bert_serving.server.http.token_ids import TokenIds
from bert_serving.server.http.validation import parse_bool, parse_object
from bert_serving.server.tokenization.frame import Frame

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON_VALUES))
def test_object_is_parsed_like_the_json_module_does(values: dict[str, Any]) -> None:
    assert parse_object(json.dumps(values).encode()) == values


@pytest.mark.parametrize("number", ["1e999", "-1e309", "9" * 400 + ".0", "NaN", "Infinity", "-Infinity"])
def test_number_beyond_float64_is_rejected(number: str) -> None:
    with pytest.raises(BadRequest, match="not JSON"):
        parse_object(b'{"id": {"a": [%b]}}' % number.encode())


@given(st.binary())
def test_random_bytes_are_a_bad_request_or_an_object(body: bytes) -> None:
    try:
        value = parse_object(body)
    except BadRequest as error:
        assert str(error)
    else:
        assert isinstance(value, dict)


@given(JSON_VALUES)
def test_boolean_is_parsed_or_rejected(value: Any) -> None:
    try:
        found = parse_bool({"x": value}, "x")
    except BadRequest as error:
        assert error.param == "x"
        assert len(str(error)) < 200
    else:
        assert found is (
            value in (True, 1) or (isinstance(value, str) and value.strip().lower() in ("true", "1", "yes"))
        )


IDS = {
    token: index
    for index, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world", "##s", "[unused]"])
}
FRAME = Frame(IDS["[CLS]"], (IDS["[SEP]"],), IDS["[SEP]"], padding=IDS["[PAD]"])


@pytest.mark.parametrize(
    ("ids", "tokens"),
    [
        ([4, 5], ["hello", "world"]),
        ([2, 4, 6, 3], ["hello", "##s"]),
        ([2, 4, 3, 0, 0], ["hello"]),
        ([4, 0, 5], ["hello", "[PAD]", "world"]),
        ([2, 4, 3, 5, 3, 0], ["hello", "|||", "world"]),
        ([4, 3, 5, 3, 6], ["hello", "|||", "world", "[SEP]", "##s"]),
        ([1], ["[UNK]"]),
    ],
)
def test_ids_become_tokens_without_the_special_tokens_that_the_service_adds(ids: list[int], tokens: list[str]) -> None:
    assert TokenIds(IDS, FRAME).tokens([ids]) == [tokens]


def test_special_tokens_are_kept_if_the_service_adds_none() -> None:
    assert TokenIds(IDS, FRAME, keep_special=True).tokens([[2, 4, 3, 5, 3, 0]]) == [
        ["[CLS]", "hello", "[SEP]", "world", "[SEP]"]
    ]


@pytest.mark.parametrize(
    ("ids", "words"), [([8], "token id 8"), ([-1], "token id -1"), ([], "no token"), ([2, 3, 0], "no token")]
)
def test_invalid_ids_are_reported_with_their_row(ids: list[int], words: str) -> None:
    with pytest.raises(BadRequest, match=rf"item 1 .*{words}"):
        TokenIds(IDS, FRAME).tokens([[4], ids])


def all_subclasses(error_type: type) -> set[type]:
    return {error_type, *(found for child in error_type.__subclasses__() for found in all_subclasses(child))}


def test_every_error_of_the_client_has_a_status() -> None:
    for error_type in all_subclasses(client_errors.BertServingError):
        error: Exception = (
            error_type("why", "why", 1) if issubclass(error_type, client_errors.ServerError) else error_type("why")
        )
        response = to_error_response(error)
        if issubclass(error_type, client_errors.InvalidInputError):
            assert response.status == 400
        assert (response.retry_after is not None) == (response.status in (429, 503))
        assert response.message


def test_unexpected_error_has_no_details() -> None:
    response = to_error_response(RuntimeError("/secret/path"))
    assert response.status == 500
    assert "/secret/path" not in response.message


def test_error_formats() -> None:
    response = to_error_response(Overloaded("later"))
    status, body = format_error(response, "/encode")
    assert (status, json.loads(body)) == (503, {"description": "later", "status": 503, "type": "Overloaded"})
    status, body = format_error(response, "/v1/embeddings")
    error = {"message": "later", "type": "server_error", "param": None, "code": None}
    assert (status, json.loads(body)) == (503, {"error": error})
    status, body = format_error(response, "/embed")
    assert (status, json.loads(body)) == (429, {"error": "later", "error_type": "Overloaded"})


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (BadRequest("x"), 422, "Validation"),
        (EmptyInput("x"), 400, "Empty"),
        (InvalidTokenId("x"), 422, "Tokenizer"),
        (BodyTooLarge("x"), 413, "Validation"),
        (WrongTask("x"), 424, "Backend"),
        (Overloaded("x"), 429, "Overloaded"),
        (Stopping("x"), 503, "Unhealthy"),
        (client_errors.OverloadedError("why", "x", 1), 429, "Overloaded"),
        (client_errors.DrainingError("why", "x", 1), 503, "Unhealthy"),
        (client_errors.ServerUnreachableError("x"), 503, "Unhealthy"),
        (client_errors.EncodingFailedError("why", "x", 1), 424, "Backend"),
        (client_errors.TooLargeError("why", "x", 1), 413, "Validation"),
        (client_errors.InvalidInputError("x"), 422, "Validation"),
        (client_errors.RequestTimeoutError("x"), 504, "Backend"),
        (RuntimeError("x"), 500, "Backend"),
    ],
)
def test_statuses_of_text_embeddings_inference(error: Exception, status: int, error_type: str) -> None:
    for path in ("/", "/embed"):
        found, body = format_error(to_error_response(error), path)
        assert (found, json.loads(body)["error_type"]) == (status, error_type)


def test_values_are_counted_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MAX_VALUES", 1000)
    body = b'{"texts": [%b]}'
    for item in (b"[]", b'{"[": "\\"["}', b'[["]"]]', b"1", b'"a"'):
        with pytest.raises(BodyTooLarge, match="values; the limit is 1000"):
            parse_object(body % b",".join([item] * 600_000))
    texts = ['[{,"\\' * 1000] * 200
    assert parse_object(body % json.dumps(texts)[1:-1].encode()) == {"texts": texts}


@pytest.mark.parametrize(
    ("found", "needed", "routes"),
    [
        ("embed", "rerank", "/embed or /v1/embeddings"),
        ("classify", "embed", "/predict or /classify"),
        ("rerank", "classify", "/rerank"),
    ],
)
def test_a_route_of_another_task_names_the_routes_of_the_server(found: str, needed: str, routes: str) -> None:
    service: Any = SimpleNamespace(config=SimpleNamespace(task=found))
    with pytest.raises(WrongTask, match=f"has -task {found}, .* needs a server with -task {needed}: use {routes}, or"):
        require_task(service, needed)


@pytest.mark.parametrize(
    ("compared", "task", "deterministic", "words"),
    [
        ((), "embed", False, "has -task embed"),
        ((), "classify", False, "has -task classify"),
        (("sparse", "multi"), "embed", True, "has -deterministic, which does not cover sparse and multi vectors"),
    ],
)
def test_a_server_that_cannot_rank_says_why(
    compared: tuple[str, ...], task: str, deterministic: bool, words: str
) -> None:
    config = SimpleNamespace(task=task, deterministic=deterministic)
    service: Any = SimpleNamespace(config=config, compared=compared)
    with pytest.raises(WrongTask, match=words):
        require_ranking(service)


def test_a_route_of_dense_vectors_names_the_routes_of_other_vectors() -> None:
    service: Any = SimpleNamespace(outputs=("sparse", "multi"))
    with pytest.raises(
        WrongTask, match=r"it has sparse, multi: use /embed_sparse or /embed_all, or 'outputs' of /encode$"
    ):
        require_dense(service)
