"""A scripted server over real sockets, for situations that are rare with a real server.

It implements the wire protocol and computes the vector of a text from its length. It replies to encode requests at
once, or holds them until the test sends a reply.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zmq

from bert_serving.client import protocol

#: Longest wait (s) for a condition; long, because the machine may be busy.
DEADLINE = 30.0
CONFIG: dict[str, Any] = {
    "server_version": "1.10.0",
    "protocol_version": protocol.PROTOCOL_VERSION,
    "max_seq_len": 25,
    "show_tokens_to_client": False,
}


@dataclass(frozen=True)
class Request:
    identity: bytes
    message: bytes
    wire_id: int
    num_texts: int
    options: bytes = b""

    @property
    def texts(self) -> list[Any]:
        return json.loads(self.message)


def vectors(texts: list[Any]) -> np.ndarray:
    """Returns the fake server's vectors of texts: ``[n, 4]``, float32."""
    return np.array([[len(text), 1, 2, 3] for text in texts], dtype=np.float32)


class FakeServer:
    """Replies on two local ports.

    Args:
        config: the reply to SHOW_CONFIG; ``None`` for no reply.
        hold: put encode requests into ``held`` instead of replying.
    """

    def __init__(self, config: dict[str, Any] | None = CONFIG, hold: bool = False) -> None:
        self.config = config
        self.hold = hold
        self.held: queue.Queue[Request] = queue.Queue()
        self.received: list[Request] = []
        self.commands: list[bytes] = []
        self.cancelled: list[int] = []  # request ids
        self.reports_unknown = False  # whether it reports every request as unknown
        self.most_waiting = 0
        self.subscriptions: set[bytes] = set()
        self._outgoing: deque[list[bytes]] = deque()
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._xpub = self._context.socket(zmq.XPUB)
        self.port = self._pull.bind_to_random_port("tcp://127.0.0.1")
        self.port_out = self._xpub.bind_to_random_port("tcp://127.0.0.1")
        self._run_thread()

    @property
    def ports(self) -> dict[str, int]:
        return {"port": self.port, "port_out": self.port_out}

    # ---- called by tests ---------------------------------------------------------------------------------------------

    def next(self) -> Request:
        """Returns the next held request."""
        return self.held.get(timeout=DEADLINE)

    def reply(self, request: Request, array: np.ndarray | None = None, **info: Any) -> None:
        array = vectors(request.texts) if array is None else array
        head = {"dtype": str(array.dtype), "shape": list(array.shape), "tokens": "", **info}
        self.send([request.identity, json.dumps(head).encode(), array.tobytes(), b"%d" % request.wire_id])

    def reply_error(self, request: Request, kind: str, message: str) -> None:
        self.send([request.identity, protocol.error_info(kind, message), b"", b"%d" % request.wire_id])

    def send(self, frames: list[bytes]) -> None:
        """Publishes frames as soon as a client is subscribed to the first frame."""
        self._outgoing.append(frames)

    def stop(self) -> None:
        """Closes both ports and drops all requests."""
        self._running = False
        self._thread.join(DEADLINE)
        self._pull.close(0)
        self._xpub.close(0)
        self._outgoing.clear()
        self.subscriptions.clear()

    def start(self) -> None:
        """Opens the same ports again."""
        self._pull = self._bind(zmq.PULL, self.port)
        self._xpub = self._bind(zmq.XPUB, self.port_out)
        self._run_thread()

    def drop_port_out(self) -> None:
        """Closes the connections of the result port only, and drops unsent messages."""
        self._running = False
        self._thread.join(DEADLINE)
        self._xpub.close(0)
        self._outgoing.clear()
        self.subscriptions.clear()
        self._xpub = self._bind(zmq.XPUB, self.port_out)
        self._run_thread()

    def close(self) -> None:
        if self._thread.is_alive():
            self.stop()
        self._context.destroy(linger=0)

    # ---- inside ------------------------------------------------------------------------------------------------------

    def _bind(self, kind: int, port: int) -> zmq.Socket[bytes]:
        sock = self._context.socket(kind)
        deadline = time.monotonic() + DEADLINE
        while True:  # a port may be in use for a short time after it was closed
            try:
                sock.bind(f"tcp://127.0.0.1:{port}")
                return sock
            except zmq.ZMQError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _run_thread(self) -> None:
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._pull, zmq.POLLIN)
        poller.register(self._xpub, zmq.POLLIN)
        while self._running:
            ready = dict(poller.poll(2))
            if self._xpub in ready:
                news = self._xpub.recv()
                (self.subscriptions.add if news[0] else self.subscriptions.discard)(news[1:])
            if self._pull in ready:
                self._take(self._pull.recv_multipart())
            for _ in range(len(self._outgoing)):
                frames = self._outgoing.popleft()
                if frames[0] in self.subscriptions:
                    self._xpub.send_multipart(frames)
                else:
                    self._outgoing.append(frames)

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) not in (4, 5):
            return
        request = Request(frames[0], frames[1], int(frames[2]), int(frames[3]), *frames[4:])
        if request.message == protocol.SHOW_PENDING:
            self.commands.append(request.message)
            unknown = json.loads(frames[4])["requests"] if self.reports_unknown else []
            self.send([request.identity, json.dumps({"unknown": unknown}).encode(), b"%d" % request.wire_id])
            return
        if request.message == protocol.CANCEL:
            self.commands.append(request.message)
            self.cancelled += json.loads(frames[4])["requests"]
            return
        if request.message in protocol.COMMANDS:
            self.commands.append(request.message)
            if self.config is not None:
                reply = {**self.config, "statistic": {}} if request.message == protocol.SHOW_STATUS else self.config
                self.send([request.identity, json.dumps(reply).encode(), b"%d" % request.wire_id])
            return
        self.received.append(request)
        if self.hold:
            self.held.put(request)
            self.most_waiting = max(self.most_waiting, self.held.qsize())
        else:
            self.reply(request)


@contextmanager
def run_fake_server(**kwargs: Any) -> Iterator[FakeServer]:
    fake_server = FakeServer(**kwargs)
    try:
        yield fake_server
    finally:
        fake_server.close()


def until(condition: Any, what: str = "condition") -> None:
    """Waits for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in {DEADLINE} s: {what}"
        time.sleep(0.005)
