"""Helpers of fault tests: servers with faulty engines, clients without the library, unreliable networks."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import zmq
from fault_engines.faulty import vector

from bert_serving.client import BertClient
from servers import TINY, Server, serving, wait_until

HERE = Path(__file__).resolve().parent
_VOCABULARY = {word: index for index, word in enumerate((TINY / "vocab.txt").read_text().split("\n"))}


def faulty(
    *args: str | Path, engine: str = "faulty", env: dict[str, str] | None = None
) -> contextlib.AbstractContextManager[Server]:
    """Returns a ready server with one of the engines in ``fault_engines``."""
    # A batch's size is given, not measured, so that a test sees the same batches on every machine.
    sizes = [] if "-max_batch_tokens" in args else ["-max_batch_tokens", "4096"]
    return serving("-engine", f"fault_engines.{engine}", *sizes, *args, env={"PYTHONPATH": str(HERE), **(env or {})})


def connect(server: Server, **kwargs: object) -> BertClient:
    return BertClient(port=server.port, port_out=server.port_out, **{"timeout": 60_000, **kwargs})  # type: ignore[arg-type]


def text(number: int) -> str:
    """Returns a unique text whose words are tokens, so that its vector can be computed without a server."""
    return "hello " + " ".join(str(number)) + " world"


def texts(count: int, first: int = 0) -> list[str]:
    return [text(number) for number in range(first, first + count)]


def truth(sentences: Sequence[str]) -> np.ndarray:
    """Returns the vectors of the faulty engine, ``[n, 32]``."""
    return np.stack([vector([_VOCABULARY[t] for t in ("[CLS]", *s.split(), "[SEP]")]) for s in sentences])


def assert_true(vectors: np.ndarray, sentences: Sequence[str]) -> None:
    np.testing.assert_allclose(vectors, truth(sentences), atol=1e-4)


class Raw:
    """A client like that of 1.10: a PUSH and a SUB socket, without retries."""

    def __init__(self, server: Any, identity: bytes, receive_buffer: int = 0) -> None:
        self.identity = identity
        self.context = zmq.Context()
        self.push = self.context.socket(zmq.PUSH)
        self.sub = self.context.socket(zmq.SUB)
        for sock in (self.push, self.sub):
            sock.setsockopt(zmq.LINGER, 0)
        if receive_buffer:
            self.sub.setsockopt(zmq.RCVBUF, receive_buffer)
            self.sub.setsockopt(zmq.RCVHWM, 1)
        self.sub.setsockopt(zmq.SUBSCRIBE, identity)
        self.sub.connect(f"tcp://127.0.0.1:{server.port_out}")
        self.push.connect(f"tcp://127.0.0.1:{server.port}")
        self.last_id = 0

    def send(self, sentences: Sequence[object]) -> bytes:
        self.last_id += 1
        request_id = b"%d" % self.last_id
        message = json.dumps(sentences).encode()
        self.push.send_multipart([self.identity, message, request_id, b"%d" % len(sentences)])
        return request_id

    def receive(self, seconds: float = 60) -> tuple[bytes, dict[str, object], np.ndarray | None]:
        """Returns request id, info and vectors of the next reply; an error has no vectors."""
        assert self.sub.poll(int(seconds * 1000)), "no answer"
        frames = self.sub.recv_multipart()
        info = json.loads(frames[1])
        if "error" in info or len(frames) == 3:
            return frames[-1], info, None
        return frames[-1], info, np.frombuffer(frames[2], info["dtype"]).reshape(info["shape"])

    def status(self) -> dict[str, object]:
        """Returns the status. A reply that was sent before the subscription arrived is lost, so it is asked again."""
        self.last_id += 1
        for _ in range(6):
            self.push.send_multipart([self.identity, b"SHOW_STATUS", b"%d" % self.last_id, b"0"])
            if self.sub.poll(10_000):
                return json.loads(self.sub.recv_multipart()[1])  # type: ignore[no-any-return]
        raise AssertionError("no answer")

    def close(self) -> None:
        self.context.destroy(linger=0)

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FlakyProxy:
    """A TCP proxy that cuts connections after random numbers of bytes.

    Args:
        target: port of 127.0.0.1.
        mean_bytes: mean number of bytes of a connection; 0 is unlimited.
        listen: address of the proxy; a free port of 127.0.0.1 by default.
    """

    def __init__(
        self, target: int, mean_bytes: float, seed: int = 0, listen: tuple[str, int] = ("127.0.0.1", 0)
    ) -> None:
        self.target, self.mean_bytes = target, mean_bytes
        self.num_cut = 0
        self._random = random.Random(seed)
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(listen)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            with self._lock:
                budget = self._random.expovariate(1 / self.mean_bytes) if self.mean_bytes else float("inf")
                pair = (near, far)
                self._pairs.add(pair)
            left = [budget + 300]  # a ZeroMQ handshake has about 200 bytes: most connections get past it
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(pair, source, sink, left), daemon=True).start()

    def _pump(
        self, pair: tuple[socket.socket, ...], source: socket.socket, sink: socket.socket, left: list[float]
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                part = data[: max(0, int(min(left[0], len(data))))]
                left[0] -= len(data)
                sink.sendall(part)
                if left[0] <= 0:
                    self.num_cut += 1
                    break
        self._cut(pair)

    def _cut(self, pair: tuple[socket.socket, ...]) -> None:
        with self._lock:
            self._pairs.discard(pair)  # type: ignore[arg-type]
        for sock in pair:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def cut_all(self) -> None:
        for pair in list(self._pairs):
            self._cut(pair)

    def close(self) -> None:
        self._listener.close()
        self.cut_all()

    def __enter__(self) -> FlakyProxy:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class ThreadGroup:
    """A group of threads; :meth:`join` raises the first exception of a thread."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self.stopped = threading.Event()

    def start(self, work: object, *args: object) -> None:
        def run() -> None:
            try:
                work(*args)  # type: ignore[operator]
            except BaseException as error:
                self._errors.append(error)
                self.stopped.set()

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def is_busy(self) -> bool:
        if self._errors:
            raise self._errors[0]
        return any(thread.is_alive() for thread in self._threads)

    def __enter__(self) -> ThreadGroup:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()

    def join(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._errors:
            raise self._errors[0]
        assert not any(thread.is_alive() for thread in self._threads), f"not done after {seconds} s"


def memory(server: Server) -> dict[str, int]:
    """Returns the bytes of private memory by process."""
    sizes = {"supervisor": psutil.Process(server.process.pid).memory_full_info().uss}
    for child in server.children():
        with contextlib.suppress(psutil.Error):
            name = next((a for a in child.cmdline() if a.startswith("bert-serving-")), None)
            if name:
                sizes[name.removeprefix("bert-serving-")] = child.memory_full_info().uss
    return sizes


def open_files(server: Server) -> dict[int, int]:
    """Returns the number of file descriptors by process id."""
    processes = [psutil.Process(server.process.pid), *server.children()]
    return {process.pid: process.num_fds() for process in processes}


def wait_for_descriptors(server: Server, before: dict[int, int], slack: int) -> None:
    """Waits until no process has more than ``slack`` descriptors above ``before``, a value of :func:`open_files`."""
    now: dict[int, int] = {}

    def are_back() -> bool:
        now.update(open_files(server))
        return all(count <= before[pid] + slack for pid, count in now.items())

    try:
        wait_until(are_back)
    except AssertionError:
        raise AssertionError(f"file descriptors before: {before}, after: {now}") from None


@contextlib.contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
