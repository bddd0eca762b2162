"""The relevance of documents by their sparse vectors and by the vectors of their tokens."""

from __future__ import annotations

import numpy as np
import pytest

from bert_serving.client import _output_scores, max_sim
from bert_serving.client._output_scores import require_compared, roles_of
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
