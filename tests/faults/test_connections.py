"""Many connections: limits of open files, and connections that come and go."""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator

import psutil
import pytest
from handshake import handshake, subscription

from fault_helpers import assert_true, connect, faulty, texts
from servers import Server, wait_until


@contextlib.contextmanager
def idle_clients(server: Server, count: int) -> Iterator[None]:
    """Opens the two connections of each client, without requests. The server may close them."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            for port, kind in ((server.port, b"PUSH"), (server.port_out, b"SUB")):
                with contextlib.suppress(OSError):
                    sock = stack.enter_context(handshake(port, kind))
                    if kind == b"SUB":
                        sock.sendall(subscription(b"idle %d" % number))
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="limits of another process are Linux's")
def test_more_clients_than_descriptors_leave_those_who_are_in_alone() -> None:
    """At the limit of open files, no process ends; the newest connections are closed, and later clients are served."""
    with faulty() as server, connect(server) as client:
        assert_true(client.encode(texts(1)), texts(1))
        for name in ("ventilator", "sink"):
            server.child(name).rlimit(psutil.RLIMIT_NOFILE, (400, 400))
        with idle_clients(server, 500):
            for number in range(20):
                assert_true(client.encode(texts(2, number)), texts(2, number))
            wait_until(lambda: server.log.count("open files are the limit of this process") >= 2)
            for name in ("ventilator", "sink"):
                assert f"W:{name.upper()}" in server.log
                wait_until(lambda name=name: server.child(name).num_fds() <= 400 - 32, what="descriptors in reserve")  # type: ignore[misc]
        with connect(server) as late:
            assert_true(late.encode(texts(3)), texts(3))
        assert_true(client.encode(texts(1)), texts(1))
        assert client.server_status["num_restarts"] == 0


def test_the_limit_of_open_files_is_raised_and_named() -> None:
    """The processes with client connections use the hard limit; the user's process keeps its own."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with faulty() as server:
        for name in ("ventilator", "sink"):
            assert server.child(name).rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
        assert f"{hard} open files for each process (ulimit -Hn) allow" in server.log
