"""Tests unmodified LangChain and LlamaIndex with ``/v1``, configured as in ``docs/http.md``.

They are large, and no requirement of the other tests: ``make test-frameworks`` installs them apart.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import openai
import pytest

from http_calls import HttpServer, serving_http

TEXTS = ["hello world", "the quick brown fox", "a ||| b"]


@pytest.fixture(scope="module")
def http_server() -> Iterator[HttpServer]:
    with serving_http(model_dir=None) as server:  # the default model, which needs no TensorFlow
        yield server


@pytest.fixture(scope="module")
def expected(http_server: HttpServer) -> np.ndarray:
    with http_server.zmq_client() as client:
        return np.asarray(client.encode([text.replace("||| ", "|||\n") for text in TEXTS]))  # no pair


def test_langchain(http_server: HttpServer, expected: np.ndarray) -> None:
    package = pytest.importorskip("langchain_openai")
    embeddings = package.OpenAIEmbeddings(
        base_url=f"{http_server.url}/v1", api_key="anything", model="bert", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=1e-6)


def test_langchain_with_ids_of_tiktoken(http_server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain sends token ids of OpenAI by default. A fake replaces tiktoken, which needs a download."""
    package = pytest.importorskip("langchain_openai")
    tiktoken = pytest.importorskip("tiktoken")

    class Encoding:
        def encode(self, text: str, **kwargs: object) -> list[int]:
            return [5 + len(word) for word in text.split()]

        encode_ordinary = encode

    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda name: Encoding())
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Encoding())
    embeddings = package.OpenAIEmbeddings(base_url=f"{http_server.url}/v1", api_key="anything")
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_documents(TEXTS)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        embeddings.embed_query(TEXTS[0])


def test_llama_index(http_server: HttpServer, expected: np.ndarray) -> None:
    package = pytest.importorskip("llama_index.embeddings.openai")
    embeddings = package.OpenAIEmbedding(api_base=f"{http_server.url}/v1", api_key="anything", model_name="bert")
    np.testing.assert_allclose(embeddings.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(embeddings.get_query_embedding(TEXTS[0]), expected[0], atol=1e-6)
