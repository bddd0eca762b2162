"""Tests the canonical form of paths, and which requests need no token."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.http.paths import canonical_path, is_public


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        ("/", "/"),
        ("//", "/"),
        ("", "/"),
        ("/encode", "/encode"),
        ("/encode/", "/encode"),
        ("//v1///embeddings//", "/v1/embeddings"),
        ("/embeddings", "/v1/embeddings"),
        ("/embeddings/", "/v1/embeddings"),
        ("/dashboard", "/dashboard"),
        ("/dashboard/", "/dashboard/"),
        ("//dashboard//app.js", "/dashboard/app.js"),
        ("/docs/", "/docs/"),
    ],
)
def test_canonical_path(path: str, canonical: str) -> None:
    assert canonical_path(path) == canonical


@given(st.text(alphabet="/adeo", max_size=20))
def test_a_canonical_path_stays_the_same_and_has_no_doubled_slash(path: str) -> None:
    canonical = canonical_path(path)
    assert canonical_path(canonical) == canonical
    assert "//" not in canonical


@given(st.sampled_from(["POST", "PUT", "PATCH", "DELETE", "TRACE"]), st.text(alphabet="/adeo", max_size=20))
def test_no_request_that_may_change_something_is_public(method: str, path: str) -> None:
    for known in ("/", "/healthz", "/docs", "/dashboard/", path):
        assert not is_public(method, known)


def test_pages_and_health_are_public() -> None:
    for path in ("/", "/healthz", "/readyz", "/ping", "/docs", "/openapi.json", "/dashboard", "/dashboard/app.js"):
        assert is_public("GET", path)
        assert is_public("HEAD", path)
    for path in ("/metrics", "/status/server", "/v1/models", "/dashboards", "/docs/"):
        assert not is_public("GET", path)
    assert is_public("OPTIONS", "/encode")
