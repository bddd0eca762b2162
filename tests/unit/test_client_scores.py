"""``classify()``, ``rerank()`` and pairs: their results, what is sent, and which servers are refused."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client import AsyncBertClient, BertClient, Classification, Ranked, TaskError
from bert_serving.client._scores import ServerTask, classifications, query_pairs, ranking
from bert_serving.client._validation import validate_texts
from bert_serving.client.errors import InputTypeError, InputValueError, OptionError, ReplyError
from bert_serving.client.protocol import SCORES_VERSION
from fake_server import CONFIG, run_fake_server

ORIGINAL = {name: value for name, value in CONFIG.items() if name != "protocol_version"}
EARLIER = {**CONFIG, "protocol_version": SCORES_VERSION - 1}
EMBED = {**CONFIG, "task": "embed", "labels": None}
PAIRS = [("a", ""), ("", "b\nc ||| d")]


@given(st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=20), st.integers(1, 20))
def test_ranks_are_stable_and_the_best_come_first(scores: list[float], top_n: int) -> None:
    expected = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_n]
    for dtype in (np.float32, np.float16):
        found = ranking(np.array(scores, dtype)[:, None], top_n)
        assert found == [Ranked(index, scores[index]) for index in expected]
    assert len(ranking(np.array(scores, np.float32)[:, None], None)) == len(scores)


def test_a_classification_has_the_best_label_and_all_scores() -> None:
    found = classifications(np.array([[0.25, 0.5, 0.5], [-1, -3, -2]], np.float32), ("a", "b", "c"))
    assert found == [
        Classification("b", 0.5, {"a": 0.25, "b": 0.5, "c": 0.5}),
        Classification("a", -1, {"a": -1, "b": -3, "c": -2}),
    ]
    assert all(isinstance(score, float) for each in found for score in each.scores.values())


def test_scores_of_another_model_are_refused() -> None:
    task = ServerTask.of({"task": "classify", "labels": ["a", "b"]})
    task.check(np.zeros((3, 2), np.float32))
    for shape in ((3, 1), (3, 2, 2), (3,)):
        with pytest.raises(ReplyError, match="the server has 2 labels: it was restarted"):
            task.check(np.zeros(shape, np.float32))


@pytest.mark.parametrize("top_n", [-1, 0, 3, 2.5, "1"])
def test_a_wrong_number_of_documents_is_refused(top_n: Any) -> None:
    with pytest.raises(OptionError, match="top_n"):
        query_pairs("a", ["b", "c"], top_n)


def test_pairs_are_tuples_of_two_texts() -> None:
    assert validate_texts(PAIRS) == PAIRS
    assert validate_texts(zip(["a"], ["b"], strict=True)) == [("a", "b")]
    assert query_pairs("a", ("b", ""), 2) == [("a", "b"), ("a", "")]
    for texts, error, message in (
        ([("a", "b"), "c"], InputTypeError, r"texts\[0\] is a pair, but texts\[1\] is str"),
        ([("a", "b"), ["c", "d"]], InputTypeError, r"texts\[1\] is list .*tuples of two texts"),
        ([("a",)], InputValueError, r"texts\[0\] is a tuple of 1 .*use is_tokenized=True"),
        ([("a", "b"), ("a", "b", "c")], InputValueError, r"texts\[1\] is a tuple of 3"),
        ([("a", None)], InputTypeError, r"texts\[0\]\[1\] is NoneType .*a missing value"),
        (["c", ("a", "b")], InputTypeError, r"texts\[1\] is tuple .*pass pairs only, or texts only"),
        ([["a", "b"]], InputTypeError, r"is_tokenized=True for token lists, or a tuple of two texts for a pair"),
    ):
        with pytest.raises(error, match=message):
            validate_texts(texts)


def test_each_way_to_encode_says_that_it_sends_pairs() -> None:
    async def with_asyncio(ports: dict[str, int]) -> None:
        async with AsyncBertClient(**ports, timeout=60_000) as client:
            await client.encode(PAIRS, truncate=False)
            [_ async for _ in client.encode_async([PAIRS, ["a"]])]

    with run_fake_server() as server:
        with BertClient(**server.ports, timeout=60_000) as client:
            client.encode(PAIRS, raw_scores=True)
            client.encode(PAIRS, blocking=False)
            client.fetch_all()
            list(client.encode_async(iter([PAIRS, ["a"]]), truncate=False))
        asyncio.run(with_asyncio(server.ports))
        sent = [(request.texts, json.loads(request.options)) for request in server.received]
    pairs = [list(pair) for pair in PAIRS]
    assert [options.get("pairs") for _, options in sent] == [True, True, True, None, True, True, None]
    assert [options.get("truncate") for _, options in sent] == [None, None, False, False, False, None, None]
    assert sent[0][1]["raw_scores"]
    assert all(texts == (pairs if options.get("pairs") else ["a"]) for texts, options in sent)


@pytest.mark.parametrize("config", [ORIGINAL, EARLIER], ids=["original", "earlier"])
@pytest.mark.parametrize("checks", [True, False])
def test_an_older_server_gets_no_pairs(config: dict[str, Any], checks: bool) -> None:
    with run_fake_server(config=config) as server:
        with BertClient(**server.ports, timeout=60_000, ignore_all_checks=not checks) as client:
            for call in (
                lambda: client.encode(PAIRS),
                lambda: client.encode(PAIRS, blocking=False),
                lambda: list(client.encode_async([PAIRS])),
                lambda: client.encode(["a"], raw_scores=True),
            ):
                with pytest.raises(OptionError, match=f"need a server with protocol_version {SCORES_VERSION}, but"):
                    call()
            with pytest.raises(TaskError, match="this server is an older one, which gives vectors"):
                client.rerank("a", ["b"])

        async def with_asyncio() -> None:
            async with AsyncBertClient(**server.ports, timeout=60_000, ignore_all_checks=not checks) as client:
                with pytest.raises(OptionError, match="pairs: such options need"):
                    await client.encode(PAIRS)
                with pytest.raises(OptionError, match="pairs: such options need"):
                    [_ async for _ in client.encode_async([PAIRS])]

        asyncio.run(with_asyncio())
        assert server.received == []


@pytest.mark.parametrize("checks", [True, False])
def test_a_server_of_vectors_is_refused(checks: bool) -> None:
    with run_fake_server(config=EMBED) as server:
        with BertClient(**server.ports, timeout=60_000, ignore_all_checks=not checks) as client:
            with pytest.raises(TaskError, match=r"rerank\(\) needs a cross-encoder, but this server has -task embed;"):
                client.rerank("a", ["b"])
            with pytest.raises(TaskError, match=r"start one with -task classify"):
                client.classify(["a"])
        assert server.received == []
