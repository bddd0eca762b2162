"""A machine that lies: no message on the ports for machines ends a process or costs a request."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from joining import Front, front

from bert_serving.server.ipc import commands, joining
from bert_serving.server.ipc.commands import from_u64, u64
from bert_serving.server.ipc.joining import MachineReport, Offer
from bert_serving.server.ipc.messages import Result, decode_commands, encode_commands
from fault_helpers import connect
from servers import wait_until

NAME = "liar"
WORKER = f"{NAME}/worker-0-00".encode()
GOOD = {"machine": NAME, "process": "worker-0.1", "max_tokens": 4096, "device": "cpu", "engine": "zeros"}
REPORT = joining.encode(MachineReport([], False))


@pytest.fixture(scope="module")
def server() -> Iterator[Front]:
    with front("-engine", "zeros", "-num_worker", "1") as server:
        yield server.wait_ready()  # type: ignore[misc]


class Liar:
    """The sockets of a machine and of its worker."""

    def __init__(self, server: Front) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self.link, self.worker, self.results = (
            self.connect(kind, port, identity)
            for kind, port, identity in (
                (zmq.DEALER, server.join_port, f"{NAME}~00".encode()),
                (zmq.DEALER, server.join_port, WORKER),
                (zmq.PUSH, server.join_port_out, b""),
            )
        )

    def connect(self, kind: int, port: int, identity: bytes) -> zmq.Socket[bytes]:
        sock = self.context.socket(kind)
        self._sockets.append(sock)
        sock.setsockopt(zmq.LINGER, 1000)
        if identity:
            sock.setsockopt(zmq.IDENTITY, identity)
        sock.connect(f"tcp://127.0.0.1:{port}")
        return sock

    def join(self) -> None:
        self.link.send(joining.QUERY_TERMS)
        terms = joining.decode(self.link.recv_multipart()[1], type=joining.FrontTerms)
        offer = joining.encode(Offer(terms.terms, "host", ["cpu"], "zeros", "fp32"))
        self.link.send_multipart([joining.JOIN, NAME.encode(), offer])
        assert self.link.recv_multipart()[0] == joining.ACCEPTED

    def register(self, **changes: Any) -> None:
        self.worker.send_multipart([commands.REGISTER, joining.encode({**GOOD, **changes})])

    def leave(self) -> None:
        self.wait_read()
        self.link.send_multipart([joining.LEAVE, NAME.encode()])
        self.wait_read()

    def wait_read(self) -> None:
        """Waits until the ventilator has read all messages of the machine."""
        self.link.send_multipart([joining.MACHINE_HEARTBEAT, NAME.encode(), REPORT])
        assert self.link.poll(30_000), "the ventilator does not answer"
        self.link.recv_multipart()

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.destroy()


def require_whole(server: Front) -> None:
    with connect(server) as client:
        assert client.encode(["hello world"] * 3).shape == (3, 32)
        status = client.server_status
        assert (status["num_restarts"], status["state"]) == (0, "ready")
        json.dumps(status)


REGISTRATIONS: list[dict[str, Any]] = [
    {"process": 3},
    {"process": ["a"]},
    {"max_tokens": -5},
    {"max_tokens": 0},
    {"max_tokens": "many"},
    {"max_tokens": 2**70},
    {"max_sequences": 0},
    {"max_sequences": -1},
    {"max_sequences": None},
    {"device": ["x"] * 1000},
    {"overlaps": "yes"},
    {"model": 7},
    {"machine": [NAME]},
    {"gpu_memory_used": "all"},
    {"gpu_utilization": {"a": 1}},
]


def test_registrations_of_any_content_end_no_process(server: Front) -> None:
    with Liar(server) as liar:
        liar.join()
        liar.register()
        for changes in REGISTRATIONS:
            for _ in range(2):  # the second one looks for the first
                liar.register(**changes)
        for content in (b"", b"{", b"[]", b"null", b'{"machine":"liar"}', b"\xff"):
            liar.worker.send_multipart([commands.REGISTER, content])
        liar.leave()
        require_whole(server)
        liar.join()
        for name in (b"\xff", b"liar/\xff\xfe", b"liar/" + b"n" * 200):
            other = liar.connect(zmq.DEALER, server.join_port, name)
            other.send_multipart([commands.REGISTER, joining.encode(GOOD)])
            other.send_multipart([commands.BATCH_FAILED, u64(1), b"error", b"text"])
        liar.leave()
        require_whole(server)


def test_commands_of_any_content_end_no_process(server: Front) -> None:
    kinds = (commands.REGISTER, commands.BATCH_FAILED, joining.QUERY_TERMS, joining.JOIN, joining.MACHINE_HEARTBEAT)
    with Liar(server) as liar:
        liar.join()
        for kind in (*kinds, joining.LEAVE, b"", b"\xff", commands.TOKENIZED):
            for content in ((), (b"",), (b"x",), (b"\xff" * 9,), (b"x" * 8, b"\xff", b"\xff"), (b"{}", b"{}", b"{}")):
                liar.link.send_multipart([kind, *content])
                liar.worker.send_multipart([kind, *content])
        with contextlib.suppress(zmq.Again):
            while liar.link.poll(500):
                liar.link.recv_multipart()
        require_whole(server)


def result(**changes: Any) -> list[Any]:
    values: dict[str, Any] = {
        "batch_id": 1,
        "array": np.zeros((1, 32), np.float32),
        "lengths": np.array([3], np.int32),
        "manifest": np.zeros((1, 2), np.int64),
        "token_level": False,
    }
    return Result(**values | changes).frames()


def results(epoch: int) -> Iterator[list[Any]]:
    """Yields results that no worker sends, for the ventilator with an epoch."""
    job = epoch << 40 | 1
    opened = [commands.JOB_CHUNK, u64(job), u64(2), b"a client", b"1", u64(0), b"", b""]
    for announcements in (
        b"\xff",
        encode_commands([[]]),
        encode_commands([[b"X"]]),
        encode_commands([opened[:4]]),
        encode_commands([[commands.JOB_CHUNK, b"x", *opened[2:]]]),
        encode_commands([[*opened[:2], u64(2**63), *opened[3:]]]),
        encode_commands([[*opened, b"{"]]),
        encode_commands([[*opened[:7], b"xyz"]]),
        encode_commands([opened]),
    ):
        yield result(batch_id=job, announcements=announcements)
    for row in (-1, 2, 2**62, -(2**63)):
        yield result(batch_id=job, manifest=np.array([[job, row]], np.int64), announcements=encode_commands([opened]))
    for codes in (b"x", b"\x00" * 8, b"\xff" * 4, np.array([7 << 3], np.int32).tobytes(), b"\x00" * 3):
        yield result(batch_id=job, vector_codes=codes)
    yield result(batch_id=job, manifest=np.zeros((0, 2), np.int64), array=np.zeros((0, 32), np.float32))
    yield result(batch_id=2**64 - 1)
    yield result(batch_id=job, duration=2**63)
    yield result(batch_id=job, array=np.zeros((1, 32), np.complex64))
    for worker_idle in (
        [commands.WORKER_IDLE],
        [commands.WORKER_IDLE, b"name"],
        [commands.WORKER_IDLE, b"name", b"x"],
        [commands.WORKER_IDLE, b"\xff", u64(2**64 - 1)],
        [commands.WORKER_IDLE, b"name", u64(1), b""],
        [],
    ):
        yield [b"", encode_commands([worker_idle])]
    yield [b"", b"\xff"]
    yield [b""]
    yield [msgspec.msgpack.encode([1, b"", 0, "float32", -1, 32, False, [b"", b"", b""], b"", None])]
    yield [msgspec.msgpack.encode([1, b"", 0, "O", 1, 1, False, [b"x" * 8, b"", b""], b"", None])]
    yield [msgspec.msgpack.encode([1, b"", 0, "U" * 1000, 1, 1, False, [b"", b"", b""], b"", None])]


def test_results_of_any_content_end_no_process(server: Front) -> None:
    with Liar(server) as liar:
        liar.join()
        liar.register()
        assert liar.worker.poll(30_000), "the worker hears of no batch"
        ((_, last_batch),) = decode_commands(liar.worker.recv_multipart()[1])
        liar.leave()
        for frames in results(epoch=from_u64(last_batch) >> 40):
            liar.results.send_multipart(frames)
        liar.results.send_multipart([b"", encode_commands([[b"the last one", b"", b""]])])
        wait_until(lambda: server.log.count("the last one") == 1, what="the last result")
        require_whole(server)
