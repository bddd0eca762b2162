"""Tests ``/v1`` with the unmodified ``openai`` package and with raw requests."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from http_calls import HttpServer, float32, serving_http
from servers import TINY

TEXTS = ["hello world", "the quick brown fox", "a ||| b"]
#: The same for clients of 1.10: a text of several lines is no pair.
PLAIN = [text.replace("||| ", "|||\n") for text in TEXTS]
TOKEN = "a token, not guessed; ünlikely"


@pytest.fixture(scope="module")
def http_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    token_file = tmp_path_factory.mktemp("token") / "token"
    token_file.write_text("sesame\n")
    with serving_http("-http_token_file", token_file) as server:
        yield server


@pytest.fixture
def client(http_server: HttpServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{http_server.url}/v1", api_key="sesame", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def expected(http_server: HttpServer) -> np.ndarray:
    with http_server.zmq_client() as client:
        return np.asarray(client.encode(PLAIN))


def vectors_of(answer: Any) -> np.ndarray:
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return np.array([item.embedding for item in answer.data]).astype(np.float32)


def test_vectors_are_those_of_the_zeromq_client(client: openai.OpenAI, expected: np.ndarray) -> None:
    answer = client.embeddings.create(model="whatever", input=TEXTS)  # the package asks for base64 by itself
    np.testing.assert_array_equal(vectors_of(answer), expected)
    assert answer.model == "whatever"
    assert answer.object == "list"
    answer = client.embeddings.create(model="x", input=TEXTS, encoding_format="float", user="me")
    np.testing.assert_array_equal(vectors_of(answer), expected)


def test_one_text(client: openai.OpenAI, expected: np.ndarray) -> None:
    answer = client.embeddings.create(model="x", input=TEXTS[1])
    assert len(answer.data) == 1
    np.testing.assert_allclose(vectors_of(answer)[0], expected[1], atol=1e-5)


def test_fields_of_infinity(http_server: HttpServer, expected: np.ndarray) -> None:
    body = {"input": TEXTS, "model": "x", "modality": "text", "dimensions": 0}
    reply = http_server.call("/embeddings", body, bearer())
    np.testing.assert_array_equal(float32([item["embedding"] for item in reply.json["data"]]), expected)
    reply = http_server.call("/embeddings", {**body, "modality": "image"}, bearer())
    assert (reply.status, reply.json["error"]["param"]) == (400, "modality")


def test_bars_are_plain_text(client: openai.OpenAI, http_server: HttpServer) -> None:
    with http_server.zmq_client() as zmq_client:
        pair = np.asarray(zmq_client.encode(TEXTS[2:]))
    answer = client.embeddings.create(model="x", input=TEXTS[2:])
    assert answer.usage.total_tokens == 7
    assert np.abs(vectors_of(answer) - pair).max() > 1e-3
    again = client.embeddings.create(model="x", input=[*TEXTS, *TEXTS * 700])  # more than a chunk of the ventilator
    np.testing.assert_allclose(vectors_of(again)[2::3], np.tile(vectors_of(answer), (701, 1)), atol=1e-5)


def test_usage_counts_the_tokens_of_the_model(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="x", input=["hello world", "hello"])
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 4 + 3


def test_base64_holds_little_endian_float32(http_server: HttpServer, expected: np.ndarray) -> None:
    reply = http_server.call("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}, bearer())
    rows = [np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in reply.json["data"]]
    np.testing.assert_array_equal(rows, expected)


def test_dimensions_truncate_and_normalize_scales_to_unit_length(client: openai.OpenAI, expected: np.ndarray) -> None:
    """The model of this server does not normalize."""
    for options in ({"encoding_format": "float"}, {}):  # without it, the package asks for base64 and decodes it
        answer = client.embeddings.create(model="x", input=TEXTS, dimensions=8, **options)  # type: ignore[arg-type]
        np.testing.assert_allclose(vectors_of(answer), expected[:, :8], atol=1e-6)
    answer = client.embeddings.create(model="x", input=TEXTS, dimensions=8, extra_body={"normalize": True})
    vectors, norms = vectors_of(answer), np.linalg.norm(expected[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(vectors * norms, expected[:, :8], atol=1e-6)


def test_token_ids(client: openai.OpenAI, http_server: HttpServer) -> None:
    with http_server.zmq_client() as zmq_client:
        expected = np.asarray(zmq_client.encode(TEXTS))  # the last one is a pair
    ids = {token: index for index, token in enumerate((Path(TINY) / "vocab.txt").read_text().split("\n"))}
    cls, sep = ids["[CLS]"], ids["[SEP]"]
    bare = [[ids["hello"], ids["world"]], [ids["a"], sep, ids["b"]]]
    framed = [[cls, *bare[0], sep, ids["[PAD]"], ids["[PAD]"]], [cls, *bare[1], sep]]
    answer = client.embeddings.create(model="x", input=framed)
    np.testing.assert_allclose(vectors_of(answer), expected[[0, 2]], atol=1e-5)
    for rows in (bare, [framed[0], [cls]], [[sep, *bare[0], cls]]):
        with pytest.raises(openai.BadRequestError, match=rf"begin with {cls} .*end with {sep} .*-http_token_ids any"):
            client.embeddings.create(model="x", input=rows)
    answer = client.embeddings.create(model="x", input=framed[0])
    np.testing.assert_allclose(vectors_of(answer), expected[[0]], atol=1e-5)
    with pytest.raises(openai.BadRequestError, match="token id 999999"):
        client.embeddings.create(model="x", input=[[cls, 999_999, sep]])


@pytest.mark.parametrize("ids", [[7, 8], [[7, 8], [9]]])
def test_token_ids_of_openai_are_rejected(client: openai.OpenAI, http_server: HttpServer, ids: Any) -> None:
    """The ids are valid in the vocabulary of the model too, so only the model name identifies them."""
    for model in ("text-embedding-ada-002", "text-embedding-3-small"):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            client.embeddings.create(model=model, input=ids)
        assert caught.value.param == "input"
        assert len(client.embeddings.create(model=model, input="hello world").data) == 1, "texts are welcome"
    framed = [[2, *row, 3] for row in (ids if isinstance(ids[0], list) else [ids])]
    assert client.embeddings.create(model="tiny", input=framed).model == "tiny"
    reply = http_server.call("/invocations", {"model": "text-embedding-3-small", "input": ids}, bearer())
    assert reply.status == 400
    assert "Send texts" in reply.json["description"]


def test_served_model_may_have_a_name_of_an_openai_model(tmp_path: Path) -> None:
    with serving_http("-engine", "zeros", model_dir=shutil.copytree(TINY, tmp_path / "text-embedding-own")) as server:
        assert server.call("/v1/embeddings", {"model": "text-embedding-own", "input": [2, 7, 8, 3]}).status == 200
        assert server.call("/v1/embeddings", {"model": "text-embedding-3-small", "input": [7, 8]}).status == 400


def test_models(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "bert-serving"
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.models.retrieve("other/model")


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "input", "'input'"),
        ({"input": []}, "input", "empty"),
        ({"input": ""}, None, "texts[0]"),
        ({"input": ["a", ""]}, None, "texts[1]"),
        ({"input": None}, "input", "null"),
        ({"input": 3}, "input", "a number"),
        ({"input": {"a": 1}}, "input", "object"),
        ({"input": ["a", 1]}, "input", "item 1"),
        ({"input": [1, "a"]}, "input", "item 1"),
        ({"input": [True, False]}, "input", "True"),
        ({"input": [1.5]}, "input", "1.5"),
        ({"input": [[]]}, "input", "item 0"),
        ({"input": [[1], ["a"]]}, "input", "item 1"),
        ({"input": [[1], [2.5]]}, "input", "item 1"),
        ({"input": [[-1]]}, "input", "-1"),
        ({"input": [[0, 0]]}, "input", "no token"),
        ({"input": "a", "dimensions": 0}, "dimensions", "at least 1"),
        ({"input": "a", "dimensions": "8"}, "dimensions", "'8'"),
        ({"input": "a", "dimensions": True}, "dimensions", "True"),
        ({"input": "a", "dimensions": 33}, "dimensions", "32"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "float, base64"),
        ({"input": "a", "task": "retrieval.query"}, "task", "known fields: input, model"),
        ({"input": "a", "input_type": "query"}, "input_type", "'query'"),
        ({"input": "a", "late_chunking": False}, "late_chunking", "not supported"),
        ({"input": "a", "anything": 1}, "anything", "omit it"),
        (b"{", None, "not JSON"),
        ([1], None, "object"),
    ],
)
def test_errors_have_the_format_of_openai(http_server: HttpServer, body: Any, param: str | None, words: str) -> None:
    reply = http_server.call("/v1/embeddings", body, bearer())
    assert reply.status == 400
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


def test_the_package_raises_its_own_errors(client: openai.OpenAI, http_server: HttpServer) -> None:
    with pytest.raises(openai.BadRequestError, match="32"):
        client.embeddings.create(model="x", input="a", dimensions=1000)
    stranger = openai.OpenAI(base_url=f"{http_server.url}/v1", api_key="wrong", max_retries=0, timeout=60)
    with pytest.raises(openai.AuthenticationError) as caught:
        stranger.embeddings.create(model="x", input="a")
    assert caught.value.code == "invalid_api_key"
    stranger.close()
    assert http_server.call("/v1/nothing", None, bearer()).json["error"]["code"] == "not_found"


def bearer(token: str = "sesame") -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize(
    "headers",
    [{}, bearer("wrong"), bearer(""), bearer("sesame2"), {"Authorization": "Basic sesame"}, {"Authorization": "sesame"},
     bearer("s\xe9same")],
)  # fmt: skip
def test_requests_without_the_token_are_rejected(http_server: HttpServer, headers: dict[str, str]) -> None:
    for path, body in (
        ("/encode", {"texts": ["a"]}),
        ("/status/server", None),
        ("/status/client", None),
        ("/metrics", None),
        ("/invocations", {"texts": ["a"]}),
        ("/nothing", None),
    ):
        reply = http_server.call(path, body, headers)
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json["type"] == "Unauthorized"
    assert http_server.call("/v1/models", None, headers).json["error"]["code"] == "invalid_api_key"


def test_a_post_without_the_token_is_rejected_on_every_path(http_server: HttpServer) -> None:
    metrics = http_server.call("/metrics", None, bearer()).body.decode()
    routes = set(re.findall(r'http_requests_total\{code="200",path="(/[^"]*)"\}', metrics))
    assert {"/", "/encode", "/healthz", "/docs", "/v1/embeddings", "/dashboard/"} <= routes
    body = {"texts": ["a"], "input": "a", "inputs": "a"}
    for path in sorted(routes | {"/nothing", "/embeddings", "//", "//healthz", "/readyz/", "/dashboard/app.js", "*"}):
        for headers in ({}, bearer("wrong")):
            assert http_server.call(path, body, headers).status == 401, path
    for method in ("PUT", "DELETE", "PATCH"):
        assert http_server.call("/healthz", b"{}", method=method).status == 401, method
    assert http_server.call("/healthz", method="HEAD").status == 200


@pytest.mark.parametrize(
    "path",
    ["/embeddings", "/v1/embeddings/", "//v1//embeddings", "/v1/embeddings///", "/v1%2Fembeddings", "//embeddings/"],
)
def test_spellings_of_a_path_reach_one_route(http_server: HttpServer, expected: np.ndarray, path: str) -> None:
    reply = http_server.call(path, {"input": TEXTS}, bearer())
    np.testing.assert_array_equal(float32([item["embedding"] for item in reply.json["data"]]), expected)
    assert http_server.call(path, {"input": []}, bearer()).json["error"]["param"] == "input"
    assert http_server.call(path, {"input": TEXTS}).json["error"]["code"] == "invalid_api_key"


def test_requests_with_the_token_are_accepted(http_server: HttpServer) -> None:
    assert http_server.call("/encode", {"texts": ["a"]}, bearer()).status == 200
    assert http_server.call("/encode", {"texts": ["a"]}, {"authorization": "bearer sesame"}).status == 200


def test_public_paths_need_no_token(http_server: HttpServer) -> None:
    for path in ("/healthz", "/readyz", "/health", "/ping", "/docs", "/openapi.json"):
        assert http_server.call(path).status == 200, path


def test_cors_preflight_needs_no_token(http_server: HttpServer) -> None:
    headers = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
    reply = http_server.call("/encode", None, headers, method="OPTIONS")
    assert reply.status == 200
    assert reply.headers["access-control-allow-origin"] == "*"


def test_token_is_not_disclosed(http_server: HttpServer) -> None:
    status = http_server.call("/status/server", None, bearer())
    assert b"sesame" not in status.body
    assert "sesame" not in http_server.server.log


def test_token_is_read_from_the_environment() -> None:
    with serving_http("-engine", "zeros", env={"BERT_SERVING_HTTP_TOKEN": TOKEN}) as server:
        given = TOKEN.encode().decode("latin-1")
        assert server.call("/status/server", None, bearer(given)).status == 200
        assert server.call("/status/server").status == 401
