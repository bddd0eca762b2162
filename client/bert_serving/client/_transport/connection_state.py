"""What is known about the connection to a server's two ports, learnt from ZeroMQ's socket events."""

from __future__ import annotations

import socket
from enum import Enum

import zmq

#: A port that was lost and does not try again by itself is connected anew after this long (s).
RECONNECT_AFTER = 1.0
#: How long (s) one look at a port may take when an error message is written.
PROBE_TIMEOUT = 0.5

EVENTS = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class Phase(Enum):
    """How far the connection to one port has come."""

    CONNECTING = "no connection yet"
    HANDSHAKING = "TCP connected, no ZeroMQ handshake"
    READY = "connected"
    LOST = "connection lost"
    REFUSED = "handshake refused"


class PortState:
    """State of one of the two ports. Fed by the I/O thread, read by any."""

    def __init__(self, name: str, ip: str, number: int) -> None:
        self.name = name
        self.ip = ip
        self.number = number
        self.phase = Phase.CONNECTING
        self.attempts = 0
        self.reconnect_at: float | None = None

    @property
    def endpoint(self) -> str:
        host = f"[{self.ip}]" if ":" in self.ip and not self.ip.startswith("[") else self.ip
        return f"tcp://{host}:{self.number}"

    def observe(self, event: int, now: float) -> None:
        """Takes in one event of the socket's monitor."""
        self.reconnect_at = None
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.phase, self.attempts = Phase.READY, 0
        elif event == zmq.EVENT_CONNECTED:
            self.phase = Phase.HANDSHAKING
        elif event == zmq.EVENT_DISCONNECTED:
            # ZeroMQ gives up on a peer that breaks the protocol: then no attempt follows, and we make one ourselves.
            self.phase = Phase.LOST if self.phase is Phase.READY else Phase.REFUSED
            self.reconnect_at = now + RECONNECT_AFTER
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH):
            self.phase = Phase.REFUSED
            self.reconnect_at = now + RECONNECT_AFTER
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self.attempts += 1

    def describe(self) -> str:
        """One line for an error message."""
        text = f"{self.name} {self.number}: "
        if self.phase is Phase.READY:
            return text + "connected"
        reason = probe(self.ip, self.number)
        if reason is not None:
            return text + reason
        if self.phase in (Phase.HANDSHAKING, Phase.REFUSED):
            return text + (
                "something listens there, but does not talk to us: another kind of service, "
                "port and port_out swapped, a wrong CURVE key, or a frozen server"
            )
        return text + "something listens there now; it may have just started"


class ConnectionState:
    """Both ports together: the server counts as connected when both are."""

    def __init__(self, ip: str, port: int, port_out: int, now: float) -> None:
        self.ip = ip
        self.requests = PortState("port", ip, port)
        self.results = PortState("port_out", ip, port_out)
        self.down_since: float | None = now

    @property
    def up(self) -> bool:
        return self.down_since is None

    def observe(self, port: PortState, event: int, now: float) -> bool:
        """Takes in one event; returns True if the link has come up by it."""
        port.observe(event, now)
        ready = self.requests.phase is Phase.READY and self.results.phase is Phase.READY
        came_up = ready and not self.up
        if ready:
            self.down_since = None
        elif self.up:
            self.down_since = now
        return came_up

    def describe(self) -> str:
        """What is seen on each port, one line each. Tries a TCP connection, so it may take a second."""
        return f"  {self.requests.describe()}\n  {self.results.describe()}"


def probe(ip: str, port: int, timeout: float = PROBE_TIMEOUT) -> str | None:
    """Why a TCP connection cannot be made, in the system's words; ``None`` if it can."""
    try:
        socket.create_connection((ip.strip("[]"), port), timeout).close()
    except TimeoutError:
        return "no answer at all (host down, or a firewall drops the packets)"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
