"""Hostile messages: no process dies, other clients are not affected, and memory stays bounded."""

from __future__ import annotations

import contextlib
import socket
import sys
import time
from collections.abc import Iterator

import pytest
import zmq
from fuzz import RESULT_MEMORY, fuzz
from handshake import handshake, subscription
from http_fuzz import http_fuzz

from bert_serving.client import BertClient
from fault_helpers import Raw, ThreadGroup, assert_true, connect, faulty, memory, open_files, suspended, texts
from servers import Server, free_ports, is_free, wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with faulty("-absent_ttl", "5", "-result_memory", str(RESULT_MEMORY), engine="sound") as server:
        yield server


def test_20_000_random_and_mutated_messages(server: Server) -> None:
    fuzz(server, 20_000, seed=7)


def test_2_000_random_and_mutated_http_requests() -> None:
    (port,) = free_ports(1)
    with faulty("-http_port", str(port), engine="sound") as server:
        assert http_fuzz(server, port, 2000, seed=7)[200] > 100


class HostileSockets:
    """Sockets that send invalid messages to the result port."""

    def __init__(self) -> None:
        self.context = zmq.Context()

    def make(self, server: Server) -> zmq.Socket[bytes]:
        sock = self.context.socket(zmq.XSUB)
        sock.setsockopt(zmq.LINGER, 0)
        monitor = sock.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        sock.connect(f"tcp://127.0.0.1:{server.port_out}")
        assert monitor.poll(60_000)
        sock.disable_monitor()
        monitor.close(linger=0)
        return sock


@pytest.fixture
def hostile() -> Iterator[HostileSockets]:
    hostile = HostileSockets()
    yield hostile
    hostile.context.destroy(linger=0)


def test_invalid_messages_do_not_mix_up_subscriptions(server: Server, hostile: HostileSockets) -> None:
    """libzmq pairs pending subscriptions with the wrong connections after such a message; see exact_xpub.py.

    The sink is suspended meanwhile, so that it reads them together; ``tests/unit/test_result_publisher.py`` covers it.
    """
    sock = hostile.make(server)
    with connect(server) as client:
        restarts = client.server_status["num_restarts"]
    clients = []
    with suspended(server.child("sink")):
        for _ in range(3):
            sock.send(b"this is no subscription")
        clients.extend(Raw(server, b"honest %d" % index) for index in range(5))
    for index, client in enumerate(clients):
        client.send(texts(index + 1, 10 * index))
    for index, client in enumerate(clients):
        _, _, vectors = client.receive()
        assert vectors is not None
        assert_true(vectors, texts(index + 1, 10 * index))
    assert not sock.poll(100), "a client got the result of another client"
    for client in clients:
        assert client.status()["num_restarts"] == restarts
        client.close()
    sock.close()


def test_invalid_messages_close_no_other_connection(server: Server, hostile: HostileSockets) -> None:
    """A client of 1.10, which repeats no request, receives every result."""
    with Raw(server, b"honest") as raw:
        restarts = raw.status()["num_restarts"]
        monitor = raw.sub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for round_ in range(5):
            sent = {raw.send(texts(5, number)): texts(5, number) for number in range(20)}
            sock = hostile.make(server)
            for topic in range(200):
                sock.send(b"noise")
                sock.send(b"\x01topic %d" % topic)
            for _ in range(20):
                request_id, _, vectors = raw.receive()
                assert vectors is not None, round_
                assert_true(vectors, sent.pop(request_id))
            sock.close()
        assert not monitor.poll(0)
        raw.sub.disable_monitor()
        monitor.close(linger=0)
        assert raw.status()["num_restarts"] == restarts


def test_sockets_of_the_wrong_kind(server: Server) -> None:
    with zmq.Context() as context, connect(server) as client:
        for kind in (zmq.REQ, zmq.DEALER, zmq.ROUTER, zmq.PUB, zmq.PAIR, zmq.PULL, zmq.REP, zmq.SUB, zmq.PUSH):
            for port in (server.port, server.port_out):
                with context.socket(kind) as sock:
                    sock.setsockopt(zmq.LINGER, 0)
                    sock.setsockopt(zmq.SNDTIMEO, 50)
                    sock.connect(f"tcp://127.0.0.1:{port}")
                    if kind in (zmq.REQ, zmq.DEALER, zmq.PUSH, zmq.PAIR):
                        try:
                            sock.send_multipart([b"x", b'["hello"]', b"1", b"1"])
                        except zmq.Again:
                            continue
        assert_true(client.encode(texts(20)), texts(20))


def test_idle_connections_are_closed(server: Server) -> None:
    """After a flood of connections without a handshake, clients are served and the descriptors are released."""
    with connect(server) as client:
        client.encode(texts(3))
        before = sum(open_files(server).values())
        idle = [
            socket.create_connection(("127.0.0.1", port), 60)
            for port in (server.port, server.port_out)
            for _ in range(150)
        ]
        assert_true(client.encode(texts(20)), texts(20))
        with connect(server) as late:
            assert_true(late.encode(texts(3)), texts(3))
        for sock in idle:
            sock.close()
        wait_until(lambda: sum(open_files(server).values()) <= before + 10, what="the descriptors to come back")


def test_termination_from_another_machine_is_refused(server: Server) -> None:
    """An address of this machine that is not a loopback address counts as another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells by which address one would
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has a loopback address only")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push, connect(server) as client:
        push.setsockopt(zmq.LINGER, 0)
        push.connect(f"tcp://{address}:{server.port}")
        push.send_multipart([b"stranger", b"TERMINATION", b"0", b"0"])
        wait_until(lambda: "TERMINATION is accepted from this machine only" in server.log)
        assert_true(client.encode(texts(3)), texts(3))
        wait_until(lambda: client.server_status["state"] == "ready", what="the server to be ready")
        assert not is_free(server.port)


def num_requests(client: BertClient) -> int:
    return client.server_status["statistic"]["num_data_request"]  # type: ignore[no-any-return]


def test_results_without_a_subscriber_are_dropped(server: Server) -> None:
    """Requests of 30,000 identities without a subscription."""
    with connect(server) as client, zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 1000)
        push.connect(f"tcp://127.0.0.1:{server.port}")
        sizes = []
        for round_ in range(3):
            before = num_requests(client)
            for number in range(10_000):
                push.send_multipart([b"absent %d %d" % (round_, number), b'["hello"]', b"1", b"1"])
            wait_until(lambda before=before: num_requests(client) >= before + 10_000, what="the requests")  # type: ignore[misc]
            wait_until(lambda: client.server_status["queue"]["requests"] == 0, what="the work to be done")
            sizes.append(memory(server)["sink"])
        assert sizes[-1] < sizes[0] + 32 * 2**20
        started = time.monotonic()
        assert_true(client.encode(texts(3)), texts(3))
        assert time.monotonic() - started < 30


def test_marks_in_any_order_and_number_take_no_longer_than_letters(server: Server) -> None:
    """Unicode normalization sorts the marks behind a letter in quadratic time."""
    with connect(server, check_length=False) as client:
        restarts = client.server_status["num_restarts"]
        for text in (
            "a" + "\u0301" * 400_000 + "\u0323" * 400_000,
            "\u0f73" * 800_000,
            "\U0001d16d\U0001d165" * 400_000,
        ):
            sentences = [text, *texts(3)]
            assert_true(client.encode(sentences)[1:], texts(3))
        assert client.server_status["num_restarts"] == restarts


def test_only_a_connection_that_subscribed_can_unsubscribe(server: Server) -> None:
    """Neither the unsubscription of a stranger nor its end takes the answers of a client away."""
    with Raw(server, b"victim") as raw, connect(server, identity="shared") as client:
        identities = (b"victim", b"shared")
        unsubscribe = b"".join(subscription(identity, b"\x00") for identity in identities)
        subscribe = b"".join(subscription(identity) for identity in identities)
        for number, frames in enumerate((unsubscribe, subscribe, 2 * subscribe + 2 * unsubscribe + subscribe)):
            with handshake(server.port_out, b"SUB") as stranger:
                last = b"last %d" % number
                stranger.sendall(frames + subscription(last))
                raw.push.send_multipart([last, b'["hello"]', b"1", b"1"])
                received = b""
                while last not in received:  # then the sink has read the frames before
                    received += stranger.recv(65536)
            raw.send(texts(2, number))
            _, _, vectors = raw.receive()
            assert vectors is not None
            assert_true(vectors, texts(2, number))
            assert_true(client.encode(texts(3, number)), texts(3, number))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what came in by a connection")
def test_the_connection_of_an_endless_message_is_closed() -> None:
    """ZeroMQ limits frames and messages, not the number of frames in a message."""
    with faulty("-max_message_bytes", "100000") as server, connect(server) as client:
        before = memory(server)
        for port, kind, size, most in (
            (server.port, b"PUSH", 160_000, 1_000_000_000),
            (server.port_out, b"XSUB", 60_000, 200_000_000),
            (server.port_out, b"SUB", 60_000, 200_000_000),
        ):
            frame = b"\x03" + size.to_bytes(8, "big") + b"x" * size
            with handshake(port, kind) as sock:
                sent = 0
                with pytest.raises(OSError):  # noqa: PT011, a broken pipe; or a reset, if the server has closed the connection
                    while sent < 2 * most:
                        sock.sendall(frame)
                        sent += size
                        # Bytes a second, so that a check finds not too much: ZeroMQ reads on beside it, and a server
                        # that gets little of the machine looks seldom.
                        time.sleep(size / 50e6)
                assert sent < most
            assert_true(client.encode(texts(10)), texts(10))
        after = memory(server)
        assert max(after[name] - before[name] for name in ("ventilator", "sink")) < 200 * 2**20
        assert "bytes without a complete message" in server.log
        assert client.server_status["num_restarts"] == 0


def test_consecutive_large_messages_are_accepted() -> None:
    """Unread complete messages at a busy server are not abuse."""
    with faulty("-max_queue_tokens", "20000", engine="steady") as server, Raw(server, b"eager") as raw:
        for number in range(20):
            raw.push.send_multipart([b"eager", b'["hello"]' + b" " * 25_000_000, b"%d" % number, b"1"])
        assert {raw.receive()[0] for _ in range(20)} == {b"%d" % number for number in range(20)}
        assert "closed the connection" not in server.log


def test_a_flood_of_subscriptions(server: Server, hostile: HostileSockets) -> None:
    """The sink closes the connection, and no other. Its socket connects again and again, and others are served."""
    sock = hostile.make(server)
    sock.setsockopt(zmq.SNDHWM, 0)
    complaint = "closed a connection to the result port: subscriptions to more than 500 identities"
    assert complaint not in server.log
    with connect(server) as client:
        status = client.server_status
        slowest = 0.0
        for number in range(120_000):
            sock.send(b"\x01%d of many, and each of them is long" % number)
            if number % 15_000 == 0:
                started = time.monotonic()
                assert_true(client.encode(texts(3)), texts(3))
                slowest = max(slowest, time.monotonic() - started)
        wait_until(lambda: complaint in server.log)
        assert slowest < 20
        sock.close()
        with connect(server) as late:
            assert_true(late.encode(texts(3)), texts(3))
        assert_true(client.encode(texts(3)), texts(3))
        assert client.server_status["num_restarts"] == status["num_restarts"]


def test_tiny_subscriptions_of_one_connection_delay_no_new_client(server: Server) -> None:
    """A million of them stopped new clients for 12 s."""
    data = b"".join(subscription(number.to_bytes(3, "big")) for number in range(1_000_000))

    def seconds_of_a_new_client() -> float:
        started = time.monotonic()
        with connect(server) as client:
            assert_true(client.encode(texts(1)), texts(1))
        return time.monotonic() - started

    usual = max(seconds_of_a_new_client() for _ in range(5))  # long if the machine has other work
    with handshake(server.port_out, b"SUB") as sock:
        sock.settimeout(60)
        with ThreadGroup() as group:

            def send() -> None:
                with contextlib.suppress(OSError):  # the server closes the connection
                    sock.sendall(data)

            group.start(send)
            longest, is_last = 0.0, False
            while not is_last:
                is_last = not group.is_busy()
                longest = max(longest, seconds_of_a_new_client())
            assert longest < 5 + 10 * usual
