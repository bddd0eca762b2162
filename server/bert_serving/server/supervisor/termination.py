"""Stops a server from another process, and waits until it has ended."""

from __future__ import annotations

import time
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from bert_serving.client.protocol import TERMINATION, request_frames

from ..errors import ServingError
from ..security.curve import read_server_keys


class ServerNotFound(ServingError, ConnectionError):
    """No server answers at this address."""


class ServerStillRunning(ServingError, TimeoutError):
    """The server received TERMINATION and did not end in time."""


def terminate(ip: str, port: int, timeout: int, auth_keys: str | None = None) -> None:
    """Sends TERMINATION to a server and returns when it has ended.

    The server drains its accepted requests first. It accepts the message from its own machine only, or with
    ``-auth_keys`` from every allowed client.

    Args:
        timeout: milliseconds to wait for the connection, and again for the end of the server.
        auth_keys: folder of ``-auth_keys``, if the server uses it; the server's own key is used.

    Raises:
        ServerNotFound: no server answers.
        ServerStillRunning: the server did not end in time.
    """
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.setsockopt(zmq.LINGER, 0)
        if auth_keys is not None:
            public, secret = read_server_keys(auth_keys)
            sender.curve_serverkey, sender.curve_publickey, sender.curve_secretkey = public, public, secret
        monitor = sender.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        try:
            if ":" in ip:
                sender.setsockopt(zmq.IPV6, 1)
                ip = f"[{ip.strip('[]')}]"
            sender.connect(f"tcp://{ip}:{port}")
            if not _wait_for(monitor, zmq.EVENT_HANDSHAKE_SUCCEEDED, timeout):
                raise ServerNotFound(f"no server answers at {ip}:{port}; is the port right (-port of the server)?")
            sender.send_multipart(request_frames(b"0", TERMINATION, 0))
            if not _wait_for(monitor, zmq.EVENT_DISCONNECTED, timeout):
                raise ServerStillRunning(
                    f"the server at {ip}:{port} received TERMINATION and still runs after {timeout} ms: it drains "
                    f"accepted requests first, and accepts TERMINATION from its own machine or with an allowed key only"
                )
        finally:
            sender.disable_monitor()
            monitor.close(linger=0)


def terminate_by(args: Any, ip: str, port: int, timeout: int, auth_keys: str | None) -> None:
    """Calls :func:`terminate` with the attributes of an object in place of the other arguments, or without it.

    Args:
        args: has ``port``, and may have the others; or None.
    """
    if args is not None:
        ip, port, timeout = getattr(args, "ip", ip), args.port, getattr(args, "timeout", timeout)
        auth_keys = getattr(args, "auth_keys", auth_keys)
    terminate(ip, port, timeout, auth_keys)


def _wait_for(monitor: zmq.Socket[bytes], event: int, timeout: int) -> bool:
    deadline = time.monotonic() + timeout / 1000
    while (left := deadline - time.monotonic()) > 0:
        if monitor.poll(int(left * 1000) + 1) and recv_monitor_message(monitor)["event"] == event:
            return True
    return False
