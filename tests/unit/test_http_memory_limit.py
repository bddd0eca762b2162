"""Tests the limit on the memory of HTTP requests."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.http.errors import Overloaded
from bert_serving.server.http.memory_limit import SMALL_BODY, Charge, MemoryLimiter, memory_limit
from bert_serving.server.http.memory_pool import MemoryPool

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


def named(limiter: MemoryLimiter, name: str) -> Charge:
    charge = Charge(limiter, None)
    charge.name = name
    return charge


def test_one_name_leaves_a_quarter_of_the_memory_to_others() -> None:
    """Its requests hold memory until their clients have read the responses."""

    async def run() -> None:
        limiter = MemoryLimiter(LIMIT, max_vectors=LIMIT // 8, row_bytes=128, has_names=True)
        large = limiter.large_limit
        held = [named(limiter, "busy") for _ in range(3)]
        for charge in held:
            await charge.reserve(large // 4, 0)
        with pytest.raises(Overloaded):
            named(limiter, "busy").add(1)
        waiting = [asyncio.create_task(named(limiter, "busy").reserve(large // 4, 60)) for _ in range(2)]
        await asyncio.sleep(0)
        other = named(limiter, "other")
        other.add(1000)
        await other.reserve(large // 8, 0)  # before those that wait for their own name
        assert not any(task.done() for task in waiting)
        held[0].release()
        await waiting[0]
        held[1].release()
        await waiting[1]
        other.release()
        alone = named(limiter, "other")
        with pytest.raises(Overloaded):
            await alone.reserve(10 * LIMIT, 0.01)  # it waits until three quarters are free
        held[2].release()
        assert limiter.held == 2 * (large // 4)

    asyncio.run(run())


async def settle() -> None:
    """Lets each task run that can: one that was granted memory resumes after some turns of the loop."""
    for _ in range(10):
        await asyncio.sleep(0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 100), st.booleans()), max_size=40), st.booleans())
def test_memory_is_granted_in_order_within_a_name_and_never_lost(
    steps: list[tuple[str, int, bool]], has_names: bool
) -> None:
    async def run() -> None:
        pool = MemoryPool(100, has_names)
        granted: list[tuple[int, str, int]] = []
        latest: dict[str, int] = {}
        tasks = []

        async def take(number: int, name: str, units: int) -> None:
            if await pool.acquire_for(name, units, 60):
                key = name if has_names else ""
                assert latest.get(key, -1) < number
                latest[key] = number
                granted.append((number, name, units))

        for number, (name, units, releases) in enumerate(steps):
            tasks.append(asyncio.create_task(take(number, name, min(units, pool.most))))
            await settle()  # a task that resumes late would seem to be granted late
            if releases and granted:
                pool.release_for(*granted.pop(0)[1:])
            await settle()
            held = Counter[str]()
            for _, each, size in granted:
                held[each] += size
            assert held.total() == 100 - pool.free <= 100
            assert all(size <= pool.most for size in held.values())
        while granted:
            pool.release_for(*granted.pop(0)[1:])
            await settle()
        await asyncio.gather(*tasks)
        assert pool.free == 100
        assert not pool.queued

    asyncio.run(run())
