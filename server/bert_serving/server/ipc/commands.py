"""Messages and addresses between the server's own processes. Nothing here is seen by a client.

============  =======================  ==================================================================
socket        from -> to               messages
============  =======================  ==================================================================
dispatch      worker -> ventilator     HELLO json                    I am here, and this is what I can take
              worker -> ventilator     FAILED batch_id kind text     the engine refused this batch
              ventilator -> worker     a batch                       see :class:`.messages.BatchMessage`
results       worker -> sink           its vectors                   see :class:`.messages.Result`
link          ventilator -> sink       PART job + texts               these texts of a job are on their way; of a job
                                                                      that is whole in a batch, it travels with that
              ventilator -> sink       FAIL job                       it has been answered with an error
              ventilator -> sink       AGAIN ticket job              asked for again: is its answer still to come?
              ventilator -> sink       SAY identity frames           publish this as it is
              ventilator -> sink       GREET identity frames         the same, to one who may not be subscribed yet
              ventilator -> sink       HELLO epoch [nonce]           I am new, and know no job from before; with the
                                                                      nonce of a WHO: here is all that you should know
              sink -> ventilator       WHO nonce                     I am new: what is under way?
              sink -> ventilator       DONE batch_id began           its rows have arrived
              sink -> ventilator       HELD ticket job               its answer is still to come
              sink -> ventilator       PUBLISHED ticket job          its answer was published before you asked
              sink -> ventilator       DRIFT json                    what :class:`VectorDrift` has found, for the status
              sink -> ventilator       GONE identity                 nobody has read there for long: drop its requests
control       part -> supervisor       READY, BEAT, DRAINED, FATAL, TERMINATE, IDLE worker
              supervisor -> part       DRAIN, STOP, LOST part, FACTS json, RETIRE worker
============  =======================  ==================================================================

On the link a message holds all words that are to be said at a time, packed by ``messages.pack_words``. Numbers in words
are little-endian 64-bit integers. There is no pickle. Times are nanoseconds of ``time.monotonic_ns()``, which is one
clock for all processes of a machine.
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import zmq

HELLO, FAILED = b"HELLO", b"FAILED"
PART, FAIL, SAY, DONE, WHO, GONE = b"PART", b"FAIL", b"SAY", b"DONE", b"WHO", b"GONE"
DRIFT = b"DRIFT"
AGAIN, HELD, PUBLISHED, GREET = b"AGAIN", b"HELD", b"PUBLISHED", b"GREET"
READY, BEAT, DRAINED, FATAL, TERMINATE = b"READY", b"BEAT", b"DRAINED", b"FATAL", b"TERMINATE"
DRAIN, STOP, LOST, FACTS = b"DRAIN", b"STOP", b"LOST", b"FACTS"
RETIRE, IDLE = b"RETIRE", b"IDLE"

_U64 = struct.Struct("<Q")


def u64(number: int) -> bytes:
    return _U64.pack(number)


def from_u64(frame: Any) -> int:
    return int(_U64.unpack(bytes(frame))[0])


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the inner sockets are: files in a folder that only this user may enter, or loopback ports on Windows."""

    folder: str
    dispatch: str
    results: str
    link: str
    control: str

    @classmethod
    def new(cls) -> Addresses:
        names = ("dispatch", "results", "link", "control")
        if sys.platform == "win32":
            ports = _free_ports(len(names))
            return cls("", *(f"tcp://127.0.0.1:{port}" for port in ports))
        # A socket's path may have 107 bytes at most, so the folder's name is short. ZEROMQ_SOCK_TMP_DIR as in 1.10.0.
        root = os.environ.get("ZEROMQ_SOCK_TMP_DIR") or tempfile.gettempdir()
        if not os.path.isdir(root):
            raise NotADirectoryError(f"the folder for sockets does not exist: {root} (from ZEROMQ_SOCK_TMP_DIR)")
        folder = os.path.join(root, f"bert-serving-{secrets.token_hex(4)}")
        os.mkdir(folder, mode=0o700)
        return cls(folder, *(f"ipc://{folder}/{name}" for name in names))

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


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, **options: int | bytes) -> zmq.Socket[bytes]:
    """An inner socket: no limit on queued messages (credits bound them), gone at once when closed."""
    sock = context.socket(kind)
    sock.setsockopt(zmq.LINGER, 0)
    sock.setsockopt(zmq.SNDHWM, 0)
    sock.setsockopt(zmq.RCVHWM, 0)
    for name, value in options.items():
        sock.setsockopt(getattr(zmq, name), value)
    return sock


def bind_tcp(sock: zmq.Socket[bytes], host: str, port: int) -> None:
    """Listens at an address of this machine: ``*``, a name, or an IPv4 or IPv6 address, the latter with [] or without.

    Raises:
        zmq.ZMQError: the address cannot be used.
    """
    if ":" in host:
        sock.setsockopt(zmq.IPV6, 1)
        host = f"[{host.strip('[]')}]"
    sock.bind(f"tcp://{host}:{port}")


def keep_alive(sock: zmq.Socket[bytes]) -> None:
    """Lets TCP find out within two minutes that a silent peer is gone."""
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 10)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, 6)


def arrived(sock: zmq.Socket[bytes], most: int, copy: bool = True) -> Iterator[list[Any]]:
    """Messages of a socket that a poll found readable, as many as are there, up to ``most``.

    Asking whether there is one more costs less than being refused one.
    """
    for _ in range(most):
        try:
            yield sock.recv_multipart(zmq.NOBLOCK, copy=copy)
        except zmq.Again:
            return
        if not is_readable(sock):
            return


def is_readable(sock: zmq.Socket[bytes]) -> bool:
    """Whether a message is there."""
    events: Any = sock.getsockopt(zmq.EVENTS)
    return bool(events & zmq.POLLIN)
