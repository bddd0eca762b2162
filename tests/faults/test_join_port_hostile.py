"""Hostile connections to the ports on which machines join."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from handshake import handshake
from joining import Front, front
from test_limits import peak_memory

from bert_serving.server.cli.keygen import keygen
from bert_serving.server.ipc.frame_memory import small_blocks
from bert_serving.server.security.key_file import load_key
from fault_helpers import connect, memory
from servers import wait_until

SIZE, MOST = 60_000, 200_000_000
MIB = 2**20


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys of the front and of a machine."""
    folder = tmp_path_factory.mktemp("keys")
    assert keygen([str(folder), "gpu1"]) == 0
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Front]:
    with front("-engine", "zeros", "-queue_memory", str(64 * MIB), "-result_memory", str(64 * MIB)) as server:
        yield server


def send_many_frames(port: int, kind: int, count: int, keys: Path | None) -> None:
    """Sends a complete message of ``count`` empty frames, and waits until its connection is closed."""
    with zmq.Context() as context, context.socket(kind) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RECONNECT_IVL, -1)
        if keys is not None:
            sock.curve_serverkey = load_key(keys / "server.key")[0]
            sock.curve_publickey, secret = load_key(keys / "gpu1.key_secret")
            assert secret is not None
            sock.curve_secretkey = secret
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sock.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(count):
            sock.send(b"", zmq.SNDMORE)
        sock.send(b"")
        try:
            assert monitor.poll(60_000), "the connection is open"
        finally:
            sock.disable_monitor()
            monitor.close(linger=0)


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "keys"])
def test_a_message_of_many_frames_is_dropped(is_encrypted: bool, server: Front, keys: Path) -> None:
    """On both ports. Its frames are read in steps, so others are served meanwhile."""
    with contextlib.ExitStack() as stack:
        if is_encrypted:
            server = stack.enter_context(front("-engine", "zeros", "-join_keys", keys))
        for port, kind in ((server.join_port, zmq.DEALER), (server.join_port_out, zmq.PUSH)):
            send_many_frames(port, kind, 50_000, keys if is_encrypted else None)
            line = f"to port {port}: a message of more than 4096 frames"
            wait_until(lambda line=line: line in server.log, what=server.log)  # type: ignore[misc]
        with connect(server) as client:
            assert client.server_status["num_restarts"] == 0


@pytest.mark.skipif(sys.platform != "linux" or small_blocks() is None, reason="needs glibc 2.33")
def test_unfinished_messages_of_tiny_frames_take_limited_memory(server: Front) -> None:
    """An empty frame takes 2 bytes on the wire and 64 in memory; all of them would take 1.9 GiB in each process."""
    for port, kind, name in (
        (server.join_port, b"DEALER", "ventilator"),
        (server.join_port_out, b"PUSH", "sink"),
    ):
        before, sent = memory(server)[name], 0
        with handshake(port, kind) as sock, pytest.raises(OSError):  # noqa: PT011, a broken pipe or a reset
            while sent < 60 * MIB:
                sock.sendall(b"\x01\x00" * (MIB // 4))
                sent += MIB // 2
                time.sleep(0.1)  # 160 MB of frames a second
        wait_until(lambda port=port: f"to port {port}: " in server.log)  # type: ignore[misc]
        assert peak_memory(server.child(name).pid) < before + 1024 * MIB
    assert f"to port {server.join_port_out}: " in server.log
    assert "while frames of such messages take" in server.log
    with connect(server) as client:
        assert client.server_status["num_restarts"] == 0


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
            wait_until(lambda port=port: f"to port {port}: " in server.log)  # type: ignore[misc]
        server.machine("-engine", "zeros").wait_ready()
        server.wait_ready()
        closed = server.log.count("closed the connection")
        with connect(server) as client:
            for _ in range(6):  # 30 MB of results, more than the limit of one connection, are read and not held
                client.encode(["hello world"] * 40_000)
            assert client.server_status["joined"]["num_joins"] == 1
        assert server.log.count("closed the connection") == closed
