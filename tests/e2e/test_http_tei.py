"""Tests the routes of text-embeddings-inference with raw requests, and with the unmodified package huggingface_hub."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from http_calls import HttpServer, float32, serving_http
from servers import TINY, wait_until

TEXTS = ["hello world", "the quick brown fox", "a ||| b"]
#: The same for clients of 1.10: a text of several lines is no pair.
PLAIN = [text.replace("||| ", "|||\n") for text in TEXTS]
LONG = "hello " * 60
CLS, SEP, HELLO, WORLD = ((TINY / "vocab.txt").read_text().split("\n").index(token) for token in
                          ("[CLS]", "[SEP]", "hello", "world"))  # fmt: skip


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http() as server:
        yield server


@pytest.fixture(scope="module")
def expected(http_server: HttpServer) -> np.ndarray:
    """The vectors of the texts, with length 1."""
    with http_server.zmq_client() as client:
        return np.asarray(client.encode(PLAIN, normalize=True))


@pytest.fixture
def client(http_server: HttpServer) -> InferenceClient:
    return InferenceClient(http_server.url, timeout=60)


@pytest.mark.parametrize("path", ["/embed", "/", "//embed/"])
def test_embed(http_server: HttpServer, expected: np.ndarray, path: str) -> None:
    reply = http_server.call(path, {"inputs": TEXTS})
    assert reply.status == 200
    np.testing.assert_array_equal(float32(reply.json), expected)
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-vector-space"]
    np.testing.assert_allclose(http_server.call(path, {"inputs": TEXTS[0]}).json, expected[:1], atol=1e-6)


def test_options_of_embed(http_server: HttpServer, expected: np.ndarray) -> None:
    with http_server.zmq_client() as client:
        plain = np.asarray(client.encode(PLAIN))
        prompted = np.asarray(client.encode(PLAIN, prompt="hello ", normalize=True))
        short = np.asarray(client.encode(PLAIN, dimensions=8, normalize=True))

    def embed(**fields: Any) -> Any:
        reply = http_server.call("/embed", {"inputs": TEXTS, **fields})
        assert reply.status == 200, reply.body
        return reply.json

    np.testing.assert_array_equal(float32(embed(normalize=False)), plain)
    np.testing.assert_array_equal(float32(embed(parameters={"normalize": False})), plain)
    np.testing.assert_array_equal(float32(embed(normalize=None, truncate=True, truncation_direction="Right")), expected)
    np.testing.assert_array_equal(float32(embed(prompt="hello ")), prompted)
    np.testing.assert_array_equal(float32(embed(dimensions=8)), short)
    rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in embed(encoding_format="base64")]
    np.testing.assert_array_equal(rows, expected)
    embed(model="any", user="me", options={"use_cache": False}, anything=1)
    ids = [[CLS, HELLO, WORLD, SEP], [CLS, HELLO, SEP]]
    np.testing.assert_allclose(embed(inputs=ids)[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(embed(inputs=ids[0]), expected[:1], atol=1e-6)


def test_large_responses_are_streamed(http_server: HttpServer, expected: np.ndarray) -> None:
    texts = TEXTS * 6_000  # 2.3 MB of vectors
    for encoding in ("float", "base64"):
        reply = http_server.call("/embed", {"inputs": texts, "encoding_format": encoding})
        rows = reply.json
        assert len(rows) == len(texts)
        if encoding == "base64":
            rows = [np.frombuffer(base64.b64decode(row), "<f4") for row in rows]
        np.testing.assert_allclose(rows, np.tile(expected, (6_000, 1)), atol=1e-6)


def test_similarity(http_server: HttpServer, expected: np.ndarray) -> None:
    inputs = {"source_sentence": TEXTS[0], "sentences": [*TEXTS[1:], TEXTS[0]]}
    for path in ("/similarity", "/"):
        reply = http_server.call(path, {"inputs": inputs, "parameters": {"truncate": True}})
        scores = np.array(reply.json)
        np.testing.assert_allclose(scores, [*(expected[1:] @ expected[0]), 1], atol=1e-6)


def test_tokenize_and_decode(http_server: HttpServer) -> None:
    rows = http_server.call("/tokenize", {"inputs": ["Hello world", "hello ||| world", LONG]}).json
    assert [token["id"] for token in rows[0]] == [CLS, HELLO, WORLD, SEP]
    assert rows[0][0] == {"id": CLS, "text": "[CLS]", "special": True, "start": None, "stop": None}
    assert [token["text"] for token in rows[0]] == ["[CLS]", "hello", "world", "[SEP]"]
    assert [token["special"] for token in rows[0]] == [True, False, False, True]
    assert [token["id"] for token in rows[1]].count(SEP) == 1, "the text is no pair"
    assert len(rows[2]) == 62, "no text is truncated"
    bare = http_server.call("/tokenize", {"inputs": "hello", "add_special_tokens": False, "prompt": "world "}).json
    assert [[token["id"] for token in row] for row in bare] == [[WORLD, HELLO]]
    ids = [token["id"] for token in rows[0]]
    assert http_server.call("/decode", {"ids": ids}).json == ["hello world"]
    reply = http_server.call("/decode", {"ids": [ids, [HELLO]], "skip_special_tokens": False})
    assert reply.json == ["[CLS] hello world [SEP]", "hello"]


def test_info_and_health(http_server: HttpServer) -> None:
    info = http_server.call("/info").json
    assert info["model_id"] == "tiny"
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert (info["max_input_length"], info["model_dtype"]) == (25, "float32")
    wait_until(lambda: http_server.call("/health").status == 200, what="/health")
    assert set(http_server.call("/health").json) == {"unix"}


@pytest.mark.parametrize(
    ("path", "body", "status", "error_type", "words"),
    [
        ("/embed", {}, 422, "Validation", "'inputs' is missing"),
        ("/embed", {"inputs": []}, 400, "Empty", "an empty list"),
        ("/embed", {"inputs": ["a", ""]}, 422, "Validation", "texts[1]"),
        ("/embed", {"inputs": ["a", 1]}, 422, "Validation", "item 1 is 1"),
        ("/embed", {"inputs": 3}, 422, "Validation", "a number"),
        ("/embed", {"inputs": [["a", "b"]]}, 422, "Validation", "item 0 of 'inputs'"),
        ("/embed", {"inputs": [999_999]}, 422, "Validation", "999999"),
        ("/embed", b"{", 422, "Validation", "not JSON"),
        ("/embed", ["a"], 422, "Validation", "JSON object"),
        ("/embed", {"inputs": "a", "normalize": "maybe"}, 422, "Validation", "'maybe'"),
        ("/embed", {"inputs": "a", "dimensions": 33}, 422, "Validation", "32 dimensions"),
        ("/embed", {"inputs": "a", "encoding_format": "int8"}, 422, "Validation", "float, base64"),
        ("/embed", {"inputs": "a", "prompt_name": "query"}, 422, "Validation", "prompts of this model: none"),
        ("/embed", {"inputs": "a", "truncation_direction": "left"}, 422, "Validation", "at their end"),
        ("/embed", {"inputs": "a", "truncation_direction": 1}, 422, "Validation", "'truncation_direction' is 1"),
        ("/embed", {"inputs": "a", "pooling": "cls"}, 422, "Validation", "'pooling' ('cls')"),
        ("/embed", {"inputs": "a", "parameters": {"task": "x"}}, 422, "Validation", "'task'"),
        ("/embed", {"inputs": "a", "parameters": [1]}, 422, "Validation", "'parameters' must be an object"),
        ("/embed", {"inputs": ["a", LONG], "truncate": False}, 413, "Validation", "62 tokens"),
        ("/embed_all", {"inputs": "a"}, 424, "Backend", "-pooling_strategy NONE"),
        ("/similarity", {"inputs": "a"}, 422, "Validation", "source_sentence"),
        ("/similarity", {"inputs": {"sentences": ["a"]}}, 422, "Validation", "'source_sentence' is missing"),
        ("/similarity", {"inputs": {"source_sentence": 1, "sentences": ["a"]}}, 422, "Validation", "received 1"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", "'sentences'"),
        ("/", {"inputs": {"source_sentence": "a", "sentences": ["a", 2]}}, 422, "Validation", "item 1"),
        ("/", {"inputs": {"a": "b"}}, 422, "Validation", "'source_sentence' is missing"),
        ("/", {"texts": ["a"]}, 422, "Validation", "'inputs' is missing"),
        ("/tokenize", {"inputs": [1]}, 422, "Validation", "item 0"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 3}, 422, "Validation", "'add_special_tokens'"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", "prompts of this model"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x", "prompt": "y"}, 422, "Validation", "exclude each other"),
        ("/tokenize", {"inputs": "a" * 1_000_001}, 413, "Validation", "-max_text_length"),
        ("/decode", {"ids": []}, 400, "Empty", "'ids'"),
        ("/decode", {"ids": [-1]}, 422, "Tokenizer", "-1 is not in the model's vocabulary"),
        ("/decode", {"ids": [[1], [10**30]]}, 422, "Tokenizer", "vocabulary"),
        ("/decode", {"ids": ["a"]}, 422, "Validation", "item 0"),
    ],
)
def test_errors_have_the_format_of_text_embeddings_inference(
    http_server: HttpServer, path: str, body: Any, status: int, error_type: str, words: str
) -> None:
    reply = http_server.call(path, body)
    assert (reply.status, set(reply.json), reply.json["error_type"]) == (status, {"error", "error_type"}, error_type)
    assert words in reply.json["error"]


def test_errors_of_methods_and_headers(http_server: HttpServer) -> None:
    assert http_server.call("/embed").json["error_type"] == "Validation"
    assert http_server.call("/embed").status == 405
    assert http_server.call("/embed", {"inputs": "a"}, {"X-Vector-Space": "other"}).status == 409


def test_huggingface_hub(client: InferenceClient, expected: np.ndarray) -> None:
    np.testing.assert_allclose(client.feature_extraction(TEXTS[0]), expected[:1], atol=1e-6)
    vectors = client.feature_extraction(TEXTS, normalize=True, truncate=True, truncation_direction="right")
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    embed = InferenceClient(f"{client.model}/embed", timeout=60)
    np.testing.assert_allclose(embed.feature_extraction(TEXTS), expected, atol=1e-6)
    scores = client.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    np.testing.assert_allclose(scores, expected[1:] @ expected[0], atol=1e-6)


def test_errors_of_huggingface_hub(client: InferenceClient) -> None:
    with pytest.raises(huggingface_hub.errors.HfHubHTTPError) as caught:
        client.feature_extraction("a", truncation_direction="left")
    assert caught.value.response.status_code == 422
    assert "at their end" in str(caught.value)
