"""Each HTTP response names a vector space: that of its vectors, or else that of the server."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from http_calls import HttpServer, Reply, serving_http

HEADER = "x-vector-space"
TOKEN = {"Authorization": "Bearer sesame"}
#: Open connections that the server allows.
MAX_CONNECTIONS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("sesame\n")
    limits = ("-http_max_connections", str(MAX_CONNECTIONS), "-http_max_body", "4096")
    with serving_http("-engine", "zeros", "-http_token_file", token, *limits) as server:
        yield server


def space_of(server: HttpServer) -> str:
    space: str = server.call("/v1/models", headers=TOKEN).json["data"][0]["vector_space"]
    return space


def test_each_route_names_the_space_whatever_its_status(server: HttpServer) -> None:
    space = space_of(server)
    paths = [path.replace("{name}", "x") for path in server.call("/openapi.json", headers=TOKEN).json["paths"]]
    assert len(paths) > 20
    statuses: set[int] = set()
    for path in [*paths, "/", "/docs", "/dashboard/", "/no/such/path"]:
        for method, body in (("GET", None), ("HEAD", None), ("OPTIONS", None), ("POST", b"{}"), ("POST", b"[")):
            reply = server.call(path, body, TOKEN, method)
            assert reply.headers[HEADER] == space, (method, path, reply)
            statuses.add(reply.status)
    assert {200, 302, 400, 404, 405, 422, 424} <= statuses


@pytest.mark.parametrize(
    ("status", "path", "body", "headers"),
    [
        (200, "/encode", {"texts": ["a"]}, TOKEN),
        (200, "/metrics", None, TOKEN),
        (400, "/v1/embeddings", {"input": "a", "dimensions": 0}, TOKEN),
        (401, "/encode", {"texts": ["a"]}, {}),
        (401, "/status/server", None, {}),
        (409, "/encode", {"texts": ["a"]}, {**TOKEN, "X-Vector-Space": "other"}),
        (413, "/encode", {"texts": ["a" * 5000]}, TOKEN),
        (415, "/encode", {"texts": ["a"]}, {**TOKEN, "Content-Encoding": "gzip"}),
        (424, "/rerank", {"query": "a", "texts": ["b"]}, TOKEN),
    ],
)
def test_responses_of_each_status(
    server: HttpServer, status: int, path: str, body: Any, headers: dict[str, str]
) -> None:
    reply = server.call(path, body, headers)
    assert (reply.status, reply.headers[HEADER]) == (status, space_of(server))


def test_vectors_with_options_of_their_own_name_their_own_space(server: HttpServer) -> None:
    space = space_of(server)

    def own(path: str, body: dict[str, Any]) -> Reply:
        reply = server.call(path, body, TOKEN)
        assert reply.status == 200
        assert reply.headers[HEADER] != space
        return reply

    assert (
        own("/encode", {"texts": ["a"], "dimensions": 8}).headers[HEADER]
        == (own("/v1/embeddings", {"input": "a", "dimensions": 8}).headers[HEADER])
    )


def raw(server: HttpServer, request: bytes) -> bytes:
    """Returns all that the server answers until it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.http_port), 60) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(request)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def test_responses_before_a_request_is_complete(server: HttpServer) -> None:
    expected = f"X-Vector-Space: {space_of(server)}\r\n".encode()
    malformed = raw(server, b"\x16\x03\x01\r\n\r\n")
    assert malformed.startswith(b"HTTP/1.1 400 ")
    assert expected in malformed
    large = raw(server, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000)
    assert large.startswith(b"HTTP/1.1 431 ")
    assert expected in large
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", server.http_port), 60))
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            sock.recv(65536)  # the connection counts now
        refused = raw(server, b"")
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert expected in refused
