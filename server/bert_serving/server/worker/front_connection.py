"""Connects a worker to ventilator and sink: of its own server, or over TCP to those of the server that it joins."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from typing import Any

import zmq

from ..ipc import commands
from ..ipc.commands import u64
from ..ipc.joining import MAX_BATCH_BYTES, MAX_COMMAND_BYTES, connect, join_socket
from ..ipc.messages import encode_commands, is_large
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import connect_bound, is_readable, make_socket
from ..security.machine_keys import MachineKeys

#: Seconds between two connections of a worker whose connection was cut.
_RECONNECT_SECONDS = 0.2


class FrontConnection:
    """The sockets for batches and results.

    A worker of a joined machine has a new name on each connection. So the ventilator never takes a new connection for
    an earlier one, whose batches are lost.

    Attributes:
        name: identity of the worker at the ventilator.
        batches: receives batches.
    """

    def __init__(self, process: ProcessContext) -> None:
        self._process = process
        self._join: dict[str, Any] | None = process.options.get("join")
        self._monitor: zmq.Socket[bytes] | None = None
        self._open()

    def _open(self) -> None:
        process, addresses = self._process, self._process.addresses
        if self._join is None:
            self.name = process.name.encode()
            self.batches = make_socket(process.context, zmq.DEALER, IDENTITY=self.name)
            self.results = make_socket(process.context, zmq.PUSH)
        else:
            self.name = f"{self._join['machine']}/{process.name}-{secrets.token_hex(2)}".encode()
            keys = None if self._join["keys"] is None else MachineKeys(*self._join["keys"])
            context, timeout = process.context, self._join["timeout"]
            # IMMEDIATE: nothing is queued while there is no connection.
            options: dict[str, Any] = {"IDENTITY": self.name, "IMMEDIATE": 1}
            self.batches = join_socket(context, zmq.DEALER, timeout, MAX_BATCH_BYTES, keys, **options)
            self.results = join_socket(context, zmq.PUSH, timeout, MAX_COMMAND_BYTES, keys)
            self._monitor = self.batches.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._opened_at = time.monotonic()
        if self._join is not None:
            connect(self.results, addresses.results)
            connect(self.batches, addresses.dispatch)
        else:
            connect_bound(self.results, addresses.results)
            connect_bound(self.batches, addresses.dispatch)

    def poller(self, control: zmq.Socket[bytes], wake_up: socket.socket) -> zmq.Poller:
        """Returns a poller of this connection, of ``control`` and of ``wake_up``."""
        poller = zmq.Poller()
        poller.register(wake_up, zmq.POLLIN)
        for sock in (control, self.batches, self._monitor):
            if sock is not None:
                poller.register(sock, zmq.POLLIN)
        return poller

    def is_cut(self, events: dict[Any, int]) -> bool:
        """Returns whether the connection to the ventilator was cut."""
        return self._monitor is not None and self._monitor in events

    def open_again(self) -> None:
        """Connects with a new name. The ventilator sends the batches of the old one to others."""
        assert self._monitor is not None
        time.sleep(max(0.0, self._opened_at + _RECONNECT_SECONDS - time.monotonic()))
        self.batches.disable_monitor()
        for sock in (self._monitor, self.batches, self.results):
            sock.close(linger=0)
        self._open()

    def send_result(self, frames: list[Any]) -> None:
        """Sends the frames of a result to the sink."""
        self.results.send_multipart(frames, copy=not is_large(frames))

    def send_failure(self, batch: int, kind: bytes, reason: str) -> None:
        """Tells the ventilator that the engine failed on a batch."""
        self._send([commands.BATCH_FAILED, u64(batch), kind, reason.encode()])

    def register(self, registration: bytes) -> bool:
        """Registers the worker, as each second. Returns false if there is no connection."""
        return self._send([commands.REGISTER, registration])

    def report_idle(self, last_batch: int) -> None:
        """Reports, if the worker holds no batch, that it has read all messages up to ``last_batch``."""
        if not is_readable(self.batches):  # on the socket of the results, so that it follows all of them
            idle = [commands.WORKER_IDLE, self.name, u64(last_batch)]
            self.results.send_multipart([b"", encode_commands([idle])])

    def _send(self, frames: list[bytes]) -> bool:
        """Sends to the ventilator. Returns false if there is no connection."""
        with contextlib.suppress(zmq.Again):
            self.batches.send_multipart(frames, zmq.NOBLOCK)
            return True
        return False
