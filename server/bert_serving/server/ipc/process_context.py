"""The context of a child process: its configuration, its addresses and its heartbeat."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from .commands import HEARTBEAT
from .endpoints import Addresses
from .sockets import make_socket

HEARTBEAT_INTERVAL = 1.0


@dataclass
class ProcessContext:
    """A part's side of the control line."""

    name: str
    config: ServerConfig
    addresses: Addresses
    options: dict[str, Any]
    log: logging.Logger
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    info: dict[str, Any] = field(default_factory=dict)
    _progress: float = field(default_factory=time.monotonic)
    _busy: bool = False

    def connect_control(self) -> zmq.Socket[bytes]:
        """The part's own control socket; only its main thread uses it."""
        sock = make_socket(self.context, zmq.DEALER, IDENTITY=self.name.encode())
        sock.connect(self.addresses.control)
        return sock

    def mark_progress(self, busy: bool = False) -> None:
        """The main loop came by here. ``busy``: one long step begins, such as a batch."""
        self._progress, self._busy = time.monotonic(), busy

    def start_heartbeat(self) -> None:
        """Beats once a second from a thread, with the age of the last progress: a loop that hangs is seen too."""
        threading.Thread(target=self._beat, name="heart", daemon=True).start()

    def _beat(self) -> None:
        sock = make_socket(self.context, zmq.DEALER, IDENTITY=b"heart:" + self.name.encode())
        sock.connect(self.addresses.control)
        while True:
            age = time.monotonic() - self._progress
            sock.send_multipart([HEARTBEAT, json.dumps({"age": age, "busy": self._busy, **self.info}).encode()])
            time.sleep(HEARTBEAT_INTERVAL)
