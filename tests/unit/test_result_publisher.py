"""Tests the result publisher over real sockets: delivery, and bounds on queued results."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from bert_serving.server.ipc import connection_monitor, shared_port
from bert_serving.server.ipc.descriptors import inode
from bert_serving.server.security.curve import CurveAuth
from bert_serving.server.sink import exact_xpub, sharded_xpub, subscribers
from bert_serving.server.sink import publisher as module
from bert_serving.server.sink.publisher import ResultPublisher
from bert_serving.server.sink.slow_readers import STALL_SECONDS
from servers import wait_until

LOG = logging.getLogger("test")


class PublisherHarness:
    """A publisher and its subscribers. By default they share one socket of the publisher."""

    def __init__(
        self, max_bytes: int = 10**6, ttl: float = 600.0, absent_ttl: float = 60.0, num_shards: int = 1
    ) -> None:
        self.own = zmq.Context()
        sharded_xpub.NUM_SHARDS = num_shards
        self.publisher = ResultPublisher(self.own, "127.0.0.1", 0, LOG, max_bytes, ttl, absent_ttl, CurveAuth(None))
        self.address = self.publisher.endpoint
        self.port = int(self.address.rpartition(":")[2])
        self.context = zmq.Context()
        self.subs: list[zmq.Socket[bytes]] = []

    def connect(self, identity: bytes, wait: bool = True, hwm: int = 1000) -> zmq.Socket[bytes]:
        sub = self.context.socket(zmq.SUB)
        sub.setsockopt(zmq.LINGER, 0)
        sub.setsockopt(zmq.RCVHWM, hwm)
        sub.setsockopt(zmq.RCVBUF, 4096)
        sub.setsockopt(zmq.RECONNECT_IVL, 10)
        sub.setsockopt(zmq.SUBSCRIBE, identity)
        monitor = sub.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        sub.connect(self.address)
        self.subs.append(sub)
        if wait:
            self.until(lambda: self.publisher.is_subscribed(identity))
        else:
            assert monitor.poll(30_000)
        sub.disable_monitor()
        monitor.close(linger=0)
        return sub

    def until(self, condition: object, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "timed out"
            for sub in self.subs:
                sub.poll(0)  # a SUB socket subscribes again, after a reconnect, when it is looked at
            if self.readable(5):
                self.publisher.on_subscription(0.0)
            self.publisher.expire(0.0)
            self.publisher.flush()

    def readable(self, milliseconds: int) -> bool:
        """Waits until subscriptions may be read, and returns whether there are some."""
        poller = zmq.Poller()
        poller.register(self.publisher, zmq.POLLIN)
        return self.publisher.has_unread or bool(poller.poll(milliseconds))

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.own.destroy(linger=0)


@pytest.fixture
def harness() -> Iterator[PublisherHarness]:
    harness = PublisherHarness()
    yield harness
    harness.close()


def read(sub: zmq.Socket[bytes], seconds: float = 30.0) -> list[bytes]:
    assert sub.poll(seconds * 1000), "no message"
    return sub.recv_multipart()


def test_a_result_is_queued_until_its_subscription(harness: PublisherHarness) -> None:
    harness.publisher.put(b"later", [b"info", b"1"], 0.0)
    assert harness.publisher.num_bytes > 0
    sub = harness.connect(b"later")
    harness.publisher.flush()
    assert read(sub)[1:] == [b"info", b"1"]
    assert harness.publisher.num_bytes == 0


def test_a_full_pipe_loses_no_result_and_delays_no_other_subscriber(harness: PublisherHarness) -> None:
    deaf, keen = harness.connect(b"deaf", hwm=1), harness.connect(b"keen")
    for number in range(600):
        harness.publisher.put(b"deaf", [b"x" * 50_000, b"%d" % number], 0.0)
        harness.publisher.put(b"keen", [b"info", b"%d" % number], 0.0)
        harness.until(lambda: keen.poll(0))
        assert keen.recv_multipart()[-1] == b"%d" % number
    assert harness.publisher.is_blocked
    assert 0 < harness.publisher.num_bytes <= harness.publisher.max_bytes
    assert harness.publisher.num_dropped > 0
    numbers = [-1]
    while numbers[-1] < 599:
        harness.until(lambda: deaf.poll(0))
        numbers.append(int(deaf.recv_multipart()[-1]))
    del numbers[0]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 600 - harness.publisher.num_dropped
    assert harness.publisher.num_bytes == 0


def test_bytes_in_the_pipe_are_limited(harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "PIPE_BYTES", 4_000_000)
    harness.publisher.slow_readers.max_bytes = 10**9
    sub = harness.connect(b"slow", hwm=1)
    array = np.zeros(250_000, np.float32)
    for number in range(50):
        harness.publisher.put(b"slow", [b"info", array.copy(), b"%d" % number], 0.0)
    assert harness.publisher.num_bytes >= 40 * array.nbytes, "ZeroMQ holds more than PIPE_BYTES"
    seen: list[int] = []

    def reads() -> bool:
        while sub.poll(0):
            seen.append(int(sub.recv_multipart()[-1]))
        return len(seen) == 50

    harness.until(reads)
    assert seen == list(range(50))
    assert harness.publisher.num_bytes == 0


def test_queued_results_expire() -> None:
    harness = PublisherHarness(ttl=100, absent_ttl=10)
    sub = harness.connect(b"there", hwm=1)
    for _ in range(500):
        harness.publisher.put(b"there", [b"x" * 1000, b"1"], 0.0)
    harness.publisher.put(b"never there", [b"x", b"1"], 0.0)
    harness.publisher.expire(9.0)
    assert b"never there" in harness.publisher.subscribers
    harness.publisher.expire(11.0)
    assert b"never there" not in harness.publisher.subscribers
    before = harness.publisher.num_dropped
    harness.publisher.expire(101.0)
    assert harness.publisher.num_dropped > before
    assert harness.publisher.num_bytes == 0
    assert not harness.publisher.is_blocked
    assert read(sub)  # what ZeroMQ has already, it delivers
    harness.close()


def test_identities_without_a_subscription_are_limited(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_NEVER_SUBSCRIBED", 100)
    sub = harness.connect(b"known")
    for number in range(1000):
        harness.publisher.put(b"stranger %d" % number, [b"x", b"1"], 0.0)
    assert len(harness.publisher.subscribers) == 101
    assert harness.publisher.num_dropped == 900
    harness.publisher.put(b"known", [b"x", b"1"], 0.0)
    assert read(sub)
    late = harness.connect(b"stranger 999")
    harness.publisher.flush()
    assert read(late)
    harness.publisher.expire(10**6)
    assert set(harness.publisher.subscribers) == {b"known", b"stranger 999"}
    assert harness.publisher.num_bytes == 0


def test_a_queued_row_does_not_keep_its_batch_in_memory(harness: PublisherHarness) -> None:
    batch = np.frombuffer(bytes(4 * 768 * 256), np.float32).reshape(256, 768)
    harness.publisher.put(b"absent", [b"info", batch[3:4], b"1"], 0.0)
    kept = harness.publisher.subscribers[b"absent"].queue[0].frames[1]
    assert kept.base is None
    harness.publisher.put(b"absent", [b"info", batch[:200], b"2"], 0.0)
    assert harness.publisher.subscribers[b"absent"].queue[1].frames[1].base is not None


def test_an_identity_does_not_receive_results_of_a_longer_one(harness: PublisherHarness) -> None:
    subs = {name: harness.connect(name) for name in (b"", b"user", b"user1", b"user12")}
    for name in subs:
        harness.publisher.put(name, [name + b"'s", b"1"], 0.0)
    for name, sub in subs.items():
        assert read(sub)[1] == name + b"'s"
        assert not sub.poll(30)


def connect_evil(harness: PublisherHarness) -> zmq.Socket[bytes]:
    """Returns a socket that has made its handshake and does not connect again."""
    evil = harness.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = evil.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    evil.connect(harness.address)
    assert monitor.poll(30_000)
    evil.disable_monitor()
    monitor.close(linger=0)
    return evil


def test_subscriptions_behind_an_invalid_message_are_requested_again(harness: PublisherHarness) -> None:
    """Their connections are closed, and that of no other client."""
    evil, waiting = connect_evil(harness), harness.connect(b"waiting")
    peers = list(harness.publisher.subscribers[b"waiting"].peers)
    harness.publisher.put(b"absent", [b"kept", b"1"], 0.0)
    evil.send(b"no subscription")
    assert harness.readable(5000)
    names = [b"client %d" % number for number in range(6)]
    subs = [harness.connect(name, wait=False) for name in names]
    for name in names:
        harness.publisher.put(name, [b"for " + name, b"1"], 0.0)
    harness.until(lambda: all(map(harness.publisher.is_subscribed, names)))
    for name, sub in zip(names, subs, strict=True):
        assert read(sub)[1] == b"for " + name
    harness.publisher.put(b"waiting", [b"still here", b"1"], 0.0)
    assert read(waiting)[1] == b"still here"
    assert harness.publisher.subscribers[b"waiting"].peers == peers
    assert not evil.poll(50)
    late = harness.connect(b"absent")
    harness.publisher.flush()
    assert read(late)[1] == b"kept"
    evil.close()


def test_no_result_goes_to_a_connection_that_is_being_closed(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libzmq may hand over its subscriptions until it has closed it, after all messages before were read."""
    closing: list[int] = []

    def close_later(port: int, numbers: list[int]) -> int:
        closing.extend(numbers)
        return 1

    monkeypatch.setattr(sharded_xpub, "close_accepted", close_later)
    evil = connect_evil(harness)
    evil.send(b"no subscription")
    harness.until(lambda: closing)
    harness.publisher.put(b"mine", [b"info", b"1"], 0.0)
    for _ in range(3):
        evil.send(b"\x01mine")
        assert harness.readable(5000)
        while not harness.publisher.on_subscription(0.0):
            pass
        harness.publisher.flush()
        assert not harness.publisher.is_subscribed(b"mine")
    monkeypatch.undo()
    sharded_xpub.close_accepted(harness.port, closing)
    assert read(harness.connect(b"mine"))[1:] == [b"info", b"1"]
    evil.close()


def test_the_subscription_of_a_closed_connection_is_dropped(harness: PublisherHarness) -> None:
    """A result would be lost with it."""
    evil = connect_evil(harness)
    evil.send(b"\x01mine")
    assert harness.readable(5000)
    held = {number: inode(number) for number, _, _ in connection_monitor._accepted(harness.port, range(1000))}
    assert held
    evil.close()
    wait_until(lambda: all(inode(number) != known for number, known in held.items()), what="the end of the connection")
    harness.publisher.put(b"mine", [b"info", b"1"], 0.0)
    while not harness.publisher.on_subscription(0.0):
        pass
    assert not harness.publisher.is_subscribed(b"mine")
    assert read(harness.connect(b"mine"))[1:] == [b"info", b"1"]


def test_subscriptions_are_counted_again_after_an_invalid_message(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that subscribes twice unsubscribes once: no identity stays blocked or open because of that."""
    evil = connect_evil(harness)
    closed: list[int] = []
    close_accepted = sharded_xpub.close_accepted

    def close(port: int, numbers: list[int]) -> int:
        closed.extend(numbers)
        return close_accepted(port, numbers)

    monkeypatch.setattr(sharded_xpub, "close_accepted", close)
    for message in (b"\1mine", b"\1mine", b"no subscription", b"\1mine", b"\1mine"):
        evil.send(message)
    harness.until(lambda: closed and not len(harness.publisher.subscribers))
    evil.close()
    sub = harness.connect(b"mine")
    harness.until(lambda: harness.publisher.subscribers[b"mine"].subscriptions == 1)
    harness.publisher.put(b"mine", [b"info", b"1"], 0.0)
    assert read(sub)[1:] == [b"info", b"1"]
    harness.subs.pop().close()
    harness.until(lambda: not harness.publisher.is_subscribed(b"mine"))


def test_a_subscription_to_an_invalid_identity_is_ignored(harness: PublisherHarness) -> None:
    harness.connect(b"y" * 300, wait=False)
    assert harness.readable(5000)
    harness.publisher.on_subscription(0.0)
    assert not harness.publisher.subscribers


def test_the_first_reply_to_a_clone_waits_for_its_subscription(harness: PublisherHarness) -> None:
    """Also if other connections of its identity have received their first reply."""
    first = harness.connect(b"shared")
    harness.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    assert read(first)[1:] == [b"config", b"1"]

    harness.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    harness.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    assert harness.publisher.has_first_replies
    second = harness.connect(b"shared", wait=False)
    harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 2)
    harness.publisher.deliver_first_replies(0.1)
    assert read(second)[1:] == [b"config", b"1"]
    assert harness.publisher.has_first_replies, "the third one is not there"
    third = harness.connect(b"shared", wait=False)
    harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 3)
    harness.publisher.deliver_first_replies(0.1)
    assert read(third)[1:] == [b"config", b"1"]
    assert not harness.publisher.has_first_replies


def test_the_first_reply_waits_for_a_limited_time(harness: PublisherHarness) -> None:
    """A second request with number 1 may come from the same connection."""
    sub = harness.connect(b"asks again")
    for _ in range(2):
        harness.publisher.put_first_reply(b"asks again", [b"config", b"1"], 0.0)
    assert read(sub)[1:] == [b"config", b"1"]
    assert harness.publisher.has_first_replies
    harness.publisher.deliver_first_replies(module.FIRST_REPLY_SECONDS)
    assert read(sub)[1:] == [b"config", b"1"]
    assert not harness.publisher.has_first_replies


def test_waiting_first_replies_are_limited(harness: PublisherHarness) -> None:
    for number in range(module.MAX_FIRST_REPLIES + 5):
        harness.publisher.put_first_reply(b"absent", [b"config", b"%d" % number], 0.0)
    assert len(harness.publisher._first_replies) <= module.MAX_FIRST_REPLIES


def test_a_slow_client_receives_an_error_for_each_dropped_result() -> None:
    """Otherwise a slow client without a timeout would wait indefinitely."""
    harness = PublisherHarness(max_bytes=1_000_000)
    try:
        sub = harness.connect(b"slow", hwm=1)
        for number in range(100):
            harness.publisher.put(b"slow", [b"info", bytes(200_000), b"%d" % number], 0.0)
        assert harness.publisher.num_dropped
        vectors, told = set(), set()
        while len(vectors) + len(told) < 100:
            # ZeroMQ may hold a result for a moment after it was received; the next one is sent after that.
            harness.until(lambda: sub.poll(0))
            _, info, array, number = read(sub)
            (vectors if array else told).add(int(number))
            assert array or b"-result_memory" in info
        assert len(told) == harness.publisher.num_dropped
        assert not vectors & told
        assert not harness.publisher.is_blocked
    finally:
        harness.close()


def test_subscriptions_are_read_in_bounded_bursts(harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The publisher remembers an invalid message until all messages are read."""
    monkeypatch.setattr(module, "BURST", 10)
    evil = connect_evil(harness)
    evil.send(b"this is no subscription")
    for number in range(35):
        evil.send(b"\x01topic %d" % number)
    time.sleep(1)  # so that they are found together
    assert harness.readable(30_000)
    rounds = 1
    while not harness.publisher.on_subscription(0.0):
        rounds += 1
    assert rounds >= 4
    assert not len(harness.publisher.subscribers)
    evil.close()


def test_subscribed_identities_are_limited(harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit only the connection that subscribes is closed."""
    monkeypatch.setattr(subscribers, "MAX_IDENTITIES", 50)
    honest = harness.connect(b"honest")
    evil = harness.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.setsockopt(zmq.RECONNECT_IVL, -1)
    evil.connect(harness.address)
    for number in range(49):
        evil.send(b"\x01topic %d" % number)
    harness.until(lambda: len(harness.publisher.subscribers) == 50)
    evil.send(b"\x01one too many")
    harness.until(lambda: len(harness.publisher.subscribers) == 1)
    harness.publisher.put(b"honest", [b"info", b"1"], 0.0)
    assert read(honest)[1:] == [b"info", b"1"]
    assert harness.publisher.subscribers.num_identities == 1
    assert harness.publisher.subscribers.num_identity_bytes == len(b"honest")
    evil.close()


@pytest.mark.parametrize(
    "identities",
    [
        [b"topic %d" % number for number in range(exact_xpub.MAX_SUBSCRIPTIONS + 100)],
        [b"%d" % number + bytes(3000) for number in range(exact_xpub.MAX_SUBSCRIBED_BYTES // 3000 + 5)],
    ],
    ids=["many", "long"],
)
def test_subscriptions_of_one_connection_are_limited(harness: PublisherHarness, identities: list[bytes]) -> None:
    """In number and in bytes; those that no request can name count too. The connection alone is closed."""
    honest = harness.connect(b"honest")
    evil = harness.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.setsockopt(zmq.RECONNECT_IVL, -1)
    monitor = evil.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    evil.connect(harness.address)
    for identity in (*identities, b"honest"):
        evil.send(b"\x01" + identity)
    harness.until(lambda: monitor.poll(0))
    evil.disable_monitor()
    monitor.close(linger=0)
    evil.close()
    harness.until(lambda: len(harness.publisher.subscribers) == 1)
    harness.publisher.put(b"honest", [b"info", b"1"], 0.0)
    assert read(honest)[1:] == [b"info", b"1"]
    assert not honest.poll(30)
    late = harness.connect(b"late")
    harness.publisher.put(b"late", [b"info", b"2"], 0.0)
    assert read(late)[1:] == [b"info", b"2"]


def test_a_connection_may_change_its_subscription_for_ever(harness: PublisherHarness) -> None:
    """The limits count subscriptions that are held, not those that were ever made."""
    sub = harness.connect(b"first")
    for number in range(3 * exact_xpub.MAX_SUBSCRIPTIONS):
        identity = b"client %d" % number
        sub.setsockopt(zmq.SUBSCRIBE, identity)
        if number % 100 == 0:  # a SUB socket drops subscriptions beyond 1,000 that are on their way
            harness.until(lambda identity=identity: harness.publisher.is_subscribed(identity))  # type: ignore[misc]
        sub.setsockopt(zmq.UNSUBSCRIBE, identity)
    sub.setsockopt(zmq.SUBSCRIBE, b"last")
    harness.until(lambda: harness.publisher.is_subscribed(b"last"))
    harness.publisher.put(b"first", [b"info", b"1"], 0.0)
    assert read(sub)[1:] == [b"info", b"1"]


@pytest.mark.skipif(not shared_port.IS_SUPPORTED, reason="sockets share a port on Linux")
def test_connections_are_distributed_and_every_clone_gets_every_result_once() -> None:
    harness = PublisherHarness(num_shards=8, max_bytes=10**8)
    try:
        clones = [harness.connect(b"shared") for _ in range(24)]
        harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 24)
        assert len(harness.publisher.subscribers[b"shared"].shards) >= 4
        slow = harness.connect(b"shared", hwm=1)
        harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 25)
        count = 300
        for number in range(count):
            harness.publisher.put(b"shared", [b"info", bytes(100_000 * (number % 2) + 10_000), b"%d" % number], 0.0)
        seen: dict[zmq.Socket[bytes], list[int]] = {sub: [] for sub in (*clones, slow)}

        def have_all() -> bool:
            for sub, numbers in seen.items():
                while sub.poll(0):
                    numbers.append(int(sub.recv_multipart()[-1]))
            return all(len(numbers) == count for numbers in seen.values())

        harness.until(have_all)
        assert all(numbers == list(range(count)) for numbers in seen.values())
        assert not harness.publisher.is_blocked
        for left, sub in enumerate(reversed((*clones, slow))):
            harness.subs.remove(sub)
            sub.close(linger=0)
            harness.until(lambda left=left: harness.publisher.is_subscribed(b"shared") is (left < 24))  # type: ignore[misc]
    finally:
        harness.close()


@pytest.mark.skipif(not shared_port.IS_SUPPORTED, reason="sockets share a port on Linux")
def test_a_shared_port_is_refused_to_others() -> None:
    """Sockets that share a port allow further ones of the same user; the second publisher checks without that."""
    harness = PublisherHarness(num_shards=4)
    try:
        with zmq.Context() as context, pytest.raises(zmq.ZMQError, match="in use"):
            try:
                ResultPublisher(context, "127.0.0.1", harness.port, LOG, 1, 1, 1, CurveAuth(None))
            finally:
                context.destroy(linger=0)
    finally:
        harness.close()


def test_every_subscription_ends_with_its_connection_and_with_no_other(harness: PublisherHarness) -> None:
    """Unsubscriptions of connections that did not subscribe, repeated ones, and ends in any order."""
    clones = [harness.connect(b"shared") for _ in range(3)]
    harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 3)
    stranger = harness.context.socket(zmq.XSUB)
    stranger.connect(harness.address)
    for message in (b"\x00shared", b"\x01shared", b"\x01shared", b"\x00shared", b"\x00shared", b"\x01own"):
        stranger.send(message)
    harness.until(lambda: harness.publisher.is_subscribed(b"own"))
    assert harness.publisher.subscribers[b"shared"].subscriptions == 3
    stranger.send(b"\x01shared")
    harness.until(lambda: harness.publisher.subscribers[b"shared"].subscriptions == 4)
    harness.subs.clear()
    for left, sock in enumerate((clones[1], stranger, clones[0]), 1):
        sock.close(linger=0)
        harness.until(lambda left=left: harness.publisher.subscribers[b"shared"].subscriptions == 4 - left)  # type: ignore[misc]
    clones[2].close(linger=0)
    harness.until(lambda: not len(harness.publisher.subscribers))
    assert harness.publisher.subscribers.num_identities == harness.publisher.subscribers.num_identity_bytes == 0


@pytest.mark.parametrize("reason", ["free", "ttl"])
def test_a_client_that_does_not_read_is_disconnected_and_told(reason: str) -> None:
    """If others need the memory, or after the time for which results are kept."""
    harness = PublisherHarness(max_bytes=100_000_000, ttl=100)
    publisher = harness.publisher
    try:
        sub = harness.connect(b"deaf", hwm=1)
        publisher.expire(0.0)
        for number in range(5):
            publisher.put(b"deaf", [b"info", bytes(10_000_000), b"%d" % number], 1.0)
        publisher.expire(2.0)
        publisher.free(1, 2.0 + STALL_SECONDS / 2)
        assert publisher.num_dropped == 0, "it may still read"
        assert publisher.pipe_bytes
        if reason == "free":
            publisher.free(10**9, 3.0 + STALL_SECONDS)
        else:
            publisher.expire(103.0)
        assert publisher.num_dropped
        assert publisher.num_bytes == 0
        harness.until(lambda: not publisher.pipe_bytes)
        told: set[int] = set()

        def is_told() -> bool:
            while sub.poll(0):
                told.add(int(sub.recv_multipart()[-1]))
            return len(told) == 5

        harness.until(is_told)
    finally:
        harness.close()
