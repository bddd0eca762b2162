"""Creates, configures and reads ZeroMQ sockets."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import Any

import zmq

from bert_serving.client.dead_peer import KEEPALIVE_COUNT, KEEPALIVE_IDLE, KEEPALIVE_INTERVAL

# Plain numbers: an operation on a flag of an enumeration takes longer than the call that it is for.
_POLLIN, _NOBLOCK, _MORE = int(zmq.POLLIN), int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS = int(zmq.EVENTS)

#: Milliseconds that a process waits for another that is starting. After that, it goes on: messages are queued.
_CONNECT_MS = 10_000


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, **options: int | bytes) -> zmq.Socket[bytes]:
    """Creates a socket between the server's processes, without linger and queue limits. Credits bound the queues."""
    sock = context.socket(kind)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, 0)
    sock.setsockopt(zmq.RCVHWM, 0)
    for name, value in options.items():
        sock.setsockopt(getattr(zmq, name), value)
    return sock


def connect_bound(sock: zmq.Socket[bytes], address: str) -> None:
    """Connects to a socket of another process of this server, and waits until that process has bound it.

    So a process that reports that it is ready needs the socket's file no more, which another program may remove.
    """
    monitor = sock.get_monitor_socket(zmq.EVENT_CONNECTED)
    sock.connect(address)
    monitor.poll(_CONNECT_MS)
    sock.disable_monitor()
    monitor.close(linger=0)


def bind_tcp(sock: zmq.Socket[bytes], host: str, port: int) -> None:
    """Binds a socket to ``*``, a host name, or an IPv4 or IPv6 address; brackets are optional.

    ``*`` and ``::`` are all addresses, of IPv6 too. Without IPv6, ZeroMQ binds ``*`` to those of IPv4.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """
    if host == "*":
        sock.setsockopt(zmq.IPV6, 1)
    if ":" in host:
        sock.setsockopt(zmq.IPV6, 1)
        host = f"[{host.strip('[]')}]"
    sock.bind(f"tcp://{host}:{port}")


def listen(host: str, port: int, backlog: int) -> socket.socket:
    """Returns a listening socket for the same addresses as `bind_tcp`.

    Raises:
        OSError: the address cannot be used.
    """
    host = host.strip("[]")
    if host == "*":
        host = "::" if has_ipv6() else "0.0.0.0"
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    is_both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, backlog=backlog, dualstack_ipv6=is_both)


def has_ipv6() -> bool:
    """Returns whether a socket can listen on IPv4 and IPv6 at once on this machine."""
    if not socket.has_dualstack_ipv6():
        return False
    try:
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True):
            return True
    except OSError:  # IPv6 is disabled
        return False


def keep_alive(sock: zmq.Socket[bytes]) -> None:
    """Enables TCP keep-alive, which ends an idle connection whose peer is unreachable within 40 s."""
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT)


def recv_available(sock: zmq.Socket[bytes], most: int, copy: bool = True) -> Iterator[list[Any]]:
    """Receives the available messages of a readable socket, at most ``most``.

    Reading ``zmq.EVENTS`` costs less than a receive that raises ``zmq.Again``, but the latter happens once.
    """
    for number in range(most):
        try:
            frames = receive_at_once(sock)
        except zmq.Again:
            return
        yield [frame.bytes for frame in frames] if copy else frames
        if number == 0 and not is_readable(sock):
            return


def receive_at_once(sock: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """Receives a message without waiting, in less time than ``recv_multipart``, which asks for ``zmq.RCVMORE``.

    Raises:
        zmq.Again: there is none.
    """
    frame = sock.recv(_NOBLOCK, copy=False)
    frames = [frame]
    while frame.more:
        frame = sock.recv(_NOBLOCK, copy=False)
        frames.append(frame)
    return frames


def is_readable(sock: zmq.Socket[bytes]) -> bool:
    """Returns whether a message is available."""
    events: Any = sock.getsockopt(_EVENTS)
    return bool(events & _POLLIN)


def send_at_once(sock: zmq.Socket[bytes], frames: Sequence[Any], copy: bool = True) -> None:
    """Sends a message without waiting, in less time than ``send_multipart``.

    Raises:
        zmq.Again: the socket has no room.
    """
    for frame in frames[:-1]:
        sock.send(frame, _MORE, copy=copy)
    sock.send(frames[-1], _NOBLOCK, copy=copy)
