"""Tests the concurrency limiter: slots, queue and closing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

from bert_serving.server.http.concurrency_limit import SMALL_REQUEST_SLOTS, ConcurrencyLimiter
from bert_serving.server.http.errors import Overloaded, Stopping
from bert_serving.server.http.unit_limiter import UnitLimiter

#: Timeout (s) of a wait that normally takes milliseconds; long, because the machine may be busy.
LIMIT = 60


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @wraps(test)
    def run(**arguments: Any) -> None:
        asyncio.run(asyncio.wait_for(test(**arguments), LIMIT))  # type: ignore[arg-type]

    return run


class Request:
    """Acquires a slot in a task and holds it until `finish` is called."""

    def __init__(self, limiter: ConcurrencyLimiter, is_small: bool = False) -> None:
        self.limiter, self.is_small, self.error = limiter, is_small, None  # type: Exception | None
        self.has_slot, self._may_finish = asyncio.Event(), asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async with self.limiter.slot(self.is_small):
                self.has_slot.set()
                await self._may_finish.wait()
        except Exception as error:
            self.error = error

    async def finish(self) -> None:
        self._may_finish.set()
        await self.task


async def steps() -> None:
    """Lets all tasks run until each of them waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def start_queued(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Request]:
    before, requests = limiter.queued, [Request(limiter, is_small) for _ in range(count)]
    await steps()
    assert limiter.queued == before + count
    return requests


async def start_running(limiter: ConcurrencyLimiter, count: int, is_small: bool = False) -> list[Request]:
    requests = [Request(limiter, is_small) for _ in range(count)]
    for request in requests:
        await request.has_slot.wait()
    return requests


@in_loop
async def test_slots_are_granted_in_order_of_arrival() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    first, second = await start_running(limiter, 2)
    waiting = await start_queued(limiter, 3)
    for finishing, next_one in zip([first, second, waiting[0]], waiting, strict=True):
        assert not next_one.has_slot.is_set()
        await finishing.finish()
        await next_one.has_slot.wait()
        assert limiter.running == 2
    for request in waiting[1:]:
        await request.finish()
    assert (limiter.running, limiter.queued) == (0, 0)


@in_loop
async def test_request_beyond_queue_limit_is_rejected_immediately() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=1, queue_timeout=LIMIT)
    (running,) = await start_running(limiter, 1)
    (waiting,) = await start_queued(limiter, 1)
    with pytest.raises(Overloaded, match="-http_max_connect 1"):
        await asyncio.wait_for(limiter.acquire(), LIMIT / 2)
    await running.finish()
    await waiting.finish()
    assert waiting.error is None


@in_loop
async def test_queued_request_times_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=0.01)
    (running,) = await start_running(limiter, 1)
    with pytest.raises(Overloaded, match=r"within 0\.01 s"):
        await limiter.acquire()
    assert (limiter.running, limiter.queued) == (1, 0)
    await running.finish()
    async with limiter.slot():
        assert limiter.running == 1


@in_loop
async def test_the_wait_for_memory_counts_for_the_time_out() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=LIMIT)
    limiter.release(await limiter.acquire(waited=2 * LIMIT))  # a free slot needs no wait
    (running,) = await start_running(limiter, 1)
    with pytest.raises(Overloaded, match="no slot became free"):
        await asyncio.wait_for(limiter.acquire(waited=LIMIT), LIMIT / 2)
    await running.finish()


@in_loop
async def test_slot_is_released_after_an_error() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=0, queue_timeout=1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with limiter.slot():
                raise ZeroDivisionError
    assert limiter.running == 0


@in_loop
async def test_close_rejects_queued_requests_and_running_ones_finish() -> None:
    limiter = ConcurrencyLimiter(limit=1, max_queued=5, queue_timeout=LIMIT)
    (running,) = await start_running(limiter, 1)
    waiting = await start_queued(limiter, 3)
    limiter.close()
    for request in waiting:
        await request.task
        assert isinstance(request.error, Stopping)
    assert (limiter.running, limiter.queued) == (1, 0)
    with pytest.raises(Stopping):
        await limiter.acquire()
    await running.finish()
    assert running.error is None
    assert limiter.running == 0


@in_loop
async def test_small_requests_never_wait_for_large_ones() -> None:
    limiter = ConcurrencyLimiter(limit=2, max_queued=5, queue_timeout=LIMIT)
    large = [*await start_running(limiter, 2), *await start_queued(limiter, 5)]
    small = await start_running(limiter, SMALL_REQUEST_SLOTS, is_small=True)
    small += await start_queued(limiter, 5, is_small=True)
    for is_small in (False, True):
        with pytest.raises(Overloaded):
            await limiter.acquire(is_small)
    await large[0].finish()
    await steps()
    assert large[2].has_slot.is_set()
    assert not small[-1].has_slot.is_set()
    for request in (*large[1:], *small):
        await request.has_slot.wait()
        await request.finish()
    assert (limiter.running, limiter.queued) == (0, 0)


@in_loop
async def test_fewer_units_are_granted_when_the_request_before_times_out() -> None:
    units = UnitLimiter(2)
    assert await units.acquire(1, LIMIT)
    first, behind = asyncio.create_task(units.acquire(2, 0.1)), asyncio.create_task(units.acquire(1, LIMIT))
    await steps()
    assert units.queued == 2
    assert not await first
    assert await behind
    assert (units.free, units.running, units.queued) == (0, 2, 0)


@in_loop
async def test_as_many_small_requests_as_large_ones_run_if_there_are_many_slots() -> None:
    limiter = ConcurrencyLimiter(limit=SMALL_REQUEST_SLOTS + 1, max_queued=0, queue_timeout=1)
    requests = await start_running(limiter, SMALL_REQUEST_SLOTS + 1, is_small=True)
    with pytest.raises(Overloaded):
        await limiter.acquire(is_small=True)
    for request in requests:
        await request.finish()


@in_loop
async def test_limits_hold_whatever_is_cancelled_or_times_out() -> None:
    chance = random.Random(1)
    limiter = ConcurrencyLimiter(limit=3, max_queued=50, queue_timeout=0.001)
    most = 0

    async def hold_slot() -> None:
        nonlocal most
        for _ in range(20):
            try:
                async with limiter.slot(is_small=chance.random() < 0.5):
                    most = max(most, limiter.running)
                    await asyncio.sleep(chance.choice([0, 0, 0.0005]))
            except Overloaded:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(hold_slot()) for _ in range(80)]
    while any(not task.done() for task in tasks):
        chance.choice(tasks).cancel()
        await asyncio.sleep(0.002)
    assert 1 < most <= limiter.limit + SMALL_REQUEST_SLOTS
    assert (limiter.running, limiter.queued) == (0, 0)
    async with limiter.slot(), limiter.slot(), limiter.slot():
        assert limiter.running == 3
