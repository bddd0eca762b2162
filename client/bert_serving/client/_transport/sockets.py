"""The sockets of a client's connection, and how they are configured."""

from __future__ import annotations

import contextlib
import socket
from typing import NamedTuple

import zmq

from .connection_state import EVENTS, PortState


class Curve(NamedTuple):
    """CURVE keys in Z85: of the server, and the client's own pair."""

    server_key: str
    public_key: str
    secret_key: str


class Sockets:
    """A context for the sockets of one connection, and a pair by which any thread wakes the one that serves them.

    Attributes:
        woken: readable when that thread is to look at what is new.
    """

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._waking, self.woken = socket.socketpair()
        self._is_awake = False  # it was woken, and has not taken note
        for end in (self._waking, self.woken):
            end.setblocking(False)

    def open(
        self, kind: int, port: PortState, curve: Curve | None, topic: bytes = b""
    ) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """Connects a PUSH socket, or a SUB socket subscribed to ``topic``. Returns it and the monitor of its events."""
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RECONNECT_IVL, 100)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)  # below _wait_policy.GRACE: a call sees at least one attempt
        sock.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
        sock.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 15)
        sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
        sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, 4)
        if ":" in port.ip:
            sock.setsockopt(zmq.IPV6, 1)
        if curve is not None:
            sock.setsockopt(zmq.CURVE_SERVERKEY, curve.server_key.encode())
            sock.setsockopt(zmq.CURVE_PUBLICKEY, curve.public_key.encode())
            sock.setsockopt(zmq.CURVE_SECRETKEY, curve.secret_key.encode())
        if kind == zmq.PUSH:
            sock.setsockopt(zmq.IMMEDIATE, 1)  # never queue for a server that is not there
        else:
            sock.setsockopt(zmq.RCVHWM, 0)  # every result is awaited by someone: none may be dropped
            # Heartbeats only here. On the PUSH socket they would cut the connection to a server that holds back
            # requests for a while: it does not read, so it cannot answer the ping that waits behind them. The long
            # timeout is for slow networks: a ping's answer waits until a large result has passed.
            sock.setsockopt(zmq.HEARTBEAT_IVL, 15_000)
            sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 120_000)
            sock.setsockopt(zmq.SUBSCRIBE, topic)
        address = f"inproc://monitor-{port.name}"
        sock.monitor(address, EVENTS)
        monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        monitor.connect(address)
        sock.connect(port.endpoint)
        return sock, monitor

    def wake(self) -> None:
        """Wakes the I/O thread."""
        if not self._is_awake:
            with contextlib.suppress(OSError):
                self._waking.send(b"\0")
            self._is_awake = True

    def clear_wakeup(self) -> None:
        """Called by the thread, before it looks."""
        with contextlib.suppress(BlockingIOError):
            self.woken.recv(16)
        self._is_awake = False

    def close(self) -> None:
        """Closes all of them; what was not sent yet is dropped."""
        self._context.destroy(linger=0)
        self._waking.close()
        self.woken.close()
