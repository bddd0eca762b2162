"""Binds several ZeroMQ sockets to one TCP port; on Linux, which distributes new connections among them."""

from __future__ import annotations

import errno
import socket
import sys
import time
from collections.abc import Sequence

import zmq

from .sockets import bind_tcp

#: Whether sockets of one process can share a port. Elsewhere SO_REUSEPORT does not distribute connections.
IS_SUPPORTED = sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")
#: Connections that wait until ZeroMQ accepts them, for each socket.
BACKLOG = 1024
#: Seconds for ZeroMQ's thread to close a listening socket.
UNBIND_SECONDS = 5.0


def bind_shared(sockets: Sequence[zmq.Socket[bytes]], host: str, port: int) -> str:
    """Binds sockets to one port, and returns the endpoint.

    The first socket is bound alone, without SO_REUSEPORT: this fails if another program uses the port. With
    SO_REUSEPORT alone, two servers of one user would share their connections.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """
    first = sockets[0]
    bind_tcp(first, host, port)
    endpoint = last_endpoint(first)
    if len(sockets) == 1:
        return endpoint
    first.unbind(endpoint)
    address, _, number = endpoint.removeprefix("tcp://").rpartition(":")
    for sock in sockets:
        listener = _listen(address.strip("[]"), int(number))
        sock.setsockopt(zmq.USE_FD, listener.fileno())
        sock.setsockopt(zmq.IPV6, ":" in address)
        sock.bind(endpoint)
        listener.detach()  # ZeroMQ closes it
    return endpoint


def last_endpoint(sock: zmq.Socket[bytes]) -> str:
    """Returns the endpoint that a socket is bound to, with the number of its port."""
    endpoint = sock.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def _listen(address: str, port: int) -> socket.socket:
    """Returns a listening socket that shares its port with those of this function.

    Raises:
        zmq.ZMQError: the port is in use, and does not become free within ``UNBIND_SECONDS``.
    """
    is_ipv6 = ":" in address
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if is_ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    deadline = time.monotonic() + UNBIND_SECONDS
    while True:
        try:
            sock.bind((address, port))
            sock.listen(BACKLOG)
            return sock
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                sock.close()
                raise zmq.ZMQError(error.errno) from error
            time.sleep(0.001)
