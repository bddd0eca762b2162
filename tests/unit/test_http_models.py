"""Which model of a server gets an HTTP request without the field ``model``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.server.http.models import choose


def model(name: str, task: str = "embed", *compared: str) -> Any:
    return SimpleNamespace(model_name=name, compared=compared, config=SimpleNamespace(task=task))


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank", "/", "/invocations"])
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "reranker"),
        ({"by": None}, "reranker"),
        ({"by": "sparse"}, "splade"),
        ({"by": "multi"}, "colbert"),
        ({"by": ["multi"]}, "dense"),  # refused later
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
