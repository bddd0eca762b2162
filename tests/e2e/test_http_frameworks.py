"""Tests unmodified LangChain, LlamaIndex, Haystack and Chroma, configured as in ``docs/http.md``.

They are large, and no requirement of the other tests: ``make test-frameworks`` installs them apart.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from safetensors.numpy import load_file, save_file

from bert_serving.server.model.default import default_model_dir
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


@pytest.fixture(scope="module")
def normalized(expected: np.ndarray) -> np.ndarray:
    found: np.ndarray = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    return found


QUERY = "hello world"
DOCUMENTS = ["the quick brown fox", "hello", "world hello world"]


def write_scorer(folder: Path, num_labels: int) -> Path:
    """Writes the default model with a random head: reading the tiny one needs TensorFlow."""
    model = default_model_dir()
    assert model is not None
    source = Path(model)
    folder.mkdir()
    for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    values = json.loads((source / "config.json").read_text("utf-8"))
    labels = {str(index): f"label{index}" for index in range(num_labels)}
    values |= {"architectures": ["BertForSequenceClassification"], "id2label": labels}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    tensors = {f"bert.{name}": tensor for name, tensor in load_file(str(source / "model.safetensors")).items()}
    weights = np.random.default_rng(0).normal(size=(num_labels, values["hidden_size"]))
    tensors["classifier.weight"] = weights.astype(np.float32)
    tensors["classifier.bias"] = np.zeros(num_labels, np.float32)
    save_file(tensors, str(folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = write_scorer(tmp_path_factory.mktemp("reranker") / "model", 1)
    with serving_http("-task", "rerank", model_dir=folder) as server:
        yield server


@pytest.fixture(scope="module")
def relevance(reranker: HttpServer) -> dict[str, float]:
    ranks = reranker.call("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json
    return {DOCUMENTS[rank["index"]]: rank["score"] for rank in ranks}


def assert_ranked(found: list[tuple[str, Any]], relevance: dict[str, float], count: int = len(DOCUMENTS)) -> None:
    """Checks texts with their scores."""
    assert [text for text, _ in found] == list(relevance)[:count]
    np.testing.assert_allclose([score for _, score in found], list(relevance.values())[:count], atol=1e-5)


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


def test_langchain_with_infinity(http_server: HttpServer, expected: np.ndarray) -> None:
    package = pytest.importorskip("langchain_community.embeddings")
    embeddings = package.InfinityEmbeddings(model="bert", infinity_api_url=f"{http_server.url}/v1")
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-6)


def test_langchain_ranks_with_infinity_and_jina(
    reranker: HttpServer, relevance: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ask for three documents by default, also if there are fewer."""
    package = pytest.importorskip("langchain_community.document_compressors")
    client = pytest.importorskip("infinity_client").Client(base_url=reranker.url)
    infinity = package.InfinityRerank(client=client, model="bert")
    jina_module = pytest.importorskip("langchain_community.document_compressors.jina_rerank")
    monkeypatch.setattr(jina_module, "JINA_API_URL", f"{reranker.url}/v1/rerank")
    jina = package.JinaRerank(jina_api_key="anything")
    for ranker in (infinity, jina):
        found = ranker.rerank(DOCUMENTS, QUERY)
        assert_ranked([(DOCUMENTS[each["index"]], each["relevance_score"]) for each in found], relevance)
        assert [each["index"] for each in ranker.rerank(DOCUMENTS[:1], QUERY)] == [0]
    jina.session.close()
    client.get_httpx_client().close()


def test_infinity_client_classifies(tmp_path: Path) -> None:
    package = pytest.importorskip("infinity_client")
    classify = pytest.importorskip("infinity_client.api.default.classify")
    models = pytest.importorskip("infinity_client.models")
    with (
        serving_http("-task", "classify", model_dir=write_scorer(tmp_path / "model", 3)) as server,
        package.Client(base_url=server.url, raise_on_unexpected_status=True) as client,
    ):
        found = classify.sync(client=client, body=models.ClassifyInput(input_=TEXTS, model="any"))
        wanted = server.call("/classify", {"input": TEXTS}).json["data"]
    assert [[item.label for item in row] for row in found.data] == [[item["label"] for item in row] for row in wanted]
    scores = [[item.score for item in row] for row in found.data]
    np.testing.assert_allclose(scores, [[item["score"] for item in row] for row in wanted], atol=1e-6)


def test_infinity_client(http_server: HttpServer, reranker: HttpServer, expected: np.ndarray) -> None:
    package = pytest.importorskip("infinity_client")
    api = pytest.importorskip("infinity_client.api.default")
    models = pytest.importorskip("infinity_client.models")
    for name in ("embeddings", "rerank", "classify", "health"):
        pytest.importorskip(f"infinity_client.api.default.{name}")
    with package.Client(base_url=http_server.url, raise_on_unexpected_status=True) as client:
        body = models.OpenAIEmbeddingInputText(input_=TEXTS)
        found = api.embeddings.sync(client=client, body=body).data
        np.testing.assert_allclose([item.embedding for item in found], expected, atol=1e-6)
        assert api.health.sync(client=client)["unix"] > 0
        with pytest.raises(package.errors.UnexpectedStatus, match="-task embed") as caught:
            api.classify.sync(client=client, body=models.ClassifyInput(input_=TEXTS))
        assert caught.value.status_code == 424
    with package.Client(base_url=reranker.url, raise_on_unexpected_status=True) as client:
        body = models.RerankInput(query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=1)
        (best,) = api.rerank.sync(client=client, body=body).results
        assert best.document == DOCUMENTS[best.index]


def test_llama_index_with_text_embeddings_inference(http_server: HttpServer, normalized: np.ndarray) -> None:
    package = pytest.importorskip("llama_index.embeddings.text_embeddings_inference")
    embeddings = package.TextEmbeddingsInference(model_name="bert", base_url=http_server.url)
    np.testing.assert_allclose(embeddings.get_text_embedding_batch(TEXTS), normalized, atol=1e-6)
    np.testing.assert_allclose(embeddings.get_query_embedding(TEXTS[0]), normalized[0], atol=1e-6)


def test_llama_index_ranks(reranker: HttpServer, relevance: dict[str, float]) -> None:
    package = pytest.importorskip("llama_index.postprocessor.tei_rerank")
    schema = pytest.importorskip("llama_index.core.schema")
    nodes = [schema.NodeWithScore(node=schema.TextNode(text=text)) for text in DOCUMENTS]
    ranker = package.TextEmbeddingInference(base_url=reranker.url, top_n=2)
    found = ranker.postprocess_nodes(nodes, query_str=QUERY)
    assert_ranked([(node.node.get_content(), node.score) for node in found], relevance, 2)


def test_haystack(http_server: HttpServer, expected: np.ndarray) -> None:
    """Its embedders ask for vectors that are not normalized, unless ``normalize`` is set."""
    package = pytest.importorskip("haystack_integrations.components.embedders.huggingface_api")
    haystack = pytest.importorskip("haystack")
    settings = {"api_type": "text_embeddings_inference", "api_params": {"url": http_server.url}, "normalize": True}
    found = package.HuggingFaceAPITextEmbedder(**settings).run(text=TEXTS[0])["embedding"]
    np.testing.assert_allclose(found, expected[0], atol=1e-6)
    documents = [haystack.Document(content=text) for text in TEXTS]
    found = package.HuggingFaceAPIDocumentEmbedder(**settings).run(documents=documents)["documents"]
    np.testing.assert_allclose([document.embedding for document in found], expected, atol=1e-6)


def test_haystack_ranks(reranker: HttpServer, relevance: dict[str, float]) -> None:
    package = pytest.importorskip("haystack_integrations.components.rankers.huggingface_api")
    haystack = pytest.importorskip("haystack")
    ranker = package.HuggingFaceTEIRanker(url=reranker.url, top_k=2)
    documents = [haystack.Document(content=text) for text in DOCUMENTS]
    found = ranker.run(query=QUERY, documents=documents)["documents"]
    assert_ranked([(document.content, document.score) for document in found], relevance, 2)


def test_chroma(http_server: HttpServer, normalized: np.ndarray) -> None:
    package = pytest.importorskip("chromadb.utils.embedding_functions")
    embed = package.HuggingFaceEmbeddingServer(url=f"{http_server.url}/embed")
    np.testing.assert_allclose(embed(TEXTS), normalized, atol=1e-6)
    embed._session.close()
