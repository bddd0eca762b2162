"""Which model of a server gets an HTTP request without the field ``model``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.server.http.errors import WrongTask
from bert_serving.server.http.models import choose, naming_models


def model(name: str, task: str = "embed", *compared: str) -> Any:
    config, outputs = SimpleNamespace(task=task), compared or ("dense",)
    return SimpleNamespace(model_name=name, compared=compared, config=config, outputs=outputs, token_level=False)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/", "/invocations"])
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "reranker"),
        ({"by": None}, "reranker"),
        ({"by": "sparse"}, "splade"),
        ({"by": "multi"}, "colbert"),
        ({"by": ["multi"]}, "splade"),  # refused later
        ({"by": "dense"}, "splade"),  # refused later
        ({"model": "colbert", "by": "sparse"}, "colbert"),
    ],
)
def test_a_ranking_gets_the_first_model_that_fits(path: str, fields: dict[str, Any], name: str) -> None:
    models = [model("dense"), model("splade", "embed", "sparse"), model("colbert", "embed", "multi")]
    models.append(model("reranker", "rerank"))
    for each in models:
        each.models = models
    for values in (fields, {"parameters": fields}):  # some libraries put options there
        assert choose(models[0], {"query": "x", **values}, path).model_name == name


def test_an_error_of_one_of_several_models_names_what_each_has() -> None:
    models = [model("bge"), model("splade", "embed", "sparse"), model("reranker", "rerank")]
    for count, message in (
        (1, "no such vectors"),
        (
            3,
            r"model 'bge': no such vectors; .* one of bge \(dense\), splade \(sparse\), reranker \(-task rerank\)",
        ),
    ):
        models[0].models = models[:count]
        with pytest.raises(WrongTask, match=f"^{message}$"), naming_models(models[0]):
            raise WrongTask("no such vectors")


def test_a_ranking_by_vectors_that_no_model_has_gets_a_model_that_ranks() -> None:
    for models, name in (
        ([model("dense"), model("reranker", "rerank"), model("splade", "embed", "sparse")], "splade"),
        ([model("dense"), model("reranker", "rerank")], "reranker"),
        ([model("dense"), model("last")], "dense"),
    ):
        models[0].models = models
        assert choose(models[0], {"query": "x", "by": "multi"}, "/rerank").model_name == name
