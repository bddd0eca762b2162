"""Errors about one text of a call name its part in it: a query, a document, a side of ``similarity``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.client import BertClient, InputValueError, RateLimitedError, TooLargeError
from bert_serving.client.errors import server_error
from bert_serving.client.text_names import naming_texts, offset_note, with_names
from fake_server import CONFIG, run_fake_server

RERANKER: dict[str, Any] = {**CONFIG, "task": "rerank", "labels": ["score"]}
EMBEDDER: dict[str, Any] = {**CONFIG, "task": "embed", "outputs": ["dense", "sparse"]}


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.sampled_from(["text", "pair"]))
def test_the_number_counts_the_texts_of_the_call(start: int, row: int, noun: str) -> None:
    message = f"{noun} {row} has 9 tokens: shorten the text" + (offset_note(start) if start else "")
    found = with_names(server_error("too_large", message, 3), lambda number: f"document {number}")
    assert (type(found), found.request_id) == (TooLargeError, 3)
    assert found.message == f"document {start + row} has 9 tokens: shorten the text"


def test_other_errors_stay_as_they_are() -> None:
    limited = server_error("rate_limited", "'a' has used 3 texts in a minute", 1, {"retry_after": 2.5})
    outside = server_error("too_large", "text 7 is long", 1)
    for error in (limited, outside):
        with pytest.raises(type(error)) as caught, naming_texts(["only"].__getitem__):
            raise error
        assert caught.value is error
    named = with_names(server_error("rate_limited", "text 0 waits", 1, {"retry_after": 2.5}), lambda _: "the query")
    assert isinstance(named, RateLimitedError)
    assert (named.message, named.retry_after) == ("the query waits", 2.5)


@pytest.mark.parametrize(
    ("config", "call", "request_number", "name"),
    [
        (RERANKER, lambda bc: bc.rerank("a", ["b", "c", "d"], batch_size=1), 2, "the pair of the query and document 2"),
        (EMBEDDER, lambda bc: bc.rerank("a", ["b", "c"], by="sparse"), 0, "the query"),
        (EMBEDDER, lambda bc: bc.similarity(["a", "b"], ["c", "d"]), 0, r"b\[0\]"),
    ],
    ids=["pairs", "query", "similarity"],
)
def test_calls_name_the_text(
    config: dict[str, Any], call: Callable[[BertClient], Any], request_number: int, name: str
) -> None:
    with run_fake_server(config=config, hold=True) as server, BertClient(**server.ports) as bc:

        def reply() -> None:
            requests = [server.held.get(timeout=30) for _ in range(request_number + 1)]
            row = 2 if "similarity" in config or name.startswith("b") else 0
            server.reply_error(requests[request_number], "too_large", f"text {row} has 99 tokens")

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(TooLargeError, match=f"'too_large': {name} has 99 tokens"):
            call(bc)
        thread.join()


def test_a_blank_query_or_document_is_named() -> None:
    with run_fake_server(config=EMBEDDER) as server, BertClient(**server.ports) as bc:
        with pytest.raises(InputValueError, match="query is ' '"):
            bc.rerank(" ", ["a"], by="sparse")
        with pytest.raises(InputValueError, match=r"documents\[1\] is ''"):
            bc.rerank("a", ["a", ""], by="sparse")
