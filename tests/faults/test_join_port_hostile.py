"""Hostile connections to the ports on which machines join."""

from __future__ import annotations

import time

import pytest
from handshake import handshake
from joining import front

from fault_helpers import connect
from servers import wait_until

SIZE, MOST = 60_000, 200_000_000


@pytest.mark.minutes
def test_a_message_without_an_end_is_cut() -> None:
    with front("-engine", "zeros", "-result_memory", "10000000", "-join_timeout", "60") as server:
        frame = b"\x03" + SIZE.to_bytes(8, "big") + b"x" * SIZE
        for port, kind in ((server.join_port, b"DEALER"), (server.join_port_out, b"PUSH")):
            sent = 0
            with handshake(port, kind) as sock, pytest.raises(OSError):  # noqa: PT011, a broken pipe or a reset
                while sent < 2 * MOST:
                    sock.sendall(frame)
                    sent += SIZE
                    time.sleep(SIZE / 20e6)  # 20 MB/s
            assert sent < MOST
            wait_until(lambda port=port: f"to port {port}: " in server.log, 10)  # type: ignore[misc]
        server.machine("-engine", "zeros").wait_ready()
        server.wait_ready()
        closed = server.log.count("closed the connection")
        with connect(server) as client:
            for _ in range(6):  # 30 MB of results, more than the limit of one connection, are read and not held
                client.encode(["hello world"] * 40_000)
            assert client.server_status["joined"]["num_joins"] == 1
        assert server.log.count("closed the connection") == closed
