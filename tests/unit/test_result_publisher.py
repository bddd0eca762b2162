"""The outbox over real sockets: who reads gets everything, who does not costs bounded memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from bert_serving.server.security.curve import CurveAuth
from bert_serving.server.sink import publisher as module
from bert_serving.server.sink import subscribers
from bert_serving.server.sink.publisher import ResultPublisher

LOG = logging.getLogger("test")


class Post:
    """An outbox, and readers of it."""

    def __init__(self, max_bytes: int = 10**6, ttl: float = 600.0, absent_ttl: float = 60.0) -> None:
        self.own = zmq.Context()
        self.publisher = ResultPublisher(self.own, "127.0.0.1", 0, LOG, max_bytes, ttl, absent_ttl, CurveAuth(None))
        self.address: str = self.publisher.socket.getsockopt(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
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
        if wait:
            self.until(lambda: self.publisher.is_subscribed(identity))
        else:
            assert monitor.poll(30_000)
        sub.disable_monitor()
        self.subs.append(sub)
        return sub

    def until(self, condition: object, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, "waited in vain"
            for sub in self.subs:
                sub.poll(0)  # a SUB socket subscribes again, after a reconnect, when it is looked at
            if self.publisher.socket.poll(5):
                self.publisher.on_subscription(0.0)
            self.publisher.expire(0.0)
            self.publisher.flush()

    def close(self) -> None:
        self.context.destroy(linger=0)
        self.own.destroy(linger=0)


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    yield post
    post.close()


def read(sub: zmq.Socket[bytes], seconds: float = 30.0) -> list[bytes]:
    assert sub.poll(seconds * 1000), "nothing came"
    return sub.recv_multipart()


def test_a_result_waits_for_its_reader(post: Post) -> None:
    post.publisher.put(b"later", [b"info", b"1"], 0.0)
    assert post.publisher.num_bytes > 0
    sub = post.connect(b"later")
    post.publisher.flush()
    assert read(sub)[1:] == [b"info", b"1"]
    assert post.publisher.num_bytes == 0


def test_a_full_pipe_costs_nothing_and_delays_nobody(post: Post) -> None:
    deaf, keen = post.connect(b"deaf", hwm=1), post.connect(b"keen")
    for number in range(3000):
        post.publisher.put(b"deaf", [b"x" * 10_000, b"%d" % number], 0.0)
        post.publisher.put(b"keen", [b"info", b"%d" % number], 0.0)
        post.until(lambda: keen.poll(0))
        assert keen.recv_multipart()[-1] == b"%d" % number
    assert post.publisher.is_blocked
    assert 0 < post.publisher.num_bytes <= post.publisher.max_bytes
    assert post.publisher.num_dropped > 0
    numbers = [-1]
    while numbers[-1] < 2999:
        post.until(lambda: deaf.poll(0))
        numbers.append(int(deaf.recv_multipart()[-1]))
    del numbers[0]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3000 - post.publisher.num_dropped
    assert post.publisher.num_bytes == 0


def test_bytes_in_zeromqs_hands_are_counted_too(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscribers, "PIPE_BYTES", 4_000_000)
    post.publisher.max_bytes = 10**9
    sub = post.connect(b"slow", hwm=1)
    array = np.zeros(250_000, np.float32)
    for number in range(50):
        post.publisher.put(b"slow", [b"info", array.copy(), b"%d" % number], 0.0)
    assert post.publisher.num_bytes >= 40 * array.nbytes, "ZeroMQ took more than it should hold"
    seen: list[int] = []

    def reads() -> bool:
        while sub.poll(0):
            seen.append(int(sub.recv_multipart()[-1]))
        return len(seen) == 50

    post.until(reads)
    assert seen == list(range(50))
    assert post.publisher.num_bytes == 0


def test_what_waits_is_let_go_after_its_time() -> None:
    post = Post(ttl=100, absent_ttl=10)
    sub = post.connect(b"there", hwm=1)
    for _ in range(500):
        post.publisher.put(b"there", [b"x" * 1000, b"1"], 0.0)
    post.publisher.put(b"never there", [b"x", b"1"], 0.0)
    post.publisher.expire(9.0)
    assert b"never there" in post.publisher.subscribers
    post.publisher.expire(11.0)
    assert b"never there" not in post.publisher.subscribers
    before = post.publisher.num_dropped
    post.publisher.expire(101.0)
    assert post.publisher.num_dropped > before
    assert post.publisher.num_bytes == 0
    assert not post.publisher.is_blocked
    assert read(sub)  # what ZeroMQ has already, it delivers
    post.close()


def test_strangers_are_limited(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_NEVER_SUBSCRIBED", 100)
    sub = post.connect(b"known")
    for number in range(1000):
        post.publisher.put(b"stranger %d" % number, [b"x", b"1"], 0.0)
    assert len(post.publisher.subscribers) == 101
    assert post.publisher.num_dropped == 900
    post.publisher.put(b"known", [b"x", b"1"], 0.0)
    assert read(sub)
    late = post.connect(b"stranger 999")
    post.publisher.flush()
    assert read(late)
    post.publisher.expire(10**6)
    assert set(post.publisher.subscribers) == {b"known", b"stranger 999"}
    assert post.publisher.num_bytes == 0


def test_a_row_that_waits_does_not_hold_its_batch(post: Post) -> None:
    batch = np.frombuffer(bytes(4 * 768 * 256), np.float32).reshape(256, 768)
    post.publisher.put(b"absent", [b"info", batch[3:4], b"1"], 0.0)
    kept = post.publisher.subscribers[b"absent"].queue[0].frames[1]
    assert kept.base is None
    post.publisher.put(b"absent", [b"info", batch[:200], b"2"], 0.0)
    assert post.publisher.subscribers[b"absent"].queue[1].frames[1].base is not None


def test_no_identity_reads_the_results_of_a_longer_one(post: Post) -> None:
    subs = {name: post.connect(name) for name in (b"", b"user", b"user1", b"user12")}
    for name in subs:
        post.publisher.put(name, [name + b"'s", b"1"], 0.0)
    for name, sub in subs.items():
        assert read(sub)[1] == name + b"'s"
        assert not sub.poll(30)


def test_subscriptions_behind_a_message_that_is_none_are_asked_for_again(post: Post) -> None:
    evil = post.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.connect(post.address)
    waiting = post.connect(b"waiting")
    post.publisher.put(b"absent", [b"kept", b"1"], 0.0)
    evil.send(b"no subscription")
    assert post.publisher.socket.poll(5000)
    names = [b"reader %d" % number for number in range(6)]
    subs = [post.connect(name, wait=False) for name in names]
    for name in names:
        post.publisher.put(name, [b"for " + name, b"1"], 0.0)

    def is_open(name: bytes) -> bool:
        return name in post.publisher.subscribers and post.publisher.subscribers[name].is_open

    post.until(lambda: all(map(is_open, (*names, b"waiting"))))
    assert post.publisher.num_resets >= 1
    for name, sub in zip(names, subs, strict=True):
        assert read(sub)[1] == b"for " + name
    post.publisher.put(b"waiting", [b"still here", b"1"], 0.0)
    assert read(waiting)[1] == b"still here"
    assert not evil.poll(50)
    late = post.connect(b"absent")
    post.publisher.flush()
    assert read(late)[1] == b"kept"


def test_subscribers_are_counted_anew_when_their_connections_were_cut(post: Post) -> None:
    """Who subscribes twice says only once that it leaves: no identity stays shut, or open, because of that."""
    evil = post.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.connect(post.address)
    for message in (b"\1mine", b"\1mine", b"no subscription", b"\1mine", b"\1mine"):
        evil.send(message)
    post.until(lambda: post.publisher.num_resets)
    evil.close()
    sub = post.connect(b"mine")
    post.until(lambda: post.publisher.subscribers[b"mine"].is_open)
    post.publisher.put(b"mine", [b"info", b"1"], 0.0)
    assert read(sub)[1:] == [b"info", b"1"]
    post.publisher.expire(module.DISCONNECT_SECONDS)
    post.subs.pop().close()
    post.until(lambda: not post.publisher.is_subscribed(b"mine"))


def test_an_identity_that_no_request_can_have_is_passed_over(post: Post) -> None:
    post.connect(b"y" * 300, wait=False)
    assert post.publisher.socket.poll(5000)
    post.publisher.on_subscription(0.0)
    assert not post.publisher.subscribers


def test_the_first_answer_to_a_clone_waits_until_it_is_subscribed(post: Post) -> None:
    """Also if others of its identity are there, who had theirs."""
    first = post.connect(b"shared")
    post.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    assert read(first)[1:] == [b"config", b"1"]

    post.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    post.publisher.put_first_reply(b"shared", [b"config", b"1"], 0.0)
    assert post.publisher.has_first_replies
    second = post.connect(b"shared", wait=False)
    post.until(lambda: post.publisher.subscribers[b"shared"].subscriptions == 2)
    post.publisher.deliver_first_replies(0.1)
    assert read(second)[1:] == [b"config", b"1"]
    assert post.publisher.has_first_replies, "the third one is not there"
    third = post.connect(b"shared", wait=False)
    post.until(lambda: post.publisher.subscribers[b"shared"].subscriptions == 3)
    post.publisher.deliver_first_replies(0.1)
    assert read(third)[1:] == [b"config", b"1"]
    assert not post.publisher.has_first_replies


def test_the_first_answer_does_not_wait_for_long(post: Post) -> None:
    """Who asks twice under number 1 is no clone."""
    sub = post.connect(b"asks again")
    for _ in range(2):
        post.publisher.put_first_reply(b"asks again", [b"config", b"1"], 0.0)
    assert read(sub)[1:] == [b"config", b"1"]
    assert post.publisher.has_first_replies
    post.publisher.deliver_first_replies(module.FIRST_REPLY_SECONDS)
    assert read(sub)[1:] == [b"config", b"1"]
    assert not post.publisher.has_first_replies


def test_answers_that_wait_for_a_clone_are_bounded(post: Post) -> None:
    for number in range(module.MAX_FIRST_REPLIES + 5):
        post.publisher.put_first_reply(b"nobody", [b"config", b"%d" % number], 0.0)
    assert len(post.publisher._first_replies) <= module.MAX_FIRST_REPLIES


def test_a_reader_learns_which_results_were_let_go() -> None:
    """One that is there and slow: a client without a time limit would wait for ever."""
    post = Post(max_bytes=1_000_000)
    try:
        sub = post.connect(b"slow", hwm=1)
        for number in range(100):
            post.publisher.put(b"slow", [b"info", bytes(200_000), b"%d" % number], 0.0)
        assert post.publisher.num_dropped
        vectors, told = set(), set()
        while len(vectors) + len(told) < 100:
            post.publisher.flush()
            _, info, array, number = read(sub)
            (vectors if array else told).add(int(number))
            assert array or b"-result_memory" in info
        assert len(told) == post.publisher.num_dropped
        assert not vectors & told
        assert not post.publisher.is_blocked
    finally:
        post.close()


def test_what_subscribers_say_is_read_a_part_at_a_time(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is known of the order of the unread is kept until all is read."""
    monkeypatch.setattr(module, "BURST", 10)
    evil = post.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    monitor = evil.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    evil.connect(post.address)
    assert monitor.poll(30_000)
    evil.disable_monitor()
    evil.send(b"this is no subscription")
    for number in range(35):
        evil.send(b"\x01topic %d" % number)
    time.sleep(1)  # so that they are found together
    assert post.publisher.socket.poll(30_000)
    rounds = 1
    while not post.publisher.on_subscription(0.0):
        assert len(post.publisher.subscribers) < 10 * rounds
        rounds += 1
    assert rounds >= 4
    assert len(post.publisher.subscribers) == 35
    assert all(subscriber.unresolved for _, subscriber in post.publisher.subscribers.items())
    evil.close()


def test_subscribed_identities_are_bounded(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound all are cut; who is only a client is back at once."""
    monkeypatch.setattr(subscribers, "MAX_IDENTITIES", 50)
    honest = post.connect(b"honest")
    evil = post.context.socket(zmq.XSUB)
    evil.setsockopt(zmq.LINGER, 0)
    evil.connect(post.address)
    for number in range(49):
        evil.send(b"\x01topic %d" % number)
    post.until(lambda: len(post.publisher.subscribers) == 50)
    assert not post.publisher.num_resets
    evil.send(b"\x01one too many")
    post.until(lambda: post.publisher.num_resets)
    assert b"one too many" not in post.publisher.subscribers
    evil.close()
    post.until(lambda: post.publisher.is_subscribed(b"honest"))
    post.publisher.put(b"honest", [b"info", b"1"], 0.0)
    assert read(honest)[1:] == [b"info", b"1"]
    post.publisher.expire(module.DISCONNECT_SECONDS)
    post.until(lambda: not any(post.publisher.is_subscribed(b"topic %d" % number) for number in range(49)))
    assert post.publisher.subscribers.num_identities == 1
    assert post.publisher.subscribers.num_identity_bytes == len(b"honest")
