"""New connections to a port go to the chosen socket, and open ones stay where they are."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq

from bert_serving.server.ipc import shared_port
from bert_serving.server.ipc.shared_port import MovablePort
from servers import free_ports

pytestmark = pytest.mark.skipif(not shared_port.IS_SUPPORTED, reason="sockets share a port on Linux")


class Sockets:
    """Makes ZeroMQ sockets and closes them."""

    def __init__(self) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.all: list[zmq.Socket[bytes]] = []

    def make(self, kind: int) -> zmq.Socket[bytes]:
        self.all.append(self.context.socket(kind))
        return self.all[-1]

    def connect(self, number: int) -> zmq.Socket[bytes]:
        """Returns a new client of a port."""
        client = self.make(zmq.PUSH)
        client.connect(f"tcp://127.0.0.1:{number}")
        return client


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    made = Sockets()
    yield made
    for sock in made.all:
        sock.close(linger=0)
    made.context.term()


@pytest.fixture
def number() -> int:
    return free_ports(1)[0]


def receives(sock: zmq.Socket[bytes], message: bytes) -> bool:
    return bool(sock.poll(10_000)) and sock.recv() == message


@pytest.mark.parametrize("host", ["127.0.0.1", "*"])
def test_new_connections_go_to_the_chosen_socket(sockets: Sockets, number: int, host: str) -> None:
    servers = [sockets.make(zmq.PULL) for _ in range(4)]
    port = MovablePort(servers, host, number)
    assert port.is_movable
    clients = []
    for target in (0, 2, 3, 0, 1):
        port.move(target)
        for _ in range(5):
            client = sockets.connect(number)
            client.send(b"first")
            assert receives(servers[target], b"first")
            clients.append((client, target))
    for client, target in clients:
        client.send(b"second")
        assert receives(servers[target], b"second")
    port.close()


def test_a_port_that_cannot_move_stays_with_the_first_socket(
    sockets: Sockets, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MovablePort, number: int) -> None:
        raise OSError("no such option")

    monkeypatch.setattr(MovablePort, "_choose", refuse)
    servers = [sockets.make(zmq.PULL) for _ in range(3)]
    port = MovablePort(servers, "127.0.0.1", number)
    assert not port.is_movable
    port.move(2)
    for _ in range(10):
        sockets.connect(number).send(b"x")
        assert receives(servers[0], b"x")
    port.close()


def test_of_programs_that_start_at_once_only_one_gets_the_port(
    sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_port, "UNBIND_SECONDS", 0.3)

    def bind(servers: list[zmq.Socket[bytes]], number: int, start: threading.Barrier) -> MovablePort | None:
        start.wait(10)
        try:
            return MovablePort(servers, "127.0.0.1", number)
        except zmq.ZMQError:
            return None

    for number in free_ports(5):
        start = threading.Barrier(3)
        groups = [[sockets.make(zmq.PULL) for _ in range(3)] for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            ports = list(pool.map(bind, groups, [number] * 3, [start] * 3))
        assert sum(port is not None for port in ports) <= 1
        for port in filter(None, ports):
            port.close()


def test_a_port_in_use_is_refused(sockets: Sockets, number: int) -> None:
    port = MovablePort([sockets.make(zmq.PULL) for _ in range(2)], "127.0.0.1", number)
    with pytest.raises(zmq.ZMQError):
        MovablePort([sockets.make(zmq.PULL)], "127.0.0.1", number)
    port.close()
