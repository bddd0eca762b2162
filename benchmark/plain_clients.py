"""Clients that write the bytes of ZeroMQ to plain sockets, in so little time that the rate is that of the server."""

from __future__ import annotations

import json
import select
import socket
import time
from multiprocessing.connection import Connection
from typing import Any

from host_path import sentences

#: Greeting of ZMTP 3.0 with the mechanism NULL.
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
#: Bits of the first byte of a frame: more frames follow, its length has eight bytes, it is a command.
_MORE, _LONG, _COMMAND = 1, 2, 4


def frame(content: bytes, flags: int = 0) -> bytes:
    """Returns a frame of at most 255 bytes."""
    return bytes([flags, len(content)]) + content


def connect_as(kind: bytes, host: str, port: int) -> socket.socket:
    """Returns a connection after the handshake of a socket of a kind, such as ``PUSH``."""
    sock = socket.create_connection((host, port), timeout=20)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(_GREETING)
    receive(sock, len(_GREETING))
    sock.sendall(frame(b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind, _COMMAND))
    receive(sock, receive(sock, 2)[1])
    return sock


def receive(sock: socket.socket, count: int) -> bytes:
    """Returns the next ``count`` bytes."""
    content = b""
    while len(content) < count:
        part = sock.recv(count - len(content))
        if not part:
            raise ConnectionError("the server closed the connection")
        content += part
    return content


class PlainClient:
    """A client that has one request at a time. ``number`` makes its identity."""

    def __init__(self, connect: dict[str, Any], number: int) -> None:
        self._identity, self._id, self._unread = f"plain-{time.time_ns()}-{number}".encode(), 0, b""
        self._push = connect_as(b"PUSH", connect["ip"], connect["port"])
        self.sub = connect_as(b"SUB", connect["ip"], connect["port_out"])
        self.sub.sendall(frame(b"\x01" + self._identity))

    def send(self, text: str) -> None:
        """Sends a request of one short text."""
        self._id += 1
        frames = self._identity, json.dumps([text]).encode(), b"%d" % self._id
        self._push.sendall(b"".join(frame(each, _MORE) for each in frames) + frame(b"1"))

    def has_reply(self) -> bool:
        """Reads what has arrived, and returns whether it is a whole reply."""
        self._unread += self.sub.recv(65536)
        at, flags, last = 0, _MORE, b""
        while flags & _MORE:
            head = self._unread[at : at + 9]
            if len(head) < 2 or (head[0] & _LONG and len(head) < 9):
                return False
            flags, start = head[0], 9 if head[0] & _LONG else 2
            size = int.from_bytes(head[1:start], "big")
            last, at = self._unread[at + start : at + start + size], at + start + size
            if len(self._unread) < at:
                return False
        self._unread = self._unread[at:]
        assert int(last) == self._id, (last, self._id)
        return True


def load(pipe: Connection, connect: dict[str, Any], clients: int, size: int, seconds: float) -> None:
    """Runs clients in one loop: sends how many texts they encoded, and the CPU seconds of this process."""
    texts, epoll = sentences(1000), select.epoll()
    found = {each.sub.fileno(): each for each in (PlainClient(connect, number) for number in range(clients))}
    for descriptor in found:
        epoll.register(descriptor, select.EPOLLIN)
    pipe.send(None)
    pipe.recv()
    began, end, count, waiting = time.process_time(), time.monotonic() + seconds, 0, len(found)
    for number, client in enumerate(found.values()):
        client.send(texts[number % len(texts)])
    while waiting:
        for descriptor, _ in epoll.poll(20):
            client = found[descriptor]
            if client.has_reply():
                count += 1
                if time.monotonic() < end:
                    client.send(texts[count % len(texts)])
                else:
                    waiting -= 1
    pipe.send((count, time.process_time() - began))
