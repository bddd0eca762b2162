"""A client that builds the frames of its requests itself, as one in another language does."""

from __future__ import annotations

import json
from typing import Any

import zmq

from servers import Server


class RawClient:
    """A PUSH and a SUB socket of one identity, without retries."""

    def __init__(
        self, server: Server, identity: bytes = b"other", keys: tuple[bytes, bytes, bytes] | None = None
    ) -> None:
        self.identity = identity
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.push, self.sub = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        if keys is not None:  # of the server, and of this client
            for sock in (self.push, self.sub):
                sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = keys
        self.sub.setsockopt(zmq.SUBSCRIBE, identity)
        self.sub.connect(f"tcp://127.0.0.1:{server.port_out}")
        self.push.connect(f"tcp://127.0.0.1:{server.port}")
        # This reply waits for the subscription. Another one could be dropped if the identity was used before.
        self.send(b"SHOW_CONFIG")
        self.receive()

    def send(self, message: bytes, *options: bytes, number: int = 1) -> None:
        """Sends a request with the id ``number`` and at most one frame of options."""
        self.push.send_multipart([self.identity, message, b"%d" % number, b"1", *options])

    def receive(self) -> list[bytes]:
        """Returns the frames of the next reply: topic, info, vectors if there are any, id."""
        assert self.sub.poll(60_000), "no reply"
        return self.sub.recv_multipart()

    def ask(self, texts: Any, *options: bytes) -> list[bytes]:
        """Sends texts as JSON. Returns the frames of the reply."""
        self.send(json.dumps(texts).encode(), *options)
        return self.receive()

    def info(self, texts: Any, *options: bytes) -> dict[str, Any]:
        """Sends texts as JSON. Returns the info of the reply."""
        return json.loads(self.ask(texts, *options)[1])  # type: ignore[no-any-return]

    def error(self, texts: Any, *options: bytes) -> str:
        """Sends texts as JSON. Returns the message of the error, or an empty string."""
        return str(self.info(texts, *options).get("error", {}).get("message", ""))

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.destroy(linger=0)
