"""A path that swallows packets is noticed on both sides; a peer that does not read is never taken for one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from fault_engines.faulty import SLOW
from silent_network import SilentNetwork, silent_network
from test_queue_limits import is_full

from bert_serving.client import BertClient, dead_peer
from bert_serving.client._transport import sockets
from bert_serving.server.config.server_config import ServerConfig
from fault_helpers import HERE, Raw, ThreadGroup, assert_true, connect, suspended, text, texts
from servers import Server, serving, wait_until

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_INFO") or sys.platform != "linux", reason="needs TCP_INFO")

#: Seconds within which both sides notice a silent network, with the limits of the library.
LONGEST = 40.0
NO_ACK = "acknowledged nothing"


def engine_server(
    *args: str, prefix: list[str] | None = None, short: bool = True
) -> contextlib.AbstractContextManager[Server]:
    path = [HERE, HERE / "short_limits"] if short else [HERE]
    return serving(
        "-engine", "fault_engines.faulty", "-max_batch_tokens", "4096", *args,
        env={"PYTHONPATH": os.pathsep.join(map(str, path))}, prefix=prefix or (),
    )  # fmt: skip


@pytest.fixture
def _short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_peer, "NO_ACK_SECONDS", 1.0)
    monkeypatch.setattr(sockets, "KEEPALIVE_IDLE", 1)
    monkeypatch.setattr(sockets, "KEEPALIVE_INTERVAL", 1)


@pytest.fixture(scope="module")
def network() -> Iterator[SilentNetwork]:
    with contextlib.ExitStack() as stack:
        try:
            network = stack.enter_context(silent_network())
        except OSError as error:
            pytest.skip(f"a network that swallows packets needs root and network namespaces: {error}")
        yield network


@pytest.fixture(scope="module")
def far_server(network: SilentNetwork) -> Iterator[Server]:
    with engine_server("-max_batch_size", "1", prefix=network.prefix) as server:
        yield server


def far_client(network: SilentNetwork, server: Server) -> BertClient:
    network.carry()
    return BertClient(network.address, server.port, server.port_out, timeout=170_000, connect_timeout=170_000)


def lose_network_while_waiting(network: SilentNetwork, server: Server, is_sent: bool) -> tuple[float, float]:
    """Swallows the packets of a request, or of its result.

    Returns:
        Seconds after which the client and the sink closed their connections; those of the sink only if ``is_sent``.
    """
    num_closed = server.log.count(NO_ACK)
    sentences = [f"{text(number)} {SLOW}" for number in range(8)]  # two seconds
    with far_client(network, server) as client, ThreadGroup() as threads:
        state = client._connection.state
        if is_sent:
            threads.start(lambda: assert_true(client.encode(sentences), sentences))
            wait_until(lambda: client.server_status["queue"]["sequences"] > 0, what="the request to arrive")
        network.swallow()
        began = time.monotonic()
        if not is_sent:
            threads.start(lambda: assert_true(client.encode(sentences), sentences))
        wait_until(lambda: not state.up, 100, "the client to close its connection")
        by_client = time.monotonic() - began
        if is_sent:
            wait_until(lambda: server.log.count(NO_ACK) > num_closed, 100, "the server to close its connection")
        by_server = time.monotonic() - began
        network.carry()
        threads.join(60)
    return by_client, by_server


@pytest.mark.usefixtures("_short_limits")
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_silent_network_is_noticed(network: SilentNetwork, far_server: Server, is_sent: bool) -> None:
    by_client, by_server = lose_network_while_waiting(network, far_server, is_sent)
    assert max(by_client, by_server) < LONGEST / 2


@pytest.mark.usefixtures("_short_limits")
def test_a_silent_network_is_noticed_by_an_idle_client(network: SilentNetwork, far_server: Server) -> None:
    with far_client(network, far_server) as client:
        network.swallow()
        wait_until(lambda: not client._connection.state.up, LONGEST / 2, "the client to close its connection")
        network.carry()
        assert_true(client.encode(texts(3)), texts(3))


@pytest.mark.minutes
@pytest.mark.parametrize("is_sent", [False, True])
def test_a_silent_network_is_noticed_within_forty_seconds(network: SilentNetwork, is_sent: bool) -> None:
    with engine_server("-max_batch_size", "1", prefix=network.prefix, short=False) as server:
        assert max(lose_network_while_waiting(network, server, is_sent)) < LONGEST


def pause_both_sides(server: Server, seconds: float) -> None:
    """Neither a reader that pauses nor the client of a server that pauses loses its connection."""
    ventilator = server.child("ventilator")
    many = texts(400)
    with (
        connect(server, timeout=-1, check_length=False) as client,
        Raw(server, b"paused", receive_buffer=4096) as reader,
        ThreadGroup() as t,
    ):
        for _ in range(120):
            reader.send(many)  # 51,200 bytes of vectors each
        wait_until(lambda: client.server_status["queue"]["sequences"] == 0, what="the vectors to be computed")
        ventilator.send_signal(signal.SIGSTOP)
        try:
            large = [text(number) + " hello" * 1000 for number in range(3000)]  # more than the buffers of a connection
            t.start(lambda: client.encode(large))
            time.sleep(seconds)
        finally:
            ventilator.send_signal(signal.SIGCONT)
        for number in range(1, 121):
            request_id, _, vectors = reader.receive()
            assert request_id == b"%d" % number
            assert vectors is not None
            assert_true(vectors, many)
        t.join(120)
        assert client._connection.retry.num_connections == 1
    assert NO_ACK not in server.log


@pytest.mark.usefixtures("_short_limits")
def test_a_peer_that_does_not_read_keeps_its_connection() -> None:
    with engine_server() as server:
        pause_both_sides(server, 5)


@pytest.mark.minutes
@pytest.mark.timeout(290)
def test_a_peer_that_does_not_read_for_minutes_keeps_its_connection() -> None:
    """The probes of a closed window are soon more than a minute apart."""
    with engine_server("-heartbeat_timeout", "600", short=False) as server:
        pause_both_sides(server, 170)


@pytest.mark.minutes
@pytest.mark.timeout(290)
def test_a_pause_of_minutes_costs_neither_results_nor_the_connections_of_a_full_server() -> None:
    """Results are kept for longer than ten minutes by default, which is more than this test can take."""
    assert ServerConfig().result_ttl > 2 * 600
    memory_limit, count, many = 2**20, 1500, texts(400)
    with (
        engine_server("-heartbeat_timeout", "600", "-queue_memory", str(memory_limit), short=False) as server,
        connect(server, timeout=-1) as client,
        Raw(server, b"paused", receive_buffer=4096) as reader,
        Raw(server, b"short") as short,
        ThreadGroup() as threads,
    ):
        for _ in range(120):
            reader.send(many)
        wait_until(lambda: client.server_status["queue"]["requests"] == 0, what="the vectors to be computed")
        with suspended(server.child("worker-0")):
            for _ in range(count):
                short.send([""])
            wait_until(lambda: is_full(server, memory_limit), what="a full server")
            threads.start(lambda: assert_true(client.encode(texts(20)), texts(20)))
            time.sleep(170)
            wait_until(lambda: is_full(server, memory_limit), what="the server to be full still")
        for number in range(1, 121):
            request_id, info, vectors = reader.receive()
            assert request_id == b"%d" % number
            assert vectors is not None, info
            assert_true(vectors, many)
        assert {int(short.receive()[0]) for _ in range(count)} == set(range(1, count + 1))
        threads.join(60)
        assert client._connection.retry.num_connections == 1
        assert NO_ACK not in server.log
