"""Speaks ZMTP over plain TCP, so that a test decides on each byte."""

from __future__ import annotations

import socket

from fuzz import GREETING


def handshake(port: int, kind: bytes) -> socket.socket:
    """Opens a TCP connection and makes the ZMTP handshake of a socket of this kind.

    Raises:
        OSError: the server refuses or closes the connection.
    """
    sock = socket.create_connection(("127.0.0.1", port), 5)
    ready = b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind
    try:
        sock.sendall(GREETING)
        sock.sendall(b"\x04" + bytes([len(ready)]) + ready)
        received = b""
        while b"READY" not in received:  # ZeroMQ may close a connection that sends messages before
            received += (data := sock.recv(4096))
            if not data:
                raise ConnectionResetError(f"port {port}: the server closed the connection")
    except OSError:
        sock.close()
        raise
    return sock


def subscription(identity: bytes, kind: bytes = b"\x01") -> bytes:
    """Returns the frame of a subscription, or of an unsubscription (kind 0), as on the wire."""
    return bytes([0, len(identity) + 1]) + kind + identity
