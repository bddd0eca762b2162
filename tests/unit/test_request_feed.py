"""``bert-serving-encode``: each chunk gets its own result once and in order, whatever limits refuse meanwhile."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import (
    EncodedOutputs,
    RateLimitedError,
    Response,
    ServerError,
    SparseVector,
    TextPart,
    TooLargeError,
    rate_limits,
)
from bert_serving.client._cli.corpus import CorpusError
from bert_serving.client._cli.requests import _joined, encoded
from bert_serving.client.rate_limits import LimitReport, when_allowed, within_limits


class Chunk(NamedTuple):
    texts: list[str | None]
    where: str


class StubClient:
    """Answers the requests that are in flight in any order, or refuses them.

    Attributes:
        sent: how often each list of texts was sent.
        most: most requests in flight.

    Args:
        most: most texts of a request.
    """

    def __init__(self, seed: int, errors: list[ServerError | None], most: int | None = None) -> None:
        self._most = most
        self.request_id = 10
        self.sent: Counter[tuple[str, ...]] = Counter()
        self.most = 0
        self._random, self._errors = random.Random(seed), iter(errors)
        self._queue: queue.Queue[tuple[int, list[str]] | None] = queue.Queue()
        self._in_flight: list[tuple[int, list[str]]] = []
        self._is_over = False

    def encode_async(self, requests: Iterator[list[str]], **_: Any) -> StubClient:
        def feed() -> None:
            for number, texts in enumerate(requests, self.request_id + 1):
                self._queue.put((number, texts))
            self._queue.put(None)

        self.thread = threading.Thread(target=feed, daemon=True)
        self.thread.start()
        return self

    def __next__(self) -> Any:
        while not self._is_over and (not self._in_flight or not self._queue.empty()):
            found = self._queue.get(timeout=30)
            self._is_over = found is None
            if found is not None:
                self._in_flight.append(found)
                self.sent[tuple(found[1])] += 1
        self.most = max(self.most, len(self._in_flight))
        if not self._in_flight:
            raise StopIteration
        number, texts = self._in_flight.pop(self._random.randrange(len(self._in_flight)))
        error = next(self._errors, None)
        if error is None and self._most is not None and len(texts) > self._most:
            error = too_large(len(texts), self._most)
        if error is not None:
            error.request_id = number
            raise error
        response = Response(number, np.array([[int(text.split()[-1])] for text in texts]), [[text] for text in texts])
        response.parts = [TextPart(row, 0, len(text)) for row, text in enumerate(texts)]
        return response

    def close(self) -> None:
        pass


def limited() -> RateLimitedError:
    return RateLimitedError("rate_limited", "'me' has used all", 0, 0.0)


def chunks(sizes: list[int]) -> list[Chunk]:
    return [Chunk([f"{number} {row}" for row in range(size)], f"chunk {number}") for number, size in enumerate(sizes)]


def too_large(size: int, most: int) -> TooLargeError:
    return TooLargeError("too_large", f"{size} texts; the limit is {most} in a minute", 0, is_divisible=True)


def assert_results(found: list[tuple[Chunk, Response | None]]) -> None:
    """Checks that each chunk has the result of its texts."""
    for chunk, reply in found:
        if not chunk.texts:
            assert reply is None
            continue
        assert reply is not None
        assert reply.tokens == [[text] for text in chunk.texts]
        assert reply.embedding.tolist() == [[row] for row in range(len(chunk.texts))]
        assert reply.parts == [TextPart(row, 0, len(text or "")) for row, text in enumerate(chunk.texts)]


@given(
    st.lists(st.integers(0, 9), max_size=80),
    st.integers(1, 9),
    st.lists(st.booleans(), max_size=60),
    st.integers(0, 99),
)
def test_texts_that_exceed_a_limit_together_are_divided(
    sizes: list[int], most: int, refusals: list[bool], seed: int
) -> None:
    client = StubClient(seed, [limited() if each else None for each in refusals], most)
    corpus = chunks(sizes)
    found = list(encoded(client, iter(corpus), False, {}, lambda line: None))  # type: ignore[arg-type]
    assert [chunk for chunk, _ in found] == corpus
    assert_results(found)
    assert client.most <= 64
    client.thread.join(30)
    assert not client.thread.is_alive()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=150), st.lists(st.booleans(), max_size=60), st.integers(0, 99))
def test_each_chunk_has_its_result_in_order_whatever_is_refused(
    sizes: list[int], refusals: list[bool], seed: int
) -> None:
    client = StubClient(seed, [limited() if each else None for each in refusals])
    corpus, lines = chunks(sizes), list[str]()
    found = list(encoded(client, iter(corpus), False, {}, lines.append))  # type: ignore[arg-type]
    assert [chunk for chunk, _ in found] == corpus
    assert_results(found)
    assert client.most <= 64
    num_refused = client.sent.total() - sum(map(bool, sizes))
    assert num_refused <= sum(refusals)
    assert len(lines) == bool(num_refused)  # one line in a minute
    assert not lines or ("chunk " in lines[0] and "'me' has used all" in lines[0])
    client.thread.join(30)
    assert not client.thread.is_alive()


def test_any_other_refusal_ends_the_run_with_its_place_and_remedy() -> None:
    client = StubClient(1, [limited(), too_large(20, 10)])
    run = encoded(client, iter(chunks([1])), False, {}, lambda line: None)  # type: ignore[arg-type]
    with pytest.raises(
        CorpusError, match=r"chunk 0: the server replied with 'too_large': .*; it is one text, so shorten"
    ):
        list(run)
    client.thread.join(30)
    assert not client.thread.is_alive()


def test_outputs_of_divided_texts_are_joined() -> None:
    found = []
    for first, size in ((0, 2), (2, 1)):
        rows = np.arange(first, first + size, dtype=np.float32)[:, None]
        response = Response(7 + first, rows, "")
        sparse = [SparseVector(np.array([row]), np.ones(1, np.float32), ["a"]) for row in range(first, first + size)]
        response.outputs = EncodedOutputs(rows, sparse, [np.full((2, 3), row) for row in rows], "")
        found.append((first, response))
    joined = _joined(found)
    assert (joined.embedding.tolist(), joined.tokens, joined.parts) == ([[0], [1], [2]], "", None)
    assert joined.outputs is not None
    assert joined.outputs.dense is not None
    assert joined.outputs.dense.tolist() == [[0], [1], [2]]
    assert [each.ids.tolist() for each in joined.outputs.sparse or ()] == [[0], [1], [2]]
    assert [each[0, 0] for each in joined.outputs.multi or ()] == [0, 1, 2]


def test_a_run_that_ends_during_a_pause_leaves_no_thread() -> None:
    error = RateLimitedError("rate_limited", "used up", 0, 1e6)
    client = StubClient(1, [None, error])
    run = encoded(client, iter(chunks([1] * 100)), False, {}, lambda line: None)  # type: ignore[arg-type]
    next(run)
    run.close()  # type: ignore[attr-defined]
    client.thread.join(30)
    assert not client.thread.is_alive()


def test_the_first_request_waits_as_long_as_the_server_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(rate_limits.time, "sleep", waits.append)
    errors = iter(
        [limited(), RateLimitedError("rate_limited", "used", 0, 7.0), RateLimitedError("rate_limited", "", 0)]
    )

    def call() -> str:
        for error in errors:
            raise error
        return "vector"

    lines: list[str] = []
    assert when_allowed(call, LimitReport(lines.append), "first request") == "vector"
    assert waits == [0.0, 7.0, 1.0]
    assert len(lines) == 1


def refusing(most: int, refusals: list[bool], sent: list[int]) -> Callable[[list[str]], list[str]]:
    """Returns a function that encodes at most ``most`` texts, and is refused because a limit is used up if told so."""

    def encode(texts: list[str]) -> list[str]:
        sent.append(len(texts))
        if len(texts) > most:
            raise TooLargeError("too_large", f"{len(texts)} texts; the limit is {most}", 0, is_divisible=True)
        if refusals and refusals.pop():
            raise limited()
        return [text.upper() for text in texts]

    return encode


@given(st.lists(st.integers(0, 30), max_size=4), st.integers(1, 30), st.lists(st.booleans(), max_size=8))
def test_texts_over_a_limit_are_sent_in_several_requests(sizes: list[int], most: int, refusals: list[bool]) -> None:
    texts = [[f"text {chunk} {row}" for row in range(size)] for chunk, size in enumerate(sizes)]
    sent: list[int] = []
    found = list(within_limits(refusing(most, refusals, sent), texts, LimitReport(lambda line: None)))
    assert [text for part, _ in found for text in part] == [text for chunk in texts for text in chunk]
    assert all(result == [text.upper() for text in part] for part, result in found)
    assert sum(size > most for size in sent) <= 5, "a size that was refused is not tried again"


def test_other_refusals_are_raised() -> None:
    def encode(texts: list[str]) -> None:
        raise TooLargeError("too_large", "text 1 has 9 characters; the limit is 8: shorten it", 0)

    for texts, call in ((["a", "b"], encode), (["a"], refusing(0, [], []))):
        with pytest.raises(TooLargeError):
            list(within_limits(call, [texts], LimitReport(lambda line: None)))  # type: ignore[arg-type]
