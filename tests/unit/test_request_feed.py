"""``bert-serving-encode``: each chunk gets its own result once and in order, whatever limits refuse meanwhile."""

from __future__ import annotations

import queue
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.client import RateLimitedError, ServerError, TooLargeError, rate_limits
from bert_serving.client._cli.corpus import CorpusError
from bert_serving.client._cli.requests import encoded
from bert_serving.client.rate_limits import LimitReport, when_allowed, within_limits


class Chunk(NamedTuple):
    texts: list[str | None]
    where: str


class StubClient:
    """Answers the requests that are in flight in any order, or refuses them.

    Attributes:
        sent: how often each list of texts was sent.
        most: most requests in flight.
    """

    def __init__(self, seed: int, errors: list[ServerError | None]) -> None:
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
        if error is not None:
            error.request_id = number
            raise error
        return SimpleNamespace(id=number, texts=texts)

    def close(self) -> None:
        pass


def limited() -> RateLimitedError:
    return RateLimitedError("rate_limited", "'me' has used all", 0, 0.0)


def chunks(sizes: list[int]) -> list[Chunk]:
    return [Chunk([f"{number} {row}" for row in range(size)], f"chunk {number}") for number, size in enumerate(sizes)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=150), st.lists(st.booleans(), max_size=60), st.integers(0, 99))
def test_each_chunk_has_its_result_in_order_whatever_is_refused(
    sizes: list[int], refusals: list[bool], seed: int
) -> None:
    client = StubClient(seed, [limited() if each else None for each in refusals])
    corpus, lines = chunks(sizes), list[str]()
    found = list(encoded(client, iter(corpus), False, {}, lines.append))  # type: ignore[arg-type]
    assert [chunk for chunk, _ in found] == corpus
    assert all((reply.texts if reply else []) == chunk.texts for chunk, reply in found)  # type: ignore[attr-defined]
    assert client.most <= 64
    num_refused = client.sent.total() - sum(map(bool, sizes))
    assert num_refused <= sum(refusals)
    assert len(lines) == bool(num_refused)  # one line in a minute
    assert not lines or ("chunk " in lines[0] and "'me' has used all" in lines[0])
    client.thread.join(30)
    assert not client.thread.is_alive()


def test_any_other_refusal_ends_the_run_with_its_place_and_remedy() -> None:
    error = TooLargeError("too_large", "20 texts; the limit is 10 in a minute: send it in several requests", 0)
    client = StubClient(1, [limited(), error])
    run = encoded(client, iter(chunks([1])), False, {}, lambda line: None)  # type: ignore[arg-type]
    with pytest.raises(CorpusError, match=r"chunk 0: the server replied with 'too_large': .*smaller -batch_size"):
        list(run)
    client.thread.join(30)
    assert not client.thread.is_alive()


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
            raise TooLargeError("too_large", f"{len(texts)} texts; the limit is {most}: send it in several requests", 0)
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
