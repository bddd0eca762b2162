"""Sends the heartbeat of a child process to the supervisor: that it lives, and when its main loop last advanced."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from typing import Any

import zmq

from .commands import HEARTBEAT
from .sockets import make_socket

#: Seconds between two heartbeats.
HEARTBEAT_INTERVAL = 1.0
#: Seconds without a heartbeat after which a process does not count as up. It is killed after -heartbeat_timeout.
LIVENESS_TIMEOUT = 5 * HEARTBEAT_INTERVAL


class Heartbeat:
    """The heartbeat of one child process. ``mark_progress`` is called by the main loop, the thread sends."""

    def __init__(self) -> None:
        self._progress = time.monotonic()
        self._busy = False

    def mark_progress(self, busy: bool) -> None:
        """Records that the main loop runs. ``busy`` announces one long step, such as a batch."""
        self._progress, self._busy = time.monotonic(), busy

    def start(self, context: zmq.Context[zmq.Socket[bytes]], address: str, name: str, info: Mapping[str, Any]) -> None:
        """Starts the thread.

        Args:
            address: the control socket of the supervisor.
            name: the name of the child process.
            info: values that each heartbeat carries, read again each time.
        """

        def send() -> None:
            sock = make_socket(context, zmq.DEALER, IDENTITY=b"heartbeat:" + name.encode())
            sock.connect(address)
            while True:
                age = time.monotonic() - self._progress
                sock.send_multipart([HEARTBEAT, json.dumps({"age": age, "busy": self._busy, **info}).encode()])
                time.sleep(HEARTBEAT_INTERVAL)

        threading.Thread(target=send, name="heartbeat", daemon=True).start()
