"""`AsyncBertClient` against a scripted server."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from bert_serving.client import (
    AsyncBertClient,
    BertClient,
    ClientClosedError,
    InputTypeError,
    OverloadedError,
    RequestTimeoutError,
    ServerUnreachableError,
    VersionMismatchError,
)
from fake_server import CONFIG, DEADLINE, FakeServer, run_fake_server, vectors
from servers import free_ports

T = TypeVar("T")


def run(main: Callable[[], Awaitable[T]]) -> T:
    async def limited() -> T:
        return await asyncio.wait_for(main(), 90)

    return asyncio.run(limited())


async def until(condition: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), DEADLINE)


def io_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "bert-client-io"}


def test_encode(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            assert bc.length_limit == 25
            array = await bc.encode(["a", "bb"])
            np.testing.assert_array_equal(array, vectors(["a", "bb"]))
            array += 1
            assert await bc.server_config() == CONFIG
            assert (await bc.server_status())["statistic"] == {}
            texts = ["x" * (number % 5 + 1) for number in range(50)]
            np.testing.assert_array_equal(await bc.encode(texts, batch_size=7), vectors(texts))
            assert bc.status["num_pending_request"] == 0

    run(main)


def test_concurrent_calls(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            arrays = await asyncio.gather(*(bc.encode(["x" * length]) for length in range(1, 101)))
            assert [array[0, 0] for array in arrays] == list(range(1, 101))

    run(main)


def test_the_server_is_checked_by_the_first_request_and_once(fake_server: FakeServer) -> None:
    async def main() -> None:
        bc = AsyncBertClient(**fake_server.ports)
        assert fake_server.commands == []
        await asyncio.gather(bc.encode(["a"]), bc.encode(["b"]))
        await bc.connect()
        assert len(fake_server.commands) == 1
        await bc.close()
        await bc.close()
        with pytest.raises(ClientClosedError):
            await bc.encode(["a"])

    run(main)


def test_errors_match_the_blocking_client(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            with pytest.raises(InputTypeError):
                await bc.encode("hello")
            fake_server.hold = True
            failing = asyncio.create_task(bc.encode(["a"]))
            await until(lambda: not fake_server.held.empty())
            fake_server.reply_error(fake_server.next(), "overloaded", "later")
            with pytest.raises(OverloadedError):
                await failing
            bc.timeout = 20
            with pytest.raises(RequestTimeoutError):
                await bc.encode(["a"])
            assert bc.pending_request == set()

    run(main)


def test_unreachable_server() -> None:
    (port,) = free_ports(1)
    before = io_threads()

    async def main() -> None:
        with pytest.raises(ServerUnreachableError, match=f"port {port}: connection refused"):
            async with AsyncBertClient(port=port, port_out=port, connect_timeout=100):
                pass

    run(main)
    run(lambda: until(lambda: not io_threads() - before))


def test_version_is_checked() -> None:
    async def main() -> None:
        with run_fake_server(config={"server_version": "0.1"}) as fake_server, pytest.raises(VersionMismatchError):
            await AsyncBertClient(**fake_server.ports).connect()

    run(main)


def test_a_cancelled_call_drops_its_request(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            fake_server.hold = True
            waiting = asyncio.create_task(bc.encode(["a"]))
            await until(lambda: not fake_server.held.empty())
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert bc.pending_request == set()
            fake_server.reply(fake_server.next())
            fake_server.hold = False
            assert (await bc.encode(["bb"]))[0, 0] == 2

    run(main)


def test_close_ends_blocked_calls(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            fake_server.hold = True
            waiting = asyncio.create_task(bc.encode(["a"]))
            results = asyncio.create_task(anext(bc.listen(), None))
            await until(lambda: not fake_server.held.empty())
        with pytest.raises(ClientClosedError):
            await waiting
        assert await results is None

    run(main)


def test_requests_are_sent_again_after_a_restart(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            fake_server.hold = True
            waiting = asyncio.create_task(bc.encode(["abc"]))
            await until(lambda: not fake_server.held.empty())
            first = fake_server.next()
            await asyncio.to_thread(fake_server.stop)
            await asyncio.to_thread(fake_server.start)
            await until(lambda: not fake_server.held.empty())
            again = fake_server.next()
            assert again == first
            fake_server.reply(again)
            assert (await waiting)[0, 0] == 3

    run(main)


def test_encode_async(fake_server: FakeServer) -> None:
    async def batches() -> AsyncIterator[list[str]]:
        for number in range(100):
            await asyncio.sleep(0)
            yield ["x"] * (number % 3 + 1)

    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            shapes = [response.shape async for response in bc.encode_async(batches())]
            assert sorted(shapes) == sorted((number % 3 + 1, 4) for number in range(100))
            endless = bc.encode_async(itertools.repeat(["a"]), max_num_batch=70)
            assert len([response async for response in endless]) == 70
            assert [response async for response in bc.encode_async([])] == []

    run(main)


def test_encode_async_limits_requests_in_flight_and_cancels(fake_server: FakeServer) -> None:
    fake_server.hold = True

    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            results = bc.encode_async(itertools.repeat(["a"]))
            first = asyncio.create_task(anext(results))
            await until(lambda: len(fake_server.received) == 64)
            fake_server.reply(fake_server.next())
            await first
            await until(lambda: len(fake_server.received) == 65)
            await results.aclose()
            assert bc.pending_request == set()

    run(main)


def test_generator_exception_is_raised_after_its_results(fake_server: FakeServer) -> None:
    async def breaking() -> AsyncIterator[list[str]]:
        yield ["a"]
        raise LookupError("no more corpus")

    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            results = bc.encode_async(breaking())
            assert (await anext(results)).embedding[0, 0] == 1
            with pytest.raises(LookupError, match="no more corpus"):
                await anext(results)

    run(main)


def test_listen(fake_server: FakeServer) -> None:
    async def main() -> None:
        async with AsyncBertClient(**fake_server.ports, identity="shared") as bc:
            results = bc.listen(timeout=60_000)

            def other() -> None:
                with BertClient(**fake_server.ports, identity="shared", timeout=60_000) as clone:
                    clone.encode(["abc"])

            await asyncio.to_thread(other)
            assert (await anext(results)).embedding[0, 0] == 3
            assert [response async for response in bc.listen(timeout=10)] == []

    run(main)


def test_a_client_outlives_an_event_loop(fake_server: FakeServer) -> None:
    bc = AsyncBertClient(**fake_server.ports, timeout=60_000)
    for length in (1, 2):
        assert asyncio.run(bc.encode(["x" * length]))[0, 0] == length
    asyncio.run(bc.close())
