"""State of the connections to a server's two ports, derived from the events of ZeroMQ's socket monitors."""

from __future__ import annotations

import socket
from enum import Enum

import zmq

#: A port that ZeroMQ does not reconnect by itself is connected again after this long (s).
RECONNECT_AFTER = 1.0
#: Longest time (s) of one TCP probe for an error message.
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
    """Progress of the connection to one port."""

    CONNECTING = "no connection yet"
    HANDSHAKING = "TCP connected, no ZeroMQ handshake"
    READY = "connected"
    LOST = "connection lost"
    REFUSED = "handshake refused"


class PortState:
    """State of one port. The I/O thread writes it, any thread reads it."""

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
        """Applies one event of the socket's monitor."""
        self.reconnect_at = None
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.phase, self.attempts = Phase.READY, 0
        elif event == zmq.EVENT_CONNECTED:
            self.phase = Phase.HANDSHAKING
        elif event == zmq.EVENT_DISCONNECTED:
            # ZeroMQ does not reconnect to a peer that violates the protocol; the client then connects again itself.
            self.phase = Phase.LOST if self.phase is Phase.READY else Phase.REFUSED
            self.reconnect_at = now + RECONNECT_AFTER
        elif event in (zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_AUTH):
            self.phase = Phase.REFUSED
            self.reconnect_at = now + RECONNECT_AFTER
        elif event == zmq.EVENT_CONNECT_RETRIED:
            self.attempts += 1

    def describe(self) -> str:
        """Describes the port in one line, for an error message. Opens a TCP connection, which takes up to 0.5 s."""
        text = f"{self.name} {self.number}: "
        if self.phase is Phase.READY:
            return text + "connected"
        reason = probe(self.ip, self.number)
        if reason is not None:
            return text + reason
        if self.phase in (Phase.HANDSHAKING, Phase.REFUSED):
            return text + (
                "the port is open, but the ZeroMQ handshake fails: another service, "
                "port and port_out swapped, a wrong CURVE key, or a frozen server"
            )
        return text + "the port is open now; the server may have just started"


class ConnectionState:
    """State of both ports. The server is connected when both ports are.

    Attributes:
        down_since: monotonic time (s) since which the server is not connected, ``None`` while it is.
    """

    def __init__(self, ip: str, port: int, port_out: int, now: float) -> None:
        self.ip = ip
        self.requests = PortState("port", ip, port)
        self.results = PortState("port_out", ip, port_out)
        self.down_since: float | None = now

    @property
    def up(self) -> bool:
        return self.down_since is None

    def observe(self, port: PortState, event: int, now: float) -> bool:
        """Applies one event of a port; returns True if the server became connected by it."""
        port.observe(event, now)
        ready = self.requests.phase is Phase.READY and self.results.phase is Phase.READY
        came_up = ready and not self.up
        if ready:
            self.down_since = None
        elif self.up:
            self.down_since = now
        return came_up

    def describe(self) -> str:
        """Describes each port in one line. Opens TCP connections, which takes up to 1 s."""
        return f"  {self.requests.describe()}\n  {self.results.describe()}"


def probe(ip: str, port: int, timeout: float = PROBE_TIMEOUT) -> str | None:
    """Opens a TCP connection; returns the operating system's error message, or ``None`` on success."""
    try:
        socket.create_connection((ip.strip("[]"), port), timeout).close()
    except TimeoutError:
        return "no answer (host down, or a firewall drops the packets)"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return None
