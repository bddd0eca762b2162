"""Tests status, health, metrics, the OpenAPI description and CORS."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bert_serving.server.http import schemas
from bert_serving.server.http.encode_schemas import EncodeResponse
from http_calls import HttpServer, serving_http
from servers import Server, free_ports, wait_until

#: Routes that need another server than one of vectors of texts.
OF_OTHER_SERVERS = {"/embed_all", "/embed_sparse", "/predict", "/classify", "/rerank", "/v1/rerank", "/v2/rerank"}


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http("-engine", "zeros", "-cors", "http://a.example, http://b.example") as server:
        yield server


def samples(server: HttpServer) -> dict[tuple[str, str], float]:
    """Returns the metrics by name and label values, in order of the label names."""
    reply = server.call("/metrics")
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/plain")
    found = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        for sample in family.samples:
            found[sample.name, ",".join(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def test_status_of_the_server(http_server: HttpServer) -> None:
    wait_until(lambda: http_server.call("/status/server").json["state"] == "ready", what="the server to be ready")
    status = http_server.call("/status/server").json
    assert status["status"] == 200
    assert status["server_version"] == "1.10.0"
    assert "num_data_request" in status["statistic"]


def test_status_of_the_client(http_server: HttpServer) -> None:
    status = http_server.call("/status/client").json
    assert status["status"] == 200
    assert status["port"] == http_server.server.port
    assert bytes(status["identity"]).isascii()
    assert status["connected"] is True


def test_health(http_server: HttpServer) -> None:
    assert http_server.call("/healthz").json == {"state": "alive", "status": 200}
    for path in ("/readyz", "/ping"):
        wait_until(lambda path=path: http_server.call(path).status == 200, what=path)  # type: ignore[misc]
        reply = http_server.call(path)
        assert (reply.status, reply.json["state"]) == (200, "ready")


def test_sagemaker(http_server: HttpServer) -> None:
    assert len(http_server.call("/invocations", {"texts": ["a", "b"]}).json["results"]) == 2
    assert len(http_server.call("/invocations", {"input": ["a", "b"]}).json["data"]) == 2
    assert len(http_server.call("/invocations", {"inputs": ["a", "b"]}).json) == 2
    raw = http_server.call("/invocations", {"texts": ["a", "b"]}, {"Accept": "application/octet-stream"})
    assert raw.headers["x-shape"] == "2,32"
    assert http_server.call("/invocations", {"data": 1}).status == 400


def test_metrics_count(http_server: HttpServer) -> None:
    before = samples(http_server)
    http_server.call("/encode", {"texts": ["hello world", "hello " * 50]})
    http_server.call("/encode", {"texts": []})
    http_server.call("/no/such/path")
    wanted = {
        ("bert_serving_requests_total", "data"): 1,
        ("bert_serving_sequences_total", ""): 2,
        ("bert_serving_tokens_total", ""): 4 + 25,
        ("bert_serving_truncated_texts_total", ""): 1,
        ("bert_serving_worker_sequences_total", "worker-0"): 2,
        ("bert_serving_http_requests_total", "200,/encode"): 1,
        ("bert_serving_http_requests_total", "400,/encode"): 1,
        ("bert_serving_http_requests_total", "404,other"): 1,
        ("bert_serving_http_request_duration_seconds_count", "/encode"): 2,
    }

    def grown() -> dict[tuple[str, str], float]:
        now = samples(http_server)
        return {name: now[name] - before.get(name, 0) for name in wanted}

    with contextlib.suppress(AssertionError):  # some counters are updated after the response is sent
        wait_until(lambda: grown() == wanted)
    assert grown() == wanted
    after = samples(http_server)
    assert after["bert_serving_up", ""] == 1
    assert after["bert_serving_ready", ""] == 1
    assert after["bert_serving_queue_sequences", ""] == 0


def test_metrics_are_exported_before_the_first_request(http_server: HttpServer) -> None:
    found = samples(http_server)
    assert ("bert_serving_http_requests_total", "200,/v1/embeddings") in found
    for kind in ("too_large", "encoding_failed", "internal", "invalid_request", "overloaded"):
        assert ("bert_serving_errors_total", kind) in found


def test_openapi_describes_exactly_the_routes(http_server: HttpServer) -> None:
    openapi = http_server.call("/openapi.json").json
    assert openapi["openapi"].startswith("3.1")
    routes = {label.partition(",")[2] for name, label in samples(http_server) if name.endswith("http_requests_total")}
    routes -= {"other", "/docs", "/openapi.json", "/dashboard", "/dashboard/", "/dashboard/<path:name>"}
    assert set(openapi["paths"]) == {route.replace("<path:name>", "{name}") for route in routes}


def test_openapi_examples_work(http_server: HttpServer) -> None:
    for path, item in http_server.call("/openapi.json").json["paths"].items():
        if "post" in item:
            example = item["post"]["requestBody"]["content"]["application/json"]["example"]
            assert http_server.call(path, example).status == (424 if path in OF_OTHER_SERVERS else 200), path
        elif "{" not in path:
            assert http_server.call(path).status == 200, path


@pytest.mark.parametrize(
    ("path", "body", "struct"),
    [
        ("/encode", {"texts": ["a"]}, EncodeResponse),
        ("/encode", {"texts": ["a"], "encoding_format": "base64"}, EncodeResponse),
        ("/encode", {"texts": []}, schemas.Error),
        ("/v1/embeddings", {"input": "a"}, schemas.EmbeddingsResponse),
        ("/v1/embeddings", {"input": []}, schemas.OpenAIError),
        ("/v1/models", None, schemas.ModelList),
        ("/v1/models/tiny", None, schemas.Model),
        ("/readyz", None, schemas.HealthState),
        ("/embed", {"inputs": "a"}, schemas.EmbedResponse),
        ("/embed", {"inputs": "a", "encoding_format": "base64"}, schemas.EmbedResponse),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}, schemas.SimilarityResponse),
        ("/tokenize", {"inputs": "a"}, schemas.TokenizeResponse),
        ("/decode", {"ids": [7]}, schemas.DecodeResponse),
        ("/info", None, schemas.Info),
        ("/embed", {}, schemas.TeiError),
    ],
)
def test_responses_match_their_schemas(http_server: HttpServer, path: str, body: Any, struct: Any) -> None:
    msgspec.json.decode(http_server.call(path, body).body, type=struct)


def test_docs_page_is_self_contained(http_server: HttpServer) -> None:
    assert http_server.call("/").headers["location"] == "docs"
    page = http_server.call("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.body.decode()
    assert "http://" not in text
    assert "https://" not in text
    assert "light dark" in text
    for path in ("/encode", "/v1/embeddings", "/readyz"):
        assert path in text


@pytest.mark.parametrize(("origin", "allowed"), [("http://a.example", True), ("http://c.example", False)])
def test_cors_allows_configured_origins_only(http_server: HttpServer, origin: str, allowed: bool) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked = http_server.call("/encode", None, headers, method="OPTIONS")
    called = http_server.call("/encode", {"texts": ["a"]}, {"Origin": origin})
    for reply in (asked, called):
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)


@pytest.fixture(scope="module")
def with_patterns() -> Iterator[HttpServer]:
    origins = "https://*.example.com, http://*.b.example:8080, http://[::1]:3000, https://c.example"
    with serving_http("-engine", "zeros", "-cors", origins) as server:
        yield server


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://foo.example.com", True),
        ("https://foo.bar.example.com", True),
        ("https://FOO.example.com", True),
        ("http://a.b.example:8080", True),
        ("http://[::1]:3000", True),
        ("https://c.example", True),
        ("https://example.com", False),
        ("https://xexample.com", False),
        ("https://xexample.com.evil.org", False),
        ("https://foo.example.com.evil.org", False),
        ("https://evil.org/.example.com", False),
        ("https://evil.org#.example.com", False),
        ("https://.example.com", False),
        ("https://foo.example.com:8443", False),
        ("http://foo.example.com", False),
        ("http://a.b.example:80800", False),
        ("http://a.b.example", False),
        ("http://[::1]:30001", False),
        ("https://c.example.evil.org", False),
        ("https://cxexample", False),
    ],
)
def test_wildcard_in_an_origin_matches_subdomains(with_patterns: HttpServer, origin: str, allowed: bool) -> None:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    asked = with_patterns.call("/encode", None, headers, method="OPTIONS")
    called = with_patterns.call("/encode", {"texts": ["a"]}, {"Origin": origin})
    for reply in (asked, called):
        assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)


@pytest.mark.parametrize(
    "value", ["https://*example.com", "https://a.*", "http://localhost:*", r"https://.*\.example\.com", "*://a.example"]
)
def test_unsupported_origin_pattern_fails_the_start(value: str) -> None:
    server = Server("-engine", "zeros", "-http_port", str(free_ports(1)[0]), "-cors", f"http://a.example,{value}")
    try:
        assert server.process.wait(60) == 2, server.log
        assert repr(value) in server.log
        assert "https://*.example.com" in server.log
        assert "Traceback" not in server.log
    finally:
        server.kill()


def test_requests_are_logged_with_verbose_only(http_server: HttpServer) -> None:
    assert "POST /encode" not in http_server.server.log
    with serving_http("-engine", "zeros", "-verbose") as server:
        server.call("/encode", {"texts": ["a"]})
        wait_until(lambda: "POST /encode 200" in server.server.log, what="the line in the log")
        server.call("/x%0A2026-01-01%20E:SUPERVISOR:forged%1b[31m")
        wait_until(lambda: "forged" in server.server.log, what="the line in the log")
        assert "\n2026-01-01 E:SUPERVISOR" not in server.server.log
        assert "\x1b[31m" not in server.server.log


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("", "it is empty"), ("a\nb\n", "exactly one line")],
    ids=["none", "empty", "two"],
)
def test_unreadable_token_fails_the_start(
    tmp_path_factory: pytest.TempPathFactory, content: str | None, words: str
) -> None:
    path = tmp_path_factory.mktemp("token") / "token"
    if content is not None:
        path.write_text(content)
    (port,) = free_ports(1)
    server = Server("-engine", "zeros", "-http_port", str(port), "-http_token_file", path)
    try:
        assert server.process.wait(60) == 3, server.log
        assert str(path) in server.log
        assert words in server.log
        assert "Traceback" not in server.log
    finally:
        server.kill()


def test_missing_http_library_fails_the_start_with_the_install_command(tmp_path: Path) -> None:
    (tmp_path / "flask.py").write_text("raise ModuleNotFoundError(\"No module named 'flask'\", name='flask')")
    (port,) = free_ports(1)
    server = Server("-engine", "zeros", "-http_port", str(port), env={"PYTHONPATH": str(tmp_path)})
    try:
        assert server.process.wait(60) == 3, server.log
        assert "pip install 'bert-serving-server[http]'" in server.log
        assert "Traceback" not in server.log
    finally:
        server.kill()
