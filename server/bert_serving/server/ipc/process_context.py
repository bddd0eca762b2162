"""Holds the configuration and the addresses of a child process, and sends its heartbeat."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from .commands import HEARTBEAT
from .endpoints import Addresses
from .sockets import make_socket

#: Seconds between two heartbeats.
HEARTBEAT_INTERVAL = 1.0


@dataclass
class ProcessContext:
    """Context of a child process.

    Attributes:
        options: values for this role that are not in ``config``.
        info: values that each heartbeat carries to the supervisor.
    """

    name: str
    config: ServerConfig
    addresses: Addresses
    options: dict[str, Any]
    log: logging.Logger
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    info: dict[str, Any] = field(default_factory=dict)
    _progress: float = field(default_factory=time.monotonic)
    _busy: bool = False
    _bound: list[tuple[zmq.Socket[bytes], str]] = field(default_factory=list)

    def connect_control(self) -> zmq.Socket[bytes]:
        """Returns the control socket of the main thread."""
        sock = make_socket(self.context, zmq.DEALER, IDENTITY=self.name.encode())
        sock.connect(self.addresses.control)
        return sock

    def bind(self, sock: zmq.Socket[bytes], address: str) -> None:
        """Binds an internal socket."""
        sock.bind(address)
        self._bound.append((sock, address))

    def bind_again(self) -> None:
        """Creates the files of the internal sockets again, after their removal. Connections stay as they are."""
        for sock, address in self._bound:
            try:
                if not os.path.lexists(address.removeprefix("ipc://")):
                    sock.bind(address)
            except zmq.ZMQError as error:  # the supervisor asks again
                self.log.warning("cannot bind %s again: %s", address, error)

    def mark_progress(self, busy: bool = False) -> None:
        """Records that the main loop runs. ``busy`` announces one long step, such as a batch."""
        self._progress, self._busy = time.monotonic(), busy

    def start_heartbeat(self) -> None:
        """Starts a thread that sends heartbeats. They carry the age of the last progress."""
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()

    def _send_heartbeats(self) -> None:
        sock = make_socket(self.context, zmq.DEALER, IDENTITY=b"heart:" + self.name.encode())
        sock.connect(self.addresses.control)
        while True:
            age = time.monotonic() - self._progress
            sock.send_multipart([HEARTBEAT, json.dumps({"age": age, "busy": self._busy, **self.info}).encode()])
            time.sleep(HEARTBEAT_INTERVAL)
