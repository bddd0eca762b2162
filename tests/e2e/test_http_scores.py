"""Tests the routes of rerankers and classifiers with raw requests, and with the unmodified packages of their APIs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from bert_serving.server.http import score_schemas as schemas
from http_calls import HttpServer, serving_http
from model_folders import write_classifier

QUERY = "hello world"
DOCUMENTS = ["the quick brown fox", "hello", "world hello world", "fox", "hello"]
LONG = "hello " * 600


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = write_classifier(tmp_path_factory.mktemp("reranker") / "reranker")
    with serving_http("-task", "rerank", "-http_max_body", "100000", model_dir=folder) as server:
        yield server


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    folder = write_classifier(tmp_path_factory.mktemp("classifier") / "classifier", 3)
    with serving_http("-task", "classify", model_dir=folder) as server:
        yield server


@pytest.fixture(scope="module")
def relevance(reranker: HttpServer) -> np.ndarray:
    """The score of each document: the sigmoid of its logit, as the model's own function is."""
    texts = [f"{QUERY} ||| {document}" for document in DOCUMENTS]
    return np.array(reranker.call("/encode", {"texts": texts}).json["results"])[:, 0]


def ranking(scores: np.ndarray) -> list[int]:
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order


def scores_of(ranks: Any, key: str = "relevance_score") -> dict[int, float]:
    return {rank["index"]: rank[key] for rank in ranks}


def logits(probabilities: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.log(probabilities / (1 - probabilities))
    return found


@pytest.mark.parametrize("path", ["/rerank", "/", "/invocations"])
def test_rerank_of_text_embeddings_inference(reranker: HttpServer, relevance: np.ndarray, path: str) -> None:
    reply = reranker.call(path, {"query": QUERY, "texts": DOCUMENTS})
    assert reply.status == 200
    assert [rank["index"] for rank in reply.json] == ranking(relevance)
    assert all(set(rank) == {"index", "score"} for rank in reply.json)
    np.testing.assert_allclose([rank["score"] for rank in reply.json], relevance[ranking(relevance)], atol=1e-5)
    raw = reranker.call(path, {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True, "return_text": True, "top_n": 2})
    assert [rank["index"] for rank in raw.json] == ranking(relevance)[:2]
    assert [rank["text"] for rank in raw.json] == [DOCUMENTS[index] for index in ranking(relevance)[:2]]
    np.testing.assert_allclose(
        [rank["score"] for rank in raw.json], logits(relevance)[ranking(relevance)[:2]], atol=1e-3
    )


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/v2//rerank/"])
def test_rerank_of_documents(reranker: HttpServer, relevance: np.ndarray, path: str) -> None:
    body = {"model": "any", "query": QUERY, "documents": DOCUMENTS}
    reply = reranker.call(path, body)
    found = msgspec.json.decode(reply.body, type=schemas.RerankResponse)
    assert [rank.index for rank in found.results] == ranking(relevance)
    assert found.model == "any"
    assert found.usage.total_tokens > 20
    np.testing.assert_allclose(
        [rank.relevance_score for rank in found.results], relevance[ranking(relevance)], atol=1e-5
    )
    best = reranker.call(path, {**body, "top_n": 1, "return_documents": True, "model": None}).json
    document = DOCUMENTS[ranking(relevance)[0]]
    assert [rank["document"] for rank in best["results"]] == [document if path == "/rerank" else {"text": document}]
    assert best["model"] == "reranker"
    objects = [{"text": document} for document in DOCUMENTS]
    again = reranker.call(path, {**body, "documents": objects, "query": {"text": QUERY}, "top_n": 99}).json
    assert scores_of(again["results"]) == scores_of(reply.json["results"]), "top_n is an upper limit"


def test_texts_of_pairs_may_have_any_characters(reranker: HttpServer) -> None:
    documents = ["a ||| b", "two\nlines", "", "\ud800", "x" * 300]
    reply = reranker.call("/rerank", {"query": "a ||| b\nc", "documents": documents, "return_documents": True})
    assert sorted(rank["index"] for rank in reply.json["results"]) == [0, 1, 2, 3, 4]
    assert {rank["document"] for rank in reply.json["results"]} == {"a ||| b", "two\nlines", "", "?", "x" * 300}


def test_many_documents(reranker: HttpServer, relevance: np.ndarray) -> None:
    ranks = reranker.call("/rerank", {"query": QUERY, "texts": DOCUMENTS * 800}).json
    found = scores_of(ranks, "score")
    assert len(found) == 4000
    np.testing.assert_allclose([found[index] for index in range(4000)], np.tile(relevance, 800), atol=1e-5)
    equal = [rank["index"] for rank in ranks if rank["score"] == ranks[0]["score"]]
    assert equal == sorted(equal), "documents with equal scores keep their order"
    reply = reranker.call("/rerank", {"query": "hello " * 100, "texts": DOCUMENTS * 800})
    assert (reply.status, reply.json["error_type"]) == (413, "Validation")
    assert "the query is sent with each of 4000 texts" in reply.json["error"]


def test_classify(classifier: HttpServer) -> None:
    texts = ["hello world", "a ||| b", "fox"]
    wanted = [classifier.call("/encode", {"texts": [text]}).json["results"][0] for text in (texts[0], texts[2])]
    reply = classifier.call("/classify", {"input": texts, "model": "any"})
    found = msgspec.json.decode(reply.body, type=schemas.ClassifyResponse)
    assert [len(row) for row in found.data] == [3, 3, 3]
    for row, scores in zip((found.data[0], found.data[2]), wanted, strict=True):
        assert [item.label for item in row] == [f"label{index}" for index in ranking(np.array(scores))]
        np.testing.assert_allclose([item.score for item in row], sorted(scores, reverse=True), atol=1e-6)
    raw = classifier.call("/classify", {"input": texts[0], "raw_scores": True}).json["data"][0]
    powers = np.exp([item["score"] for item in raw])
    np.testing.assert_allclose(powers / powers.sum(), sorted(wanted[0], reverse=True), atol=1e-5)


def test_predict(classifier: HttpServer) -> None:
    def predict(inputs: Any, **fields: Any) -> Any:
        reply = classifier.call("/predict", {"inputs": inputs, **fields})
        assert reply.status == 200, reply.body
        return reply.json

    single, other = predict("hello"), predict("world")
    assert [set(item) for item in single] == [{"label", "score"}] * 3
    assert predict(["hello"]) == single, "one input gives a flat list"
    pair = predict(["hello", "world"])
    assert [item["label"] for item in pair]
    encoded = classifier.call("/encode", {"texts": ["hello ||| world"]}).json["results"][0]
    np.testing.assert_allclose([item["score"] for item in pair], sorted(encoded, reverse=True), atol=1e-6)
    mixed = predict([["hello", "world"], ["hello"], ["world"], ["hello", "world"]])
    texts = predict([["hello"], ["world"]])  # in a batch of another size, the last bits differ
    for row, wanted in zip([*mixed, *texts], (pair, single, other, pair, single, other), strict=True):
        assert [item["label"] for item in row] == [item["label"] for item in wanted]
        np.testing.assert_allclose([item["score"] for item in row], [item["score"] for item in wanted], atol=1e-6)
    assert predict(["hello ||| world"]) != pair, "a single text is no pair"
    raw = predict("hello", raw_scores=True)
    assert predict("hello", function_to_apply="none") == raw
    assert predict("hello", parameters={"function_to_apply": "softmax", "top_k": 1})[0]["label"] == single[0]["label"]
    sigmoids = predict("hello", function_to_apply="sigmoid")
    np.testing.assert_allclose(
        logits(np.array([item["score"] for item in sigmoids])), [item["score"] for item in raw], atol=1e-4
    )
    for path in ("/", "/invocations"):
        assert classifier.call(path, {"inputs": "hello"}).json == single


def test_pairs_and_raw_scores_of_encode(classifier: HttpServer) -> None:
    def encode(texts: Any, **fields: Any) -> np.ndarray:
        reply = classifier.call("/encode", {"texts": texts, **fields})
        assert reply.status == 200, reply.body
        return np.array(reply.json["results"])

    bars = encode(["hello ||| world"])
    np.testing.assert_allclose(encode([["hello", "world"]], pairs=True), bars, atol=1e-6)
    assert np.abs(encode(["hello ||| world"], pairs=False) - bars).max() > 1e-3
    powers = np.exp(encode([["hello", "world"]], pairs="true", raw_scores=True))
    np.testing.assert_allclose(powers / powers.sum(), bars, atol=1e-5)
    reply = classifier.call("/encode", {"texts": [["hello", "a ||| b"]], "pairs": True, "show_tokens": True})
    assert reply.json["tokens"][0].count("[SEP]") == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"texts": ["a"], "pairs": True}, "item 0 of 'texts'"),
        ({"texts": [["a", "b"], ["a", "b", "c"]], "pairs": True}, "item 1 of 'texts'"),
        ({"texts": [], "pairs": True}, "an empty list"),
        ({"texts": [["a", "b"]], "pairs": True, "is_tokenized": True}, "exclude each other"),
        ({"texts": [["a", "b"]], "pairs": 3}, "'pairs' must be true or false"),
        ({"texts": [["a", "b"]]}, "texts[0]"),
    ],
)
def test_invalid_pairs_are_explained(classifier: HttpServer, fields: Any, words: str) -> None:
    reply = classifier.call("/encode", fields)
    assert (reply.status, words in reply.json["description"]) == (400, True), reply.body


def test_huggingface_hub(classifier: HttpServer) -> None:
    """The package takes the first item of the response, which is the best label in TEI's flat list."""
    client = InferenceClient(classifier.url, timeout=60)
    whole = classifier.call("/predict", {"inputs": "hello"}).json
    assert client.text_classification("hello").label == whole[0]["label"]


def test_scores_are_those_of_the_zeromq_client(reranker: HttpServer, classifier: HttpServer) -> None:
    with reranker.zmq_client() as client:
        ranked = client.rerank(QUERY, DOCUMENTS)
    ranks = reranker.call("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json
    assert [rank["index"] for rank in ranks] == [rank.index for rank in ranked]
    np.testing.assert_allclose([rank["score"] for rank in ranks], [rank.score for rank in ranked], atol=1e-6)
    with classifier.zmq_client() as client:
        classified = client.classify(["hello"])
    predictions = classifier.call("/predict", {"inputs": "hello"}).json
    assert predictions[0]["label"] == classified[0].label
    found = {item["label"]: item["score"] for item in predictions}
    assert found == pytest.approx(classified[0].scores, abs=1e-6)


def test_cohere(reranker: HttpServer, relevance: np.ndarray) -> None:
    package, httpx = pytest.importorskip("cohere"), pytest.importorskip("httpx")
    with httpx.Client(timeout=60) as connections:
        settings = {"api_key": "anything", "base_url": reranker.url, "httpx_client": connections}
        for client in (package.ClientV2(**settings), package.Client(**settings)):
            answer = client.rerank(model="any", query=QUERY, documents=DOCUMENTS, top_n=3)
            assert [result.index for result in answer.results] == ranking(relevance)[:3]
            found = [result.relevance_score for result in answer.results]
            np.testing.assert_allclose(found, relevance[ranking(relevance)[:3]], atol=1e-5)
            assert answer.id
            with pytest.raises(package.errors.BadRequestError, match="'documents' is an empty list"):
                client.rerank(model="any", query=QUERY, documents=[])
        objects = [{"text": document} for document in DOCUMENTS]
        answer = client.rerank(query=QUERY, documents=objects, return_documents=True)
        assert [result.document.text for result in answer.results] == [DOCUMENTS[index] for index in ranking(relevance)]


def test_info_names_the_kind_of_the_model(classifier: HttpServer, reranker: HttpServer) -> None:
    kind = classifier.call("/info").json["model_type"]["classifier"]
    assert kind["id2label"] == {"0": "label0", "1": "label1", "2": "label2"}
    assert kind["label2id"] == {"label0": 0, "label1": 1, "label2": 2}
    info = reranker.call("/info").json
    assert list(info["model_type"]) == ["reranker"]
    assert info["max_input_length"] > 25, "the length is that of the model"


WRONG = [
    ("/rerank", {"query": "a", "texts": ["b"]}),
    ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ("/v2/rerank", {"query": "a", "documents": ["b"]}),
    ("/predict", {"inputs": "a"}),
    ("/classify", {"input": "a"}),
    ("/embed", {"inputs": "a"}),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}),
    ("/embed_all", {"inputs": "a"}),
    ("/v1/embeddings", {"input": "a"}),
]


def message_of(reply: Any) -> str:
    error = reply.json.get("error", reply.json)
    return str(error if isinstance(error, str) else error["message"])


@pytest.mark.parametrize(("path", "body"), WRONG)
def test_a_route_for_another_kind_of_model_names_the_task(
    reranker: HttpServer, classifier: HttpServer, path: str, body: Any
) -> None:
    for server, task in ((reranker, "rerank"), (classifier, "classify")):
        reply = server.call(path, body)
        if (task == "rerank") == ("rerank" in path) and (task == "classify") == (path in ("/predict", "/classify")):
            assert reply.status == 200, reply.body
        else:
            assert reply.status == 424
            assert f"this server has -task {task}" in message_of(reply)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/rerank", {}, 422, "'query' is missing"),
        ("/rerank", {"query": "a"}, 422, "'texts' is missing"),
        ("/rerank", {"query": " ", "texts": ["a"]}, 422, "'query' is blank"),
        ("/rerank", {"query": 1, "texts": ["a"]}, 422, "received 1"),
        ("/rerank", {"query": "a", "texts": []}, 400, "empty list"),
        ("/rerank", {"query": "a", "texts": ["a", 2]}, 422, "item 1 of 'texts'"),
        ("/rerank", {"query": "a", "texts": ["a"], "documents": ["a"]}, 422, "only one of them"),
        ("/rerank", {"query": "a", "texts": ["a"], "top_n": 2}, 422, "'top_n' is 2, but there are 1 texts"),
        ("/rerank", {"query": "a", "texts": ["a"], "top_n": 0}, 422, "at least 1"),
        ("/rerank", {"query": "a", "texts": ["a"], "raw_scores": 3}, 422, "'raw_scores'"),
        ("/rerank", {"query": "a", "texts": ["a"], "truncation_direction": "left"}, 422, "at their end"),
        ("/rerank", {"query": "a", "texts": ["a"], "normalize": True}, 422, "'normalize'"),
        ("/rerank", {"query": "a", "texts": ["a", LONG], "truncate": False}, 413, "query and text 1 has"),
        ("/v1/rerank", {"query": "a", "documents": ["a", LONG], "truncate": False}, 413, "query and document 1 has"),
        ("/rerank", {"query": "a", "documents": []}, 400, "empty list"),
        ("/v1/rerank", {"query": "a", "documents": []}, 400, "empty list"),
        ("/v1/rerank", {"query": "a", "documents": "b"}, 400, "must be a list of texts"),
        ("/v1/rerank", {"query": "a", "documents": [{"title": "b"}]}, 400, "an object with a 'text'"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "max_chunks_per_doc": 3}, 400, "'max_chunks_per_doc'"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "rank_fields": ["title"]}, 400, "'rank_fields'"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "max_tokens_per_doc": 9}, 400, "'max_tokens_per_doc'"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "top_n": True}, 400, "at least 1"),
        ("/v2/rerank", {"query": "a", "documents": ["b"], "model": 3}, 400, "'model' must be a name"),
    ],
)
def test_invalid_rankings_are_explained(reranker: HttpServer, path: str, body: Any, status: int, words: str) -> None:
    reply = reranker.call(path, body)
    assert (reply.status, words in message_of(reply)) == (status, True), reply.body
    shapes = {"/rerank": {"error", "error_type"}, "/v1/rerank": {"error"}, "/v2/rerank": {"message"}}
    assert set(reply.json) == shapes[path]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/predict", {}, 422, "'inputs' is missing"),
        ("/predict", {"inputs": []}, 400, "empty list"),
        ("/predict", {"inputs": ["a", "b", "c"]}, 422, '[["a"], ["b"]]'),
        ("/predict", {"inputs": [["a"], "b"]}, 422, "item 1 of 'inputs'"),
        ("/predict", {"inputs": [["a", "b", "c"]]}, 422, "item 0 of 'inputs'"),
        ("/predict", {"inputs": 3}, 422, "received 3"),
        ("/predict", {"inputs": "a", "top_k": 0}, 422, "'top_k'"),
        ("/predict", {"inputs": "a", "function_to_apply": "tanh"}, 422, "sigmoid, softmax or none"),
        ("/predict", {"inputs": "a", "function_to_apply": "none", "raw_scores": True}, 422, "exclude each other"),
        ("/predict", {"inputs": ["a", LONG], "truncate": False}, 413, "pair 0 has"),
        ("/predict", {"inputs": [["a"], ["b"], ["a", LONG]], "truncate": False}, 413, "pair 2 has"),
        ("/predict", {"inputs": [["a"], [" "]]}, 422, "texts[1]"),
        ("/classify", {}, 400, "'input' is missing"),
        ("/classify", {"input": [["a", "b"]]}, 400, "item 0"),
        ("/classify", {"input": "a", "dimensions": 3}, 400, "'dimensions'"),
    ],
)
def test_invalid_inputs_of_a_classifier_are_explained(
    classifier: HttpServer, path: str, body: Any, status: int, words: str
) -> None:
    reply = classifier.call(path, body)
    assert (reply.status, words in message_of(reply)) == (status, True), reply.body
    assert set(reply.json) == ({"error", "error_type"} if path == "/predict" else {"error"})


def test_examples_of_the_description_work(reranker: HttpServer, classifier: HttpServer) -> None:
    paths = reranker.call("/openapi.json").json["paths"]
    for server, routes in (
        (reranker, ("/rerank", "/v1/rerank", "/v2/rerank")),
        (classifier, ("/predict", "/classify")),
    ):
        for path in routes:
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            assert server.call(path, example).status == 200, path
    msgspec.json.decode(reranker.call("/rerank", {"query": "a", "texts": ["b"]}).body, type=schemas.TeiRerankResponse)
    for inputs in ("a", [["a"], ["b"]]):
        msgspec.json.decode(classifier.call("/predict", {"inputs": inputs}).body, type=schemas.PredictResponse)
