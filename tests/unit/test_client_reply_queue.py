"""Calls from a thread into an event loop: in order, none lost, with few wake-ups."""

from __future__ import annotations

import asyncio
import threading

from bert_serving.client._reply_queue import LoopCalls, ReplyQueue
from bert_serving.client.protocol import Reply

NUM_CALLS = 20_000


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its wake-ups by other threads."""

    num_wakeups = 0

    def call_soon_threadsafe(self, *args: object, **kwargs: object) -> asyncio.Handle:
        self.num_wakeups += 1
        return super().call_soon_threadsafe(*args, **kwargs)  # type: ignore[arg-type]


def test_calls_arrive_once_and_in_order_whenever_they_are_made() -> None:
    loop, arrived = CountingLoop(), list[int]()

    async def receive() -> None:
        calls = LoopCalls(loop)
        thread = threading.Thread(target=lambda: [calls.call(arrived.append, number) for number in range(NUM_CALLS)])
        thread.start()
        while len(arrived) < NUM_CALLS:
            await asyncio.sleep(0)
        thread.join()

    loop.run_until_complete(asyncio.wait_for(receive(), 60))
    loop.close()
    assert arrived == list(range(NUM_CALLS))


def test_replies_that_arrive_together_wake_the_loop_once() -> None:
    loop = CountingLoop()

    async def receive() -> int:
        calls = LoopCalls(loop)
        queues = [ReplyQueue(calls) for _ in range(64)]
        tasks = [asyncio.ensure_future(queue.wait(60)) for queue in queues]
        await asyncio.sleep(0)
        for number, queue in enumerate(queues):
            queue.put(number, Reply(number, {}, None))
        await asyncio.gather(*tasks)
        assert [queue.queue[0][0] for queue in queues] == list(range(64))
        return loop.num_wakeups

    assert loop.run_until_complete(receive()) == 1
    loop.close()


def test_calls_into_a_closed_loop_are_dropped() -> None:
    loop = CountingLoop()
    calls = LoopCalls(loop)
    loop.close()
    calls.call(print, "never")
    calls.call(print, "never")
