"""The relevance of documents by their sparse vectors and by the vectors of their tokens."""

from __future__ import annotations

import numpy as np
import pytest

from bert_serving.client import _output_scores, max_sim
from bert_serving.client._output_scores import max_sims, require_compared, roles_of
from bert_serving.client._scores import ServerTask
from bert_serving.client.errors import OptionError, TaskError


def test_max_sim_sums_the_best_product_of_each_token() -> None:
    random = np.random.default_rng(1)
    query, document = (random.normal(size=(size, 4)).astype(np.float16) for size in (3, 5))
    products = [[float(np.dot(a.astype(float), b.astype(float))) for b in document] for a in query]
    assert max_sim(query, document) == pytest.approx(sum(map(max, products)), abs=1e-3)
    assert max_sim(query, document[:0]) == 0
    assert max_sim(query[:0], document) == 0


def test_max_sim_of_long_texts_is_computed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    query, document = (random.normal(size=(size, 4)).astype(np.float32) for size in (7, 5))
    whole = max_sim(query, document)
    for limit in (1, 10, 34):
        monkeypatch.setattr(_output_scores, "_MAX_PRODUCTS", limit)
        assert max_sim(query, document) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("limit", [1, 20, 50, 1 << 18])
def test_scores_of_many_documents_are_those_of_each(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_output_scores, "_MAX_PRODUCTS", limit)
    random = np.random.default_rng(3)
    query = random.normal(size=(3, 4)).astype(np.float32)
    sizes = [0, 1, 5, 0, 30, 2, 2, 6, 0]
    documents = [random.normal(size=(size, 4)).astype(np.float32) for size in sizes]
    expected = [max_sim(query, document) for document in documents]
    assert max_sims(query, documents) == pytest.approx(expected, rel=1e-6)
    assert max_sims(query[:0], documents) == [0] * len(sizes)
    assert max_sims(query, []) == []


def test_queries_and_documents_have_their_prompts() -> None:
    named = {"outputs": ["multi"], "truncate": True, "pairs": False}
    assert roles_of("multi", ("query", "document"), True) == [
        {**named, "prompt_name": "query"},
        {**named, "prompt_name": "document"},
    ]
    assert roles_of("multi", ("query",), True)[1]["prompt_name"] is None
    with pytest.raises(OptionError, match="by must be one of 'sparse', 'multi', or None, but is 'dense'"):
        require_compared("dense")


def test_a_server_without_the_task_names_what_it_can_compare() -> None:
    for outputs, remedy in ((("dense", "sparse", "multi"), r"pass by='multi'"), (("dense",), "use encode")):
        task = ServerTask.of({"task": "embed", "outputs": list(outputs), "prompts": ["query"]})
        assert task.prompts == ("query",)
        with pytest.raises(TaskError, match=remedy):
            task.require("rerank")


def test_a_model_without_the_task_names_the_models_of_its_server() -> None:
    task = ServerTask.of({"task": "rerank", "models": ["bge", "rerank", "cls"]})
    for method in (task.require_vectors, lambda: task.require("classify")):
        with pytest.raises(
            TaskError, match=r"but this model of the server has -task rerank.* one of bge, rerank, cls$"
        ):
            method()
