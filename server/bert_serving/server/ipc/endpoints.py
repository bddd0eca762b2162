"""Chooses the addresses of the sockets between the server's processes."""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
from dataclasses import asdict, dataclass

import zmq

from ..errors import StartError


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of the internal sockets: files in a folder with mode 0700, or loopback ports on Windows."""

    folder: str
    dispatch: str
    results: str
    channel: str
    control: str

    @classmethod
    def new(cls) -> Addresses:
        names = ("dispatch", "results", "channel", "control")
        if sys.platform == "win32":
            ports = _free_ports(len(names))
            return cls("", *(f"tcp://127.0.0.1:{port}" for port in ports))
        # The path of a socket has at most 107 bytes, so the folder's name is short. ZEROMQ_SOCK_TMP_DIR as in 1.10.0.
        root = os.environ.get("ZEROMQ_SOCK_TMP_DIR") or tempfile.gettempdir()
        folder = os.path.join(os.path.abspath(root), f"bert-serving-{secrets.token_hex(4)}")
        longest = len(os.fsencode(f"{folder}/dispatch"))
        if longest > zmq.IPC_PATH_MAX_LEN:
            raise StartError(
                f"the folder for sockets {root} has too long a path: a socket in it would have {longest} bytes, more "
                f"than {zmq.IPC_PATH_MAX_LEN}; set ZEROMQ_SOCK_TMP_DIR to a folder with a shorter path, such as /tmp"
            )
        try:
            os.mkdir(folder, mode=0o700)
        except OSError as error:
            raise StartError(
                f"cannot create a folder for sockets in {root} ({error.strerror}): set ZEROMQ_SOCK_TMP_DIR to a folder "
                "that is writable"
            ) from None
        return cls(folder, *(f"ipc://{folder}/{name}" for name in names))

    def sockets(self) -> tuple[str, ...]:
        return self.dispatch, self.results, self.channel, self.control

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def _free_ports(count: int) -> list[int]:
    import socket

    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
