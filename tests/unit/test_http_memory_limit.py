"""Tests the limit on the memory of HTTP requests."""

from __future__ import annotations

import asyncio

import pytest

from bert_serving.server.http.errors import Overloaded
from bert_serving.server.http.memory_limit import SMALL_BODY, Charge, MemoryLimiter, memory_limit

LIMIT = 2**20


def make() -> MemoryLimiter:
    return MemoryLimiter(LIMIT, max_vectors=LIMIT // 8, row_bytes=128)


def test_large_bodies_leave_a_quarter_for_small_requests() -> None:
    limiter = make()
    large = Charge(limiter, None)
    for _ in range(3):
        large.add(LIMIT // 4)
    for length in (None, SMALL_BODY + 1):
        with pytest.raises(Overloaded, match="-http_max_body"):
            Charge(limiter, length).add(1)
    small = Charge(limiter, SMALL_BODY)
    small.add(SMALL_BODY)
    assert limiter.held == LIMIT * 3 // 4 + SMALL_BODY
    for charge in (large, small, large):
        charge.release()
    assert limiter.held == 0


def test_a_request_waits_for_memory_and_one_that_needs_all_runs_alone() -> None:
    async def run() -> None:
        limiter = make()
        first, second = Charge(limiter, None), Charge(limiter, None)
        first.add(1000)
        await first.reserve(10 * LIMIT, 1)
        second_reserves = asyncio.create_task(second.reserve(LIMIT // 2, 60))
        await asyncio.sleep(0)
        assert not second_reserves.done()
        with pytest.raises(Overloaded):
            await Charge(limiter, None).reserve(LIMIT // 2, 0.01)
        first.release()
        await second_reserves
        assert limiter.held == LIMIT // 2
        second.release()
        assert limiter.held == 0

    asyncio.run(run())


def test_a_large_request_that_waits_delays_a_smaller_one_until_its_own_time_out_only() -> None:
    async def run() -> None:
        limiter = make()
        first, second = Charge(limiter, None), Charge(limiter, None)
        await first.reserve(LIMIT // 4, 60)
        large = asyncio.create_task(Charge(limiter, None).reserve(10 * LIMIT, 0.05))
        await asyncio.sleep(0)
        smaller = asyncio.create_task(second.reserve(LIMIT // 4, 60))
        small = Charge(limiter, SMALL_BODY)
        await small.reserve(LIMIT // 100, 0)
        assert not smaller.done(), "requests are granted in order of arrival"
        with pytest.raises(Overloaded):
            await large
        await smaller
        assert limiter.held == LIMIT // 2 + LIMIT // 100
        first.release()

    asyncio.run(run())


def test_needed_memory_grows_with_values_and_wide_characters_up_to_the_largest_vectors() -> None:
    limiter = make()
    needed = [limiter.needed(b'{"texts": [%b]}' % b",".join([b'"a"'] * count)) for count in (1, 10, 100, 10_000)]
    assert needed == sorted(needed)
    assert limiter.needed('{"texts": ["é"]}'.encode()) > limiter.needed(b'{"texts": ["ee"]}')
    assert limiter.needed(b"," * 10**6) < 10**6 * 70 + 14 * limiter.max_vectors


def test_a_pooling_of_the_request_may_have_wider_vectors() -> None:
    limiter = MemoryLimiter(64 * LIMIT, max_vectors=8 * LIMIT, row_bytes=4, pooled_row_bytes=4000)
    plain, pooled, hidden = (
        limiter.needed(b'{"texts": ["a"], "%b": "b"}' % name) for name in (b"xoolinx", b"pooling", b"p\\u006folin")
    )
    assert pooled - plain >= 3996
    assert hidden - plain >= 3996


def test_a_ranking_needs_memory_for_its_query_with_each_text() -> None:
    limiter = MemoryLimiter(64 * LIMIT, max_vectors=8 * LIMIT, row_bytes=4, pair_paths=frozenset(("/rerank",)))
    body = b'{"query": "%b", "texts": [%b]}' % (b"q" * 1000, b",".join([b'"a"'] * 100))
    assert limiter.needed(body, "/rerank") - limiter.needed(body, "/encode") >= 1000 * 100
    body = b'{"query": "%b", "texts": [%b]}' % (b"q" * 1_000_000, b",".join([b'"a"'] * 100))
    more = limiter.needed(body, "/rerank") - limiter.needed(body, "/encode")
    assert 8 * LIMIT <= more < 9 * LIMIT, "larger ones are refused"


def test_the_response_of_tokenize_is_larger_than_its_texts() -> None:
    limiter = MemoryLimiter(64 * LIMIT, max_vectors=8 * LIMIT, row_bytes=0)
    body = b'{"inputs": "%b"}' % (b"a " * 1000)
    assert limiter.needed(body, "/tokenize") - limiter.needed(body, "/encode") >= 2000 * 66


def test_the_limit_follows_http_max_body() -> None:
    assert memory_limit(64 * 2**20) == 512 * 2**20
    assert memory_limit(1024) == 256 * 2**20
