"""Tests the slots of HTTP requests with names: turns by weight, and no name that takes all."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.http.concurrency_limit import ConcurrencyLimiter
from bert_serving.server.http.errors import Overloaded
from bert_serving.server.http.http_access import RequestShare
from bert_serving.server.http.share_slots import NamedSlot, ShareSlots

LIMIT = 60.0


def share(name: str, weight: float = 1.0) -> RequestShare:
    return RequestShare("", name, weight, False)


async def steps() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_one_name_leaves_a_quarter_of_the_slots_to_others() -> None:
    async def run() -> None:
        slots = ShareSlots(8)
        held = [await slots.acquire_for(share("greedy"), LIMIT) for _ in range(6)]
        waiting = [asyncio.create_task(slots.acquire_for(share("greedy"), LIMIT)) for _ in range(100)]
        await steps()
        assert slots.queued == slots.queued_of("greedy") == 100
        modest = await slots.acquire_for(share("modest"), 0)
        assert modest is not None
        assert slots.running == 7
        for each in held:
            assert each is not None
            each.release(1)
        await steps()
        assert slots.queued == 94
        slots.close()
        for task in waiting[6:]:
            assert await task is None
        assert slots.queued_of("greedy") == 0

    asyncio.run(asyncio.wait_for(run(), LIMIT))


@given(st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=2, max_size=4), st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_queued_names_get_slots_by_their_weights(weights: list[float], units: int) -> None:
    async def run() -> None:
        slots, granted = ShareSlots(units), Counter[str]()
        running: list[NamedSlot] = []

        async def ask(name: str, weight: float) -> None:
            slot = await slots.acquire_for(share(name, weight), LIMIT)
            assert slot is not None
            granted[name] += 1
            running.append(slot)

        tasks = [
            asyncio.create_task(ask(f"n{number}", weight)) for number, weight in enumerate(weights) for _ in range(200)
        ]
        total = 100
        while granted.total() < total:
            await steps()
            assert slots.running <= units
            running.pop(0).release(1)
        per_weight = [granted[f"n{number}"] / weight for number, weight in enumerate(weights)]
        assert max(per_weight) - min(per_weight) <= (units + 2) / min(weights)
        slots.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), LIMIT))


def test_each_name_has_queues_of_its_own() -> None:
    async def run() -> None:
        limiter = ConcurrencyLimiter(4, 2, LIMIT, has_shares=True)
        held = [await limiter.acquire(share=share("greedy")) for _ in range(3)]
        tasks = [asyncio.create_task(limiter.acquire(share=share("greedy"))) for _ in range(2)]
        await steps()
        try:
            await limiter.acquire(share=share("greedy"))
        except Overloaded as error:
            assert "2 are queued" in str(error)
        else:
            raise AssertionError("the queue of the name is full")
        limiter.release(await limiter.acquire(share=share("modest")))
        tasks[0].cancel()  # the client disconnects
        await steps()
        for slot in held:
            limiter.release(slot)
        limiter.release(await tasks[1])
        assert limiter.running == limiter.queued == 0

    asyncio.run(asyncio.wait_for(run(), LIMIT))
