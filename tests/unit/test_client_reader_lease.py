"""Reader lease: the I/O thread or a blocked call reads results."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zmq

from bert_serving.client import BertClient, ClientClosedError, RequestTimeoutError
from bert_serving.client._pending import NO_MORE, PendingReplies
from bert_serving.client._transport import reader_lease
from bert_serving.client._transport.reader_lease import HANDOVER_COOLDOWN, ReaderLease
from bert_serving.client.protocol import Reply
from fake_server import DEADLINE, FakeServer, until

#: The fake server holds requests, see ``conftest.py``.
HOLD = True


# ---- the lease ------------------------------------------------------------------------------------------------------


def test_io_thread_holds_the_lease_until_it_releases_it() -> None:
    lease = ReaderLease()
    assert lease.io_thread_reads(100.0)
    assert not lease.start_read("caller", 100.0)
    lease.release(100.0)
    assert not lease.io_thread_reads(100.0)
    assert lease.start_read("caller", 100.0)
    assert lease.caller_is_reading
    assert lease.owned_by_current_thread()
    assert not lease.start_read("another", 100.0), "one reader at a time"
    assert lease.is_read_by("caller")
    assert not lease.is_read_by("another")
    lease.finish_read(100.1)
    assert not lease.caller_is_reading
    assert not lease.is_read_by("caller")
    assert lease.start_read("another", 100.1), "the next call continues"


def test_unused_lease_returns_to_the_io_thread() -> None:
    lease = ReaderLease()
    lease.release(100.0)
    assert lease.expires_at == 100.0 + HANDOVER_COOLDOWN
    assert not lease.io_thread_reads(100.0 + HANDOVER_COOLDOWN - 0.01)
    assert lease.io_thread_reads(lease.expires_at)
    assert lease.expires_at == float("inf")


def test_io_thread_cannot_acquire_the_lease_during_a_read() -> None:
    lease = ReaderLease()
    lease.release(100.0)
    lease.start_read("caller", 100.0)
    assert not lease.acquire(100.0)
    assert not lease.io_thread_reads(100.0 + 2 * HANDOVER_COOLDOWN)
    lease.finish_read(100.0)
    assert lease.acquire(100.0)
    assert not lease.acquire(100.0)
    assert lease.io_thread_reads(100.0)


def test_acquired_lease_is_kept_for_the_cooldown() -> None:
    lease = ReaderLease()
    lease.release(100.0)
    lease.acquire(100.0)
    lease.release(100.0 + HANDOVER_COOLDOWN - 0.01)
    assert lease.io_thread_reads(100.0 + HANDOVER_COOLDOWN - 0.01)
    lease.release(100.0 + HANDOVER_COOLDOWN)
    assert not lease.io_thread_reads(100.0 + HANDOVER_COOLDOWN)


# ---- in a client ----------------------------------------------------------------------------------------------------


def let_calls_read(client: BertClient, fake_server: FakeServer) -> None:
    """Encodes until the I/O thread releases the lease to calls."""

    def calls_may_read() -> bool:
        fake_server.hold = False
        client.encode(["before"])
        fake_server.hold = True
        return not client._connection._receiver.lease._io_thread_reads

    until(calls_may_read, "the I/O thread releases the lease")


def until_call_reads(client: BertClient) -> None:
    until(
        lambda: (
            client._connection._receiver.lease.caller_is_reading or client._connection._receiver.lease._io_thread_reads
        ),
        "a call or the I/O thread reads",
    )


def test_sequential_calls(fake_server: FakeServer) -> None:
    fake_server.hold = False
    with BertClient(**fake_server.ports) as bc:
        for length in range(1, 200):
            assert bc.encode(["x" * length])[0, 0] == length
        assert bc.pending_request == set()


def test_io_thread_continues_after_max_caller_read(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        result = pool.submit(bc.encode, ["a"])
        request = fake_server.next()
        until(lambda: bc._connection._receiver.lease._io_thread_reads, "the I/O thread reads")
        fake_server.reply(request)
        assert result.result(DEADLINE).shape == (1, 4)


def test_reading_call_delivers_replies_of_other_calls(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        one = pool.submit(bc.encode, ["a"])
        first = fake_server.next()
        two = pool.submit(bc.encode, ["bb"])
        second = fake_server.next()
        bc.encode(["ccc"], blocking=False)
        third = fake_server.next()
        for request in (third, second, first):
            fake_server.reply(request)
        assert one.result(DEADLINE)[0, 0] == 1
        assert two.result(DEADLINE)[0, 0] == 2
        assert [response.embedding[0, 0] for response in bc.fetch()] == [3]


def test_io_thread_reads_replies_to_nonblocking_requests(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        bc.encode(["a"], blocking=False)
        fake_server.reply(fake_server.next())
        until(lambda: bc.pending_response, "the reply has arrived before it is fetched")


def test_subscription_receives_results_while_calls_read(fake_server: FakeServer) -> None:
    with (
        BertClient(**fake_server.ports, identity="same") as bc,
        BertClient(**fake_server.ports, identity="same") as clone,
    ):
        let_calls_read(bc, fake_server)
        results = bc.listen()
        fake_server.hold = False
        clone.encode(["abc"])
        assert next(results).embedding[0, 0] == 3


def test_timeout_of_a_reading_call(fake_server: FakeServer) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        bc.timeout = 300
        began = time.monotonic()
        with pytest.raises(RequestTimeoutError):
            bc.encode(["late"])
        assert time.monotonic() - began >= 0.3
        bc.timeout = -1
        let_calls_read(bc, fake_server)


def test_close_while_a_call_reads(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    bc = BertClient(**fake_server.ports)
    let_calls_read(bc, fake_server)
    result = pool.submit(bc.encode, ["a"])
    until_call_reads(bc)
    bc.close()
    with pytest.raises(ClientClosedError):
        result.result(DEADLINE)
    assert not bc._connection._thread.is_alive()


def test_server_restart_while_a_call_reads(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        result = pool.submit(bc.encode, ["a"])
        fake_server.next()
        fake_server.stop()
        fake_server.start()
        fake_server.reply(fake_server.next())
        assert result.result(DEADLINE).shape == (1, 4)


def test_client_resubscribes_while_no_call_reads(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        monkeypatch.setattr(
            reader_lease, "HANDOVER_COOLDOWN", 10 * DEADLINE
        )  # the lease does not return to the I/O thread by itself
        fake_server.drop_port_out()
        until(lambda: fake_server.subscriptions, "the client is subscribed")
        fake_server.hold = False
        assert bc.encode(["abc"])[0, 0] == 3


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals to a thread here")
def test_keyboard_interrupt_while_the_main_thread_reads(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    """Replies to other calls are not lost, and the client continues to work."""
    assert threading.current_thread() is threading.main_thread()
    with BertClient(**fake_server.ports) as bc:
        for length in range(1, 6):
            let_calls_read(bc, fake_server)

            def interrupt() -> None:
                fake_server.next()  # the main thread waits for a reply that is never sent
                until_call_reads(bc)
                os.kill(os.getpid(), signal.SIGINT)

            pool.submit(interrupt)
            with pytest.raises(KeyboardInterrupt):
                bc.encode(["interrupted"])
            other = pool.submit(bc.encode, ["x" * length])
            while (request := fake_server.next()).texts == ["interrupted"]:
                pass
            fake_server.reply(request)
            assert other.result(DEADLINE)[0, 0] == length


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_signal_handler_encodes_while_its_thread_reads(fake_server: FakeServer, pool: ThreadPoolExecutor) -> None:
    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        nested: list[float] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: nested.append(bc.encode(["nested"])[0, 0]))

        def signal_and_answer() -> None:
            outer = fake_server.next()
            until_call_reads(bc)
            os.kill(os.getpid(), signal.SIGUSR1)
            fake_server.reply(fake_server.next())
            until(lambda: nested, "the handler has its reply")
            fake_server.reply(outer)

        answering = pool.submit(signal_and_answer)
        try:
            assert bc.encode(["outer one"])[0, 0] == len("outer one")
        finally:
            signal.signal(signal.SIGUSR1, before)
        answering.result(DEADLINE)
        assert nested == [len("nested")]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal here")
def test_signal_handler_encodes_between_two_frames(fake_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    received = zmq.Socket.recv
    is_armed = [False]

    def interrupted(self: zmq.Socket[bytes], flags: int = 0, copy: bool = True, **options: Any) -> Any:
        frame: Any = received(self, flags, copy, **options)
        is_main = threading.current_thread() is threading.main_thread()
        if is_armed[0] and is_main and not copy and frame.more:
            is_armed[0] = False
            signal.raise_signal(signal.SIGUSR1)
        return frame

    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        fake_server.hold = False
        nested: list[float] = []
        before = signal.signal(signal.SIGUSR1, lambda *_: nested.append(bc.encode(["nested"])[0, 0]))
        try:
            monkeypatch.setattr(zmq.Socket, "recv", interrupted)
            is_armed[0] = True
            while is_armed[0]:  # until it is the main thread that reads
                assert bc.encode(["outer one"])[0, 0] == len("outer one")
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert nested == [len("nested")]


class InterruptedDict(dict[int, Any]):
    """Raises KeyboardInterrupt after an item was removed."""

    def pop(self, *args: Any) -> Any:
        found = super().pop(*args)
        if found is not None:
            raise KeyboardInterrupt
        return found


def test_interrupted_put_adds_the_reply_once() -> None:
    pending = PendingReplies()
    pending._expected = InterruptedDict()
    pending.expect(1)
    with pytest.raises(KeyboardInterrupt):
        pending.put(1, Reply(1, {}))
    pending.put(1, Reply(1, {"again": True}))
    assert pending.take(None, 0.0) == (1, Reply(1, {}))
    assert pending.take(None, 0.0) is NO_MORE


class Interrupted:
    """A call whose thread is interrupted while it delivers a reply to another call."""

    def __init__(self) -> None:
        self.answers: list[int] = []

    def has_replies(self) -> bool:
        return bool(self.answers)


def test_reply_lost_by_keyboard_interrupt_is_requested_again(fake_server: FakeServer) -> None:
    delivered: list[int] = []

    def on_reply(number: int, _: object) -> None:
        delivered.append(number)
        if len(delivered) == 1:
            raise KeyboardInterrupt

    with BertClient(**fake_server.ports) as bc:
        let_calls_read(bc, fake_server)
        connection, caller = bc._connection, Interrupted()
        number = connection.new_number()
        connection.submit(number, b'["a"]', 1, on_reply, caller_reads=True)
        fake_server.reply(fake_server.next())
        with pytest.raises(KeyboardInterrupt):
            until(lambda: not connection.read(caller, 1.0), "no call reads")
        fake_server.reply(fake_server.next())
        until(lambda: delivered == [number, number], "it was delivered again")
        assert bc.pending_request == set()
