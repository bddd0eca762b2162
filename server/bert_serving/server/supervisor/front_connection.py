"""Connects a machine to the server that it joins: asks for the terms, joins, and sends heartbeats."""

from __future__ import annotations

import logging
import secrets
import socket
import time

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from ..ipc import joining
from ..ipc.joining import HEARTBEAT_INTERVAL, MAX_COMMAND_BYTES, FrontReport, FrontTerms, MachineReport, Offer
from ..security.machine_keys import MachineKeys

#: Seconds without a reply after which the connection is opened again, until the front tells its ``-join_timeout``.
_FIRST_TIMEOUT = 10.0
#: Seconds between two messages until the machine has joined, and while it drains; between two connections, and
#: between two log lines about an unreachable front.
_ASK_INTERVAL, _RECONNECT_SECONDS, _LOG_SECONDS = 0.3, 0.5, 30.0
#: Worker processes that died, in each report; replies that are read in one step.
_MAX_DIED, _MAX_REPLIES = 64, 100
_FAILED_HANDSHAKES = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class FrontConnection:
    """The connection of a machine to ``-join_port``.

    Args:
        address: ``tcp://HOST:PORT``.

    Attributes:
        address: that of the front.
        machine: name of the machine: its host and a random part. It is unique, and the same on each connection.
        terms: what the front told; None before.
        offer: what this machine offers; None until the model is read.
        refusal: the reason why the front refused the offer, or an empty string.
        is_joined: whether the front has accepted this machine.
        report: last report of the front since it heard that this machine drains; None before.
        died: worker processes that died.
        is_draining: the machine ends.
    """

    def __init__(self, address: str, keys: MachineKeys | None, log: logging.Logger) -> None:
        self.machine = f"{socket.gethostname()[:64]}-{secrets.token_hex(4)}"
        self.address, self._keys, self._log = address, keys, log
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.terms: FrontTerms | None = None
        self.offer: Offer | None = None
        self.report: FrontReport | None = None
        self.refusal = ""
        self.died: list[str] = []
        self.is_joined = self.is_draining = False
        self._next_send = self._next_log = 0.0
        self._open(time.monotonic())

    def on_death(self, process: str) -> None:
        """Reports the death of a worker process with the next message, which is due at once."""
        self.died = [*self.died, process][-_MAX_DIED:]
        self._next_send = 0.0

    def step(self, now: float) -> None:
        """Reads the replies of the front, and sends the message that is due."""
        for _ in range(_MAX_REPLIES):
            if not self._socket.poll(0):
                break
            self._heard_at = now
            self._read_reply(now)
        self._read_monitor(now)
        can_open = now - self._opened_at > _RECONNECT_SECONDS
        if (self._was_cut and can_open) or now - self._heard_at > self._timeout:
            self._log_problem(now, "the connection to the front was cut, or it is silent; connecting again")
            self._close()
            self._open(now)
        if now >= self._next_send:
            self._next_send = now + (HEARTBEAT_INTERVAL if self.is_joined and not self.is_draining else _ASK_INTERVAL)
            self._send(self._message())

    def leave(self) -> None:
        """Tells the front that this machine has drained and ends."""
        self._send([joining.LEAVE, self.machine.encode()])
        self._close(linger=1000)
        self._context.term()

    @property
    def _timeout(self) -> float:
        return _FIRST_TIMEOUT if self.terms is None else self.terms.timeout

    def _message(self) -> list[bytes]:
        name = self.machine.encode()
        if self.is_joined:
            report = MachineReport(self.died, self.is_draining)
            return [joining.MACHINE_HEARTBEAT, name, joining.encode(report)]
        if self.offer is None:
            return [joining.QUERY_TERMS, name]
        return [joining.JOIN, name, joining.encode(self.offer)]

    def _read_reply(self, now: float) -> None:
        """Reads a reply. One that cannot be read ends neither this machine nor the work of its workers."""
        frames = self._socket.recv_multipart()
        try:
            self._on_reply(*frames)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            self._log_problem(
                now,
                f"dropped a reply of {len(frames)} frames that cannot be read ({type(error).__name__}: {error}); "
                "check that this is -join_port of a server of the same version",
            )

    def _on_reply(self, kind: bytes, content: bytes) -> None:
        if kind == joining.TERMS and self.terms is None:
            try:
                self.terms = joining.decode(content, type=FrontTerms)
            except msgspec.MsgspecError as error:
                self.refusal = f"the terms of the front cannot be read ({error}): install the same version on both"
        elif kind == joining.ACCEPTED and not self.is_joined:
            self.is_joined = True
            self._next_log = 0.0
            self._log.info("joined the front at %s as %s", self.address.removeprefix("tcp://"), self.machine)
        elif kind == joining.REFUSED:
            self.refusal = f"the front refuses this machine: {content.decode()}"
        elif kind == joining.UNKNOWN_MACHINE and self.is_joined:
            self._log.warning("the front does not know this machine any more; joining again")
            self.is_joined, self._next_send = False, 0.0
        elif kind == joining.FRONT_HEARTBEAT:
            report = joining.decode(content, type=FrontReport)
            self.report = report if report.is_draining else None

    def _open(self, now: float) -> None:
        identity = f"{self.machine}~{secrets.token_hex(2)}".encode()
        options: dict[str, int | bytes] = {"IDENTITY": identity, "IMMEDIATE": 1}
        self._socket = joining.join_socket(
            self._context, zmq.DEALER, self._timeout, MAX_COMMAND_BYTES, self._keys, **options
        )
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | _FAILED_HANDSHAKES)
        self._opened_at = self._heard_at = now
        self._was_cut = False
        joining.connect(self._socket, self.address)

    def _close(self, linger: int = 0) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger)

    def _read_monitor(self, now: float) -> None:
        """Notices that the connection ended. Logs a handshake that failed."""
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)["event"]
            if event & _FAILED_HANDSHAKES:
                self._log_problem(
                    now,
                    "the front does not accept the keys of this machine: -join_keys needs the front's server.key and a "
                    "key in its folder clients, or both sides need no keys",
                )
            self._was_cut = True

    def _log_problem(self, now: float, problem: str) -> None:
        if now >= self._next_log:
            self._next_log = now + _LOG_SECONDS
            self._log.warning("%s: %s", self.address.removeprefix("tcp://"), problem)

    def _send(self, frames: list[bytes]) -> None:
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            if time.monotonic() - self._opened_at > _RECONNECT_SECONDS:
                self._log_problem(time.monotonic(), "no front replies yet; trying again")
