"""The sockets of a client's connection and their options."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import NamedTuple

import zmq

from ..dead_peer import KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL
from .connection_state import EVENTS, PortState
from .peer_watch import PeerWatch


class Curve(NamedTuple):
    """CURVE keys in Z85: of the server, and the client's own pair."""

    server_key: str
    public_key: str
    secret_key: str


class Channel(NamedTuple):
    """A socket connected to one port, the monitor of its events, and the watch of its TCP connection."""

    port: PortState
    socket: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    watch: PeerWatch


def receive_event(monitor: zmq.Socket[bytes]) -> tuple[int, int]:
    """Receives an event of a monitor without waiting; returns its number and its value.

    pyzmq's ``recv_monitor_message`` does the same, but its module imports asyncio, a third of the client's import.

    Raises:
        zmq.Again: there is none.
    """
    event, _ = monitor.recv_multipart(zmq.NOBLOCK)
    number, value = struct.unpack("=Hi", event)
    return number, value


class Sockets:
    """A context for the sockets of one connection, and a socket pair that wakes the I/O thread.

    Attributes:
        woken: readable after `wake`.
    """

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._waking, self.woken = socket.socketpair()
        self._is_awake = False  # between `wake` and `clear_wakeup`
        for end in (self._waking, self.woken):
            end.setblocking(False)

    def open(self, kind: int, port: PortState, curve: Curve | None, topic: bytes = b"") -> Channel:
        """Connects a PUSH socket, or a SUB socket subscribed to ``topic``."""
        sock: zmq.Socket[bytes] = self._context.socket(kind)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RECONNECT_IVL, 100)
        sock.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)  # below _deadline.GRACE: a call sees at least one attempt
        sock.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
        sock.setsockopt(zmq.HANDSHAKE_IVL, 10_000)
        sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
        sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE)
        sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL)
        sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT)
        if ":" in port.ip:
            sock.setsockopt(zmq.IPV6, 1)
        if curve is not None:
            sock.setsockopt(zmq.CURVE_SERVERKEY, curve.server_key.encode())
            sock.setsockopt(zmq.CURVE_PUBLICKEY, curve.public_key.encode())
            sock.setsockopt(zmq.CURVE_SECRETKEY, curve.secret_key.encode())
        if kind == zmq.PUSH:
            sock.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a server that is not connected
        else:
            sock.setsockopt(zmq.RCVHWM, 0)  # every result is awaited: none may be dropped
            # The PUSH socket has no heartbeats. They would cut the connection to a server that stops reading requests
            # for a while: it does not answer a ping that is queued behind them. The timeout is long for slow networks,
            # where a pong is queued behind a large result.
            sock.setsockopt(zmq.HEARTBEAT_IVL, 15_000)
            sock.setsockopt(zmq.HEARTBEAT_TIMEOUT, 120_000)
            sock.setsockopt(zmq.SUBSCRIBE, topic)
        address = f"inproc://monitor-{port.name}"
        sock.monitor(address, EVENTS)
        monitor: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.LINGER, 0)
        monitor.connect(address)
        sock.connect(port.endpoint)
        return Channel(port, sock, monitor, PeerWatch())

    def wake(self) -> None:
        """Wakes the I/O thread. Called with the connection's lock held, by finalizers also within `clear_wakeup`."""
        if not self._is_awake:
            with contextlib.suppress(OSError):
                self._waking.send(b"\0")
            self._is_awake = True

    def clear_wakeup(self) -> None:
        """Resets the wakeup. Called by the I/O thread before it looks for work, with the connection's lock held."""
        with contextlib.suppress(BlockingIOError):
            self.woken.recv(16)
        self._is_awake = False

    def close(self) -> None:
        """Closes all sockets, and drops what they have not sent within their ``LINGER`` time."""
        self._context.destroy()
        self._waking.close()
        self.woken.close()
