"""Binds several ZeroMQ sockets to one TCP port.

On Linux, new connections are distributed among the sockets, or all go to one of them, which can be changed.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import sys
import time
from collections.abc import Sequence

import zmq

from .sockets import bind_tcp

#: Whether sockets of one process can share a port. Elsewhere SO_REUSEPORT does not distribute connections.
IS_SUPPORTED = sys.platform == "linux" and hasattr(socket, "SO_REUSEPORT")
#: Option that sets a BPF program (asm-generic/socket.h), and the instruction that returns a constant (bpf_common.h).
_SO_ATTACH_REUSEPORT_CBPF, _RETURN = 51, 0x06
#: Connections that wait until ZeroMQ accepts them, for each socket.
BACKLOG = 1024
#: Seconds for ZeroMQ's thread to close a listening socket.
UNBIND_SECONDS = 5.0


def bind_shared(sockets: Sequence[zmq.Socket[bytes]], host: str, port: int) -> str:
    """Binds sockets to one port, and returns the endpoint.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """
    if len(sockets) == 1:
        bind_tcp(sockets[0], host, port)
        return last_endpoint(sockets[0])
    endpoint = _resolve(sockets[0], host, port)
    for number, sock in enumerate(sockets):
        _bind_descriptor(sock, endpoint, _listen(endpoint, is_first=number == 0).detach())
    return endpoint


class MovablePort:
    """Binds several sockets to a port, of which one gets all new connections. Open connections stay where they are.

    Where the system cannot choose the socket, only the first one is bound.

    Attributes:
        current: number of the socket that gets new connections.
        is_movable: whether :meth:`move` has an effect.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """

    def __init__(self, sockets: Sequence[zmq.Socket[bytes]], host: str, port: int) -> None:
        self.current, self.is_movable = 0, False
        self._listener: socket.socket | None = None
        if not IS_SUPPORTED:
            bind_tcp(sockets[0], host, port)
            return
        endpoint = _resolve(sockets[0], host, port)
        self._listener = _listen(endpoint, is_first=True)
        _bind_descriptor(sockets[0], endpoint, self._listener.dup().detach())
        for sock in sockets[1:]:
            listener = _listen(endpoint, is_first=False)
            try:
                self._choose(0)
            except OSError:
                listener.close()
                return
            _bind_descriptor(sock, endpoint, listener.detach())
            self.is_movable = True

    def move(self, number: int) -> None:
        """Directs new connections to another socket."""
        if self.is_movable and number != self.current:
            self._choose(number)
            self.current = number

    def close(self) -> None:
        """Closes the descriptor that this object holds; the sockets stay bound."""
        if self._listener is not None:
            self._listener.close()

    def _choose(self, number: int) -> None:
        """Sets a filter that returns the number of a socket, counted in the order in which they were bound.

        Raises:
            OSError: the system has no such filters.
        """
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", _RETURN, 0, 0, number))
        assert self._listener is not None
        program = struct.pack("HP", 1, ctypes.addressof(instruction))
        self._listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)


def _resolve(sock: zmq.Socket[bytes], host: str, port: int) -> str:
    """Returns the endpoint that ZeroMQ makes of an address. The socket is bound and released again.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """
    bind_tcp(sock, host, port)
    endpoint = last_endpoint(sock)
    sock.unbind(endpoint)
    return endpoint


def _bind_descriptor(sock: zmq.Socket[bytes], endpoint: str, descriptor: int) -> None:
    """Binds a socket to a listening descriptor, which ZeroMQ then owns."""
    sock.setsockopt(zmq.USE_FD, descriptor)
    sock.setsockopt(zmq.IPV6, _is_ipv6(endpoint))
    sock.bind(endpoint)


def _is_ipv6(endpoint: str) -> bool:
    return "[" in endpoint


def last_endpoint(sock: zmq.Socket[bytes]) -> str:
    """Returns the endpoint that a socket is bound to, with the number of its port."""
    endpoint = sock.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return endpoint.rstrip(b"\0").decode()


def _listen(endpoint: str, is_first: bool) -> socket.socket:
    """Returns a listening socket that shares its port.

    The first one is bound without SO_REUSEPORT, so that a port in use is an error. Otherwise two servers of one user
    would share their connections.

    Raises:
        zmq.ZMQError: the port is in use, and does not become free within ``UNBIND_SECONDS``.
    """
    is_ipv6 = _is_ipv6(endpoint)
    address, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    sock = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(not is_first))
    if is_ipv6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    deadline = time.monotonic() + UNBIND_SECONDS
    while True:
        try:
            sock.bind((address.strip("[]"), int(port)))
            sock.listen(BACKLOG)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            return sock
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                sock.close()
                raise zmq.ZMQError(error.errno) from error
            time.sleep(0.001)
