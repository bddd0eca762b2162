"""Tests ``/encode`` over sockets: responses as in 1.10.0, the same vectors as over ZeroMQ, and error responses."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from http_calls import HttpServer, float32, serving_http

TEXTS = ["hello world", "the quick brown fox", "a ||| b", "hello   world !"]


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-show_tokens_to_client", "-max_seq_len", "12") as server:
        yield server


@pytest.fixture(scope="module")
def limited() -> Iterator[HttpServer]:
    """Starts a server that returns token vectors and has low limits."""
    with serving_http(
        "-pooling_strategy", "NONE", "-max_seq_len", "NONE", "-http_max_body", "100000", "-max_request_size", "500"
    ) as server:
        yield server


def test_response_has_result_of_1_10_and_results_of_its_readme(http_server: HttpServer) -> None:
    reply = http_server.call("/encode", {"id": 123, "texts": TEXTS, "is_tokenized": False})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    body = reply.json
    assert body["id"] == 123
    assert body["status"] == 200
    assert body["result"] == body["results"]
    with http_server.zmq_client() as client:
        np.testing.assert_array_equal(float32(body["result"]), client.encode(TEXTS))


def test_numbers_have_at_most_nine_digits(http_server: HttpServer) -> None:
    body = http_server.call("/encode", {"texts": TEXTS}).body
    numbers = body[body.index(b"[[") + 2 : body.index(b"]]")].replace(b"],[", b",").split(b",")
    assert max(len(number.strip(b"-0.").replace(b".", b"").split(b"e")[0]) for number in numbers) <= 9


@pytest.mark.parametrize("value", [None, 0, -1.5, "x", '日本 \\"', True, [1, {"a": None}], 10**30, {"k": [1]}])
def test_any_id_is_returned(http_server: HttpServer, value: Any) -> None:
    assert http_server.call("/encode", {"id": value, "texts": ["hello"]}).json["id"] == value


def test_deeply_nested_id_is_returned_or_rejected(http_server: HttpServer) -> None:
    for depth in (100, 500, 900, 990, 1000, 1100, 5000):
        reply = http_server.call("/encode", b'{"texts": ["a"], "id": %b%b}' % (b"[" * depth, b"]" * depth))
        assert reply.status == 400 or (reply.status == 200 and reply.body.startswith(b'{"id":' + b"[" * depth)), depth


def test_id_is_optional(http_server: HttpServer) -> None:
    assert http_server.call("/encode", {"texts": ["hello"]}).json["id"] is None


def test_content_type_is_ignored(http_server: HttpServer) -> None:
    for content_type in ("application/json", "application/x-www-form-urlencoded", "text/plain"):
        reply = http_server.call("/encode", {"texts": ["hello"]}, {"Content-Type": content_type})
        assert reply.status == 200, content_type


def test_raw_bytes(http_server: HttpServer) -> None:
    reply = http_server.call("/encode", {"texts": TEXTS}, {"Accept": "application/octet-stream"})
    assert reply.headers["content-type"] == "application/octet-stream"
    shape = tuple(map(int, reply.headers["x-shape"].split(",")))
    vectors = np.frombuffer(reply.body, np.dtype(reply.headers["x-dtype"]).newbyteorder("<")).reshape(shape)
    with http_server.zmq_client() as client:
        np.testing.assert_array_equal(vectors, client.encode(TEXTS))


def test_json_is_returned_unless_bytes_are_preferred(http_server: HttpServer) -> None:
    for accept in ("*/*", "text/html", "application/json, application/octet-stream;q=0.5", "nonsense"):
        reply = http_server.call("/encode", {"texts": ["hello"]}, {"Accept": accept})
        assert reply.headers["content-type"] == "application/json", accept


def test_base64(http_server: HttpServer) -> None:
    body = http_server.call("/encode", {"texts": TEXTS, "encoding_format": "base64"}).json
    assert "result" not in body
    vectors = np.frombuffer(b"".join(map(base64.b64decode, body["results"])), body["dtype"])
    with http_server.zmq_client() as client:
        np.testing.assert_array_equal(vectors.reshape(body["shape"]), client.encode(TEXTS))


def test_tokens_match_those_of_the_service(http_server: HttpServer) -> None:
    body = http_server.call("/encode", {"texts": TEXTS, "show_tokens": True}).json
    with http_server.zmq_client() as client:
        _, tokens = client.encode(TEXTS, show_tokens=True)
    assert body["tokens"] == tokens
    assert body["num_tokens"] == sum(map(len, tokens))
    assert "tokens" not in http_server.call("/encode", {"texts": TEXTS}).json


def test_counts_cover_several_zeromq_requests(http_server: HttpServer) -> None:
    texts = ["hello"] * 2500
    long = [3, 1023, 1024, 2047, 2499]
    for row in long:
        texts[row] = "hello " * 50
    body = http_server.call("/encode", {"texts": texts}).json
    assert body["truncated"] == long
    assert body["num_tokens"] == 3 * (2500 - len(long)) + 12 * len(long)
    raw = http_server.call("/encode", {"texts": texts}, {"Accept": "application/octet-stream"})
    assert (raw.headers["x-num-tokens"], raw.headers["x-num-truncated"]) == (str(body["num_tokens"]), "5")


def test_truncated_texts_are_listed(http_server: HttpServer) -> None:
    body = http_server.call("/encode", {"texts": ["hello", "hello " * 50, "a b", "b " * 20]}).json
    assert body["truncated"] == [1, 3]


@pytest.mark.parametrize("value", [True, "true", "TRUE", 1, "1"])
def test_tokenized_texts(http_server: HttpServer, value: Any) -> None:
    rows = [["hello", "world"], ["the", "fox"]]
    body = http_server.call("/encode", {"texts": rows, "is_tokenized": value}).json
    with http_server.zmq_client() as client:
        np.testing.assert_array_equal(float32(body["result"]), client.encode(rows, is_tokenized=True))


@pytest.mark.parametrize("value", [False, "false", "False", 0, None, ""])
def test_string_false_is_false(http_server: HttpServer, value: Any) -> None:
    assert http_server.call("/encode", {"texts": ["hello"], "is_tokenized": value}).status == 200


def test_lone_surrogate_is_accepted(http_server: HttpServer) -> None:
    assert http_server.call("/encode", b'{"id": 1, "texts": ["hello \\ud83d world"]}').status == 200


@pytest.mark.parametrize(
    ("body", "error_type", "words"),
    [
        (b"", "BadRequest", "empty"),
        (b"not json", "BadRequest", "not JSON"),
        (b"\xff\xfe", "BadRequest", "not JSON"),
        (b"[" * 100_000, "BadRequest", "body"),
        (b'{"texts": ["a"], "id": NaN}', "BadRequest", "NaN"),
        (b'{"texts": ["a"], "id": 1e999}', "BadRequest", "1e999"),
        (b'{"texts": ["a"], "id": [{"a": -1e400}]}', "BadRequest", "-1e400"),
        (b'{"texts": ["a"], "show_tokens": 1e999}', "BadRequest", "1e999"),
        (b'{"texts": ["a"], "id": ' + b"9" * 5000 + b"}", "BadRequest", "JSON"),
        (["hello"], "BadRequest", "object"),
        ("hello", "BadRequest", "object"),
        ({}, "MissingField", "'texts'"),
        ({"id": 1, "text": ["a"]}, "MissingField", "'texts'"),
        ({"texts": "hello"}, "BadRequest", "list"),
        ({"texts": None}, "BadRequest", "null"),
        ({"texts": {}}, "BadRequest", "object"),
        ({"texts": []}, "InputValueError", "empty"),
        ({"texts": [""]}, "InputValueError", "texts[0]"),
        ({"texts": ["a", "  "]}, "InputValueError", "texts[1]"),
        ({"texts": ["a", 3]}, "InputTypeError", "texts[1]"),
        ({"texts": ["a", None]}, "InputTypeError", "texts[1]"),
        ({"texts": [["a"]]}, "InputTypeError", "is_tokenized"),
        ({"texts": ["a"], "is_tokenized": True}, "InputTypeError", "texts[0]"),
        ({"texts": [["a"], []], "is_tokenized": True}, "InputValueError", "texts[1]"),
        ({"texts": ["a"], "is_tokenized": "maybe"}, "BadRequest", "'maybe'"),
        ({"texts": ["a"], "is_tokenized": 2}, "BadRequest", "2"),
        ({"texts": ["a"], "is_tokenized": [True]}, "BadRequest", "[True]"),
        ({"texts": ["a"], "show_tokens": "x"}, "BadRequest", "'x'"),
        ({"texts": ["a"], "raw_scores": True}, "InvalidRequestError", "raw_scores needs scores"),
        ({"texts": ["a"], "pairs": True}, "BadRequest", "item 0 of 'texts'"),
        ({"texts": ["a"], "encoding_format": "hex"}, "BadRequest", "float, base64"),
        ({"texts": ["a"], "encoding_format": ["float"]}, "BadRequest", "float, base64"),
    ],
)
def test_bad_request_is_explained(http_server: HttpServer, body: Any, error_type: str, words: str) -> None:
    reply = http_server.call("/encode", body, method="POST")
    assert reply.status == 400
    body = reply.json
    assert set(body) == {"description", "status", "type"}
    assert body["status"] == 400
    assert body["type"] == error_type
    assert words in body["description"]


def test_unknown_paths_and_methods(http_server: HttpServer) -> None:
    missing = http_server.call("/nothing")
    assert (missing.status, missing.json["type"]) == (404, "NotFound")
    assert "/nothing" in missing.json["description"]
    wrong = http_server.call("/encode")
    assert (wrong.status, wrong.json["type"]) == (405, "MethodNotAllowed")
    assert "POST" in wrong.headers["allow"]
    packed = http_server.call("/encode", gzip.compress(b"{}"), {"Content-Encoding": "gzip"})
    assert (packed.status, packed.json["type"]) == (415, "UnsupportedBody")


@pytest.mark.parametrize("noise", [b"HELLO\r\n\r\n", b"GET /\x00 HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n"])
def test_malformed_http_gets_an_error_response(http_server: HttpServer, noise: bytes) -> None:
    with socket.create_connection(("127.0.0.1", http_server.http_port), 60) as sock:
        sock.sendall(noise)
        assert b" 40" in sock.makefile("rb").readline()
    assert http_server.call("/healthz").status == 200


def test_one_connection_serves_many_requests(http_server: HttpServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", http_server.http_port, timeout=60)
    for _ in range(20):
        connection.request("POST", "/encode", b'{"texts": ["hello"]}')
        response = connection.getresponse()
        assert response.status == 200
        assert not response.will_close
        response.read()
    connection.close()


def test_response_is_compressed_on_request(http_server: HttpServer) -> None:
    body = {"texts": TEXTS * 8}
    plain = http_server.call("/encode", body)
    packed = http_server.call("/encode", body, {"Accept-Encoding": "gzip"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    raw = http_server.call("/encode", body, {"Accept-Encoding": "gzip", "Accept": "application/octet-stream"})
    assert "content-encoding" not in raw.headers


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/encode", {"id": 1, "texts": TEXTS * 3}),
        ("/encode", {"texts": TEXTS * 3, "encoding_format": "base64", "show_tokens": True}),
        ("/encode", {"texts": ["a"], "dimensions": 33}),
        ("/v1/embeddings", {"input": TEXTS * 3}),
        ("/embed", {"inputs": "hello", "truncate": False}),
    ],
)
def test_small_and_large_requests_get_equal_responses(http_server: HttpServer, path: str, values: Any) -> None:
    """Flask handles the large request. The small ones are answered without it."""
    small = json.dumps(values).encode()
    for headers in (
        {"Accept-Encoding": "identity"},
        {"Accept-Encoding": "gzip", "Origin": "https://a.example"},
        {"Accept": "application/octet-stream;q=0.9, application/json;q=0.5", "Origin": "https://a.example"},
        {"Accept": "application/octet-stream", "Access-Control-Request-Private-Network": "true"},
        {"Host": "a b", "X-Vector-Space": "another"},
    ):
        replies = [http_server.call(path, body, headers) for body in (small.ljust(2000), small, small)]
        statuses = {each.status for each in replies}
        # The compressed data have a time.
        bodies = {
            gzip.decompress(each.body) if each.headers.get("content-encoding") == "gzip" else each.body
            for each in replies
        }
        varying = {"date", "server-timing"}
        kept = [{key: key in varying or value for key, value in each.headers.items()} for each in replies]
        assert len(statuses) == 1, (headers, statuses)
        assert len(bodies) == 1, (headers, bodies)
        assert kept[0] == kept[1] == kept[2], headers


def test_token_vectors(limited: HttpServer) -> None:
    texts = ["hello world", "the quick brown fox"]
    body = limited.call("/encode", {"texts": texts}).json
    with limited.zmq_client() as client:
        np.testing.assert_array_equal(float32(body["result"]), client.encode(texts))
    assert np.ndim(body["result"]) == 3
    refused = limited.call("/v1/embeddings", {"input": "hello"})
    assert refused.status == 400
    assert "/encode" in refused.json["error"]["message"]


def test_too_large_response_is_rejected_before_encoding(limited: HttpServer) -> None:
    reply = limited.call("/encode", {"texts": ["hello world " * 20] * 30})
    assert reply.status == 413
    assert "-http_max_body" in reply.json["description"]
    reply = limited.call("/encode", {"texts": ["a"] * 501})
    assert reply.status == 413
    assert "-max_request_size" in reply.json["description"]


@pytest.mark.parametrize("size", [100_001, 5_000_000])
def test_too_large_body_gets_an_error_response(limited: HttpServer, size: int) -> None:
    body = json.dumps({"texts": ["x"]}).encode().ljust(size)
    for path in ("/encode", "/v1/embeddings"):
        reply = limited.call(path, body)
        assert reply.status == 413
        assert b"100000 bytes (-http_max_body)" in reply.body
        assert ("error" in reply.json) == path.startswith("/v1/")


def test_body_at_the_limit_is_accepted(limited: HttpServer) -> None:
    assert limited.call("/encode", json.dumps({"texts": ["x"]}).encode().ljust(100_000)).status == 200


def test_expect_continue_rejects_a_too_large_body_before_it_is_sent(limited: HttpServer) -> None:
    with socket.create_connection(("127.0.0.1", limited.http_port), 60) as sock:
        sock.sendall(b"POST /encode HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        assert b" 413 " in sock.makefile("rb").readline()


def test_chunked_body(limited: HttpServer) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"texts": '
        yield b'["hello"]}'

    connection = http.client.HTTPConnection("127.0.0.1", limited.http_port, timeout=60)
    connection.request("POST", "/encode", chunks(), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
    assert connection.getresponse().status == 200
    connection.close()


def test_embed_all_of_text_embeddings_inference(limited: HttpServer) -> None:
    plain = [text.replace("||| ", "|||\n") for text in TEXTS]  # a text of several lines is no pair
    with limited.zmq_client() as client:
        vectors = np.asarray(client.encode(plain))
    reply = limited.call("/embed_all", {"inputs": TEXTS})
    rows = limited.call("/tokenize", {"inputs": TEXTS}).json
    assert [len(row) for row in reply.json] == list(map(len, rows))
    for row, whole in zip(reply.json, vectors, strict=True):
        np.testing.assert_array_equal(float32(row), whole[: len(row)])
    ids = [token["id"] for token in rows[0]]
    assert np.shape(limited.call("/embed_all", {"inputs": ids}).json) == (1, len(ids), 32)
    for fields in ({"normalize": True}, {"dimensions": 8}):
        reply = limited.call("/embed_all", {"inputs": TEXTS, **fields})
        assert (reply.status, reply.json["error_type"]) == (422, "Validation")
    assert limited.call("/info").json["model_type"] == {"embedding": {"pooling": "none"}}


def test_errors_of_text_embeddings_inference(limited: HttpServer) -> None:
    for path in ("/embed", "/similarity", "/"):
        inputs: Any = {"source_sentence": "a", "sentences": ["b"]} if path == "/similarity" else "a"
        reply = limited.call(path, {"inputs": inputs})
        assert (reply.status, reply.json["error_type"]) == (424, "Backend")
        assert "/embed_all" in reply.json["error"]
    reply = limited.call("/embed_all", {"inputs": "a" * 100_000})
    assert (reply.status, reply.json["error_type"]) == (413, "Validation")
    reply = limited.call("/tokenize", {"inputs": "a " * 2000})
    assert (reply.status, reply.json["error_type"]) == (413, "Validation")
    assert "more than 100000 bytes" in reply.json["error"]
