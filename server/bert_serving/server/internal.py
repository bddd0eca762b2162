"""Messages and addresses between the server's own processes. Nothing here is seen by a client.

============  =======================  ==================================================================
socket        from -> to               messages
============  =======================  ==================================================================
dispatch      worker -> ventilator     HELLO json                    I am here, and this is what I can take
              worker -> ventilator     FAILED batch_id kind text     the engine refused this batch
              ventilator -> worker     BATCH batch_id + arrays       see :func:`pack_batch`
results       worker -> sink           vectors + manifest            see :class:`Result`
link          ventilator -> sink       PART job + texts               these texts of a job are on their way
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

Numbers travel as little-endian 64-bit integers, arrays as raw bytes, the rest as JSON. There is no pickle. Times are
nanoseconds of ``time.monotonic_ns()``, which is one clock for all processes of a machine.
"""

from __future__ import annotations

import os
import secrets
import struct
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import zmq

from .engines.base import Batch

HELLO, FAILED, BATCH = b"HELLO", b"FAILED", b"BATCH"
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


# A manifest says whose rows a batch holds: int64 [n, 2], the job and the row in it. Workers pass it on unread.


def pack_batch(batch_id: int, batch: Batch, has_types: bool, has_mask: bool, manifest: np.ndarray) -> list[Any]:
    """Frames of a batch for a worker. Type ids that are all 0, and masks that are all 1, are not sent."""
    return [
        BATCH,
        u64(batch_id),
        batch.lengths,
        batch.input_ids,
        batch.type_ids if has_types else b"",
        batch.mask if has_mask else b"",
        manifest,
    ]


def unpack_batch(frames: Sequence[Any]) -> tuple[int, Batch, Any]:
    """Batch id, batch and the manifest's frame."""
    _, batch_id, lengths, input_ids, type_ids, mask, manifest = frames
    ids = np.frombuffer(input_ids, np.int32)
    types = np.frombuffer(type_ids, np.int32) if len(type_ids) else np.zeros(len(ids), np.int32)
    attend = np.frombuffer(mask, np.int32) if len(mask) else np.ones(len(ids), np.int32)
    return from_u64(batch_id), Batch(ids, types, attend, np.frombuffer(lengths, np.int32)), manifest


@lru_cache(maxsize=16)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Numpy's own name of a dtype, which numpy puts together anew each time."""
    return str(dtype.name)


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker hands to the sink for one batch.

    ``array`` is ``[n, d]``, or ``[t, d]`` packed if ``token_level``; ``lengths`` int32 ``[n]``; ``manifest`` int64
    ``[n, 2]``; ``began`` is when the worker began to compute.
    """

    batch_id: int
    array: np.ndarray
    lengths: np.ndarray
    manifest: np.ndarray
    token_level: bool
    began: int = 0

    def frames(self) -> list[Any]:
        (rows, dims), dtype = self.array.shape, dtype_name(self.array.dtype)
        head = f"{dtype} {rows} {dims} {int(self.token_level)} {self.began}"
        return [u64(self.batch_id), head.encode(), self.array, self.lengths, self.manifest]

    @classmethod
    def from_frames(cls, frames: Sequence[Any]) -> Result:
        batch_id, head, array, lengths, manifest = (getattr(frame, "buffer", frame) for frame in frames)
        dtype, rows, dims, token_level, began = bytes(head).decode().split()
        return cls(
            from_u64(batch_id),
            np.frombuffer(array, dtype).reshape(int(rows), int(dims)),
            np.frombuffer(lengths, np.int32),
            np.frombuffer(manifest, np.int64).reshape(-1, 2),
            token_level == "1",
            int(began),
        )
