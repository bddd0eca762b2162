"""A server drops the requests that no call awaits any more, if its configuration says that it can."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from bert_serving.client import AsyncBertClient, BertClient, ClientClosedError, RequestTimeoutError
from bert_serving.client.protocol import CANCEL, CANCEL_VERSION, SHOW_CONFIG
from fake_server import CONFIG, DEADLINE, FakeServer, run_fake_server, until

HOLD = True
TEXTS = ["a", "bb", "ccc"]
ORIGINAL = {key: value for key, value in CONFIG.items() if key != "protocol_version"}


def assert_all_cancelled(server: FakeServer, number: int = 3) -> None:
    until(lambda: len(server.cancelled) == number, "the cancellation")
    # An interrupted call that read replies sends its requests again before it cancels them.
    assert set(server.cancelled) == {request.wire_id for request in server.received}


def interrupt_when_received(server: FakeServer) -> threading.Thread:
    """Sends SIGINT to this process when the server has three requests."""

    def wait() -> None:
        until(lambda: len(server.received) == 3, "the requests")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_timeout(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        bc.timeout = 300
        with pytest.raises(RequestTimeoutError):
            bc.encode(TEXTS, batch_size=1)
        assert_all_cancelled(fake_server)


def test_keyboard_interrupt(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports, timeout=1000 * DEADLINE) as bc:
        thread = interrupt_when_received(fake_server)
        with pytest.raises(KeyboardInterrupt):
            bc.encode(TEXTS, batch_size=1)
        thread.join()
        assert_all_cancelled(fake_server)
        fake_server.hold = False
        assert bc.encode(["four"])[0, 0] == 4


@pytest.mark.parametrize("sent", range(4))
def test_keyboard_interrupt_between_two_frames(sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames that were sent do not become a part of the next message."""
    send, frames = zmq.Socket.send, 0

    def interrupted(self: zmq.Socket[bytes], *args: Any, **kwargs: Any) -> Any:
        nonlocal frames
        if self.type == zmq.PUSH:
            frames += 1
            if frames == sent + 1:
                raise KeyboardInterrupt
        return send(self, *args, **kwargs)

    with (
        run_fake_server(config=ORIGINAL) as server,  # no CANCEL comes between
        BertClient(**server.ports, timeout=10_000) as bc,
    ):
        monkeypatch.setattr(zmq.Socket, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bc.encode(["interrupted"])
        assert bc.encode(["four"])[0, 0] == 4
        assert server.received[-1].texts == ["four"]


PROGRAM = """
import sys
from bert_serving.client import BertClient
BertClient(port=int(sys.argv[1]), port_out=int(sys.argv[2])).encode(["a", "bb", "ccc"], batch_size=1)
"""


def test_keyboard_interrupt_that_ends_the_program(fake_server: FakeServer) -> None:
    command = [sys.executable, "-c", PROGRAM, str(fake_server.port), str(fake_server.port_out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as program:
        until(lambda: len(fake_server.received) == 3, "the requests")
        program.send_signal(signal.SIGINT)
        program.wait(DEADLINE)
    assert_all_cancelled(fake_server)


def test_close_during_a_call(fake_server: FakeServer) -> None:
    bc = BertClient(**fake_server.ports)
    assert bc.identity  # other clients do not await the result of a call

    def close() -> None:
        until(lambda: len(fake_server.received) == 3, "the requests")
        bc.close()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(ClientClosedError):
        bc.encode(TEXTS, batch_size=1)
    thread.join()
    assert_all_cancelled(fake_server)


@pytest.mark.parametrize("way", ["close", "garbage"])
def test_end_of_a_client_with_posted_requests(way: str, fake_server: FakeServer) -> None:
    bc = BertClient(**fake_server.ports)
    for text in TEXTS:
        bc.encode([text], blocking=False)
    until(lambda: len(fake_server.received) == 3, "the requests")
    if way == "close":
        bc.close()
    del bc
    gc.collect()
    assert_all_cancelled(fake_server)


@pytest.mark.parametrize("is_given", [True, False])
def test_posted_requests_of_a_shared_identity_are_kept(is_given: bool, fake_server: FakeServer) -> None:
    """As with 1.10.0, another client with the identity receives the result after the sender has closed."""
    sender = BertClient(**fake_server.ports, identity="group" if is_given else None)
    with BertClient(**fake_server.ports, identity=sender.identity) as member:
        results = member.listen(timeout=1000 * DEADLINE)
        sender.encode(TEXTS, blocking=False)
        request = fake_server.next()
        sender.close()
        fake_server.reply(request)
        assert next(results).embedding[:, 0].tolist() == [1, 2, 3]
    assert fake_server.cancelled == []


def test_closed_stream(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        results = bc.encode_async([text] for text in ["x", *TEXTS])
        fake_server.reply(fake_server.next())
        next(results)
        until(lambda: len(fake_server.received) == 4, "the requests")
        results.close()
        until(lambda: len(fake_server.cancelled) == 3, "the cancellation")
        assert sorted(fake_server.cancelled) == sorted(request.wire_id for request in fake_server.received[1:])


def test_cancelled_tasks(fake_server: FakeServer) -> None:
    async def encode(bc: AsyncBertClient) -> None:
        await bc.encode(TEXTS, batch_size=1)

    async def stream(bc: AsyncBertClient) -> None:
        async for _ in bc.encode_async([text] for text in TEXTS):
            pass

    async def run() -> None:
        async with AsyncBertClient(**fake_server.ports) as bc:
            for number, call in enumerate((encode, stream), 1):
                task = asyncio.create_task(call(bc))
                await asyncio.to_thread(until, lambda number=number: len(fake_server.received) == 3 * number)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await asyncio.to_thread(assert_all_cancelled, fake_server, 3 * number)

    asyncio.run(run())


def test_answered_calls_cancel_nothing(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with BertClient(**fake_server.ports) as bc:
        bc.encode(TEXTS, batch_size=1)
        assert bc.server_config
    with BertClient(**fake_server.ports) as bc:
        assert len(list(bc.encode_async([text] for text in TEXTS))) == 3
    assert CANCEL not in fake_server.commands


@pytest.fixture(params=["original", "earlier", "unchecked"])
def server_without_cancel(request: pytest.FixtureRequest) -> Iterator[tuple[FakeServer, dict[str, Any]]]:
    config = {"original": ORIGINAL, "earlier": {**CONFIG, "protocol_version": CANCEL_VERSION - 1}}
    with run_fake_server(config=config.get(request.param, CONFIG), hold=True) as server:
        yield server, {**server.ports, "ignore_all_checks": request.param == "unchecked"}


def test_never_without_a_known_version(server_without_cancel: tuple[FakeServer, dict[str, Any]]) -> None:
    server, arguments = server_without_cancel
    with BertClient(**arguments) as bc:
        bc.timeout = 300
        with pytest.raises(RequestTimeoutError):
            bc.encode(TEXTS, batch_size=1)
        bc.encode(["posted"], blocking=False)
        until(lambda: len(server.received) == 4, "the requests")
    with BertClient(**arguments) as after:  # the server has read all that the first client sent
        after.encode(["after"], blocking=False)
        until(lambda: len(server.received) == 5, "the last request")
    assert CANCEL not in server.commands


def test_another_server_on_the_same_ports_is_asked_first(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        fake_server.stop()
        fake_server.config = ORIGINAL
        fake_server.start()
        until(lambda: fake_server.commands == [SHOW_CONFIG] * 2, "the question")
        bc.timeout = 300
        with pytest.raises(RequestTimeoutError):
            bc.encode(TEXTS, batch_size=1)
        fake_server.stop()
        fake_server.config = CONFIG
        fake_server.start()
        until(lambda: fake_server.commands[:3] == [SHOW_CONFIG] * 3, "the question")
        bc.timeout = 2000
        with pytest.raises(RequestTimeoutError):
            bc.encode(["x"])
        until(lambda: fake_server.received[-1].wire_id in fake_server.cancelled, "the cancellation")
        assert CANCEL not in fake_server.commands[:3]


def test_limits_of_a_restarted_server_are_adopted(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with BertClient(**fake_server.ports, timeout=1000 * DEADLINE) as bc:
        assert bc.length_limit == 25
        fake_server.stop()
        fake_server.config = {**CONFIG, "max_seq_len": 64, "max_message_bytes": 1000}
        fake_server.hold = True
        fake_server.start()
        bc.encode(["one"], blocking=False)
        fake_server.reply(fake_server.next(), num_truncated=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bc.fetch_all()
        assert "max_seq_len=64 " in str(caught[0].message)
        until(lambda: bc._connection.max_message_bytes == 1000)
