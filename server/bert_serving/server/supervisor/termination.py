"""Stopping a server from outside: says so, waits until it is gone, and tells the truth about it."""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from bert_serving.client.protocol import TERMINATION, request_frames

from ..errors import ServingError
from ..security.curve import read_server_keys


class ServerNotFound(ServingError, ConnectionError):
    """No server answers at this address."""


class ServerStillRunning(ServingError, TimeoutError):
    """The server took the message, and did not end in time."""


def terminate(ip: str, port: int, timeout: int, auth_keys: str | None = None) -> None:
    """Sends TERMINATION to a server and returns when it has ended.

    The server finishes the requests that it has accepted first. It takes the message from its own machine only, or,
    with ``-auth_keys``, from everyone whom it lets in.

    Args:
        timeout: milliseconds to find it, and again to see it end.
        auth_keys: the folder of keys of a server that has one; with it, the server's own key opens.

    Raises:
        ServerNotFound: nothing answers.
        ServerStillRunning: it did not end in time.
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
                    f"the server at {ip}:{port} got the message and still runs after {timeout} ms: it finishes "
                    f"accepted requests first, and takes TERMINATION from its own machine or with a known key only"
                )
        finally:
            sender.disable_monitor()


def _wait_for(monitor: zmq.Socket[bytes], event: int, timeout: int) -> bool:
    deadline = time.monotonic() + timeout / 1000
    while (left := deadline - time.monotonic()) > 0:
        if monitor.poll(int(left * 1000) + 1) and recv_monitor_message(monitor)["event"] == event:
            return True
    return False
