"""Starts real servers on free ports for tests."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from bert_serving.client import BertClient

DATA = Path(__file__).resolve().parent / "data"
TINY = DATA / "golden" / "models" / "tiny"
TINY_TUNED = DATA / "golden" / "models" / "tiny_tuned"
#: One cache of prepared models for all servers of a test run; not the user's cache. The processes of a parallel run
#: inherit it, so that each model is prepared once.
CACHE = os.environ.get("TESTS_MODEL_CACHE") or tempfile.mkdtemp(prefix="bert-serving-tests-")
os.environ["TESTS_MODEL_CACHE"] = CACHE
#: Default engine of test servers: the one that starts fastest. Tests that compare vectors with those of version 1.10
#: name the reference engine, tensorflow.
ENGINE = os.environ.get("BERT_SERVING_TEST_ENGINE") or (
    "onnx" if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx") else "tensorflow"
)
READY_LINE = "all set, ready to serve request!"
#: All created servers; ``conftest.py`` ends those that a failed test left running.
STARTED: list[Server] = []

_RETURNED_PORTS: set[int] = set()
#: Locks of the last returned ports: a server has bound its ports long before they are released.
_LOCKS: deque[socket.socket] = deque()
MAX_LOCKS = 100


def free_ports(count: int = 2) -> list[int]:
    """Returns free ports that no other call returns meanwhile, in any process of this machine.

    A server binds its ports a second after it is started, so they are reserved for that time. All runs of tests on a
    machine choose from one range. It lies below that of outgoing connections, and above those of Ray and of the
    benchmark.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(20_000, 32_000)
        if port not in _RETURNED_PORTS and is_free(port) and _reserve(port):
            _RETURNED_PORTS.add(port)
            ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    """Returns whether no other process has reserved a port. Only Linux has names of sockets that are not files."""
    if sys.platform != "linux":
        return True
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0bert-serving-tests:{port}".encode())
    except OSError:
        lock.close()
        return False
    _LOCKS.append(lock)
    if len(_LOCKS) > MAX_LOCKS:
        _LOCKS.popleft().close()
    return True


@atexit.register
def _release() -> None:
    """Releases all reserved ports; a socket that is not closed is a warning."""
    while _LOCKS:
        _LOCKS.pop().close()


def wait_until(condition: Callable[[], object], seconds: float = 60.0, what: str = "the condition") -> None:
    """Waits until ``condition()`` is true; fails after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not reached within {seconds} s"
        time.sleep(0.02)


def wait_replaced(client: BertClient, deaths: int) -> None:
    """Waits until ``deaths`` processes in all were replaced and all are ready. A death is noticed with a delay."""

    def is_whole() -> bool:
        status = client.server_status
        assert status["num_restarts"] <= deaths
        return (status["state"], status["num_restarts"]) == ("ready", deaths)

    wait_until(is_whole, what=f"all processes to be ready after {deaths} deaths")


def _environment(changes: dict[str, str]) -> dict[str, str]:
    """Returns the environment of this process with changes; a ``PYTHONPATH`` is put in front of the inherited one."""
    paths = [changes.get("PYTHONPATH"), os.environ.get("PYTHONPATH")]
    python_path = {"PYTHONPATH": os.pathsep.join(filter(None, paths))} if any(paths) else {}
    return {**os.environ, "BERT_SERVING_CACHE": CACHE, **changes, **python_path}


class Server:
    """A ``bert-serving-start`` process."""

    def __init__(
        self,
        *args: str | Path,
        model_dir: str | Path | None = TINY,
        env: dict[str, str] | None = None,
        cpu: bool = True,
        prefix: Sequence[str] = (),
    ) -> None:
        self.port, self.port_out = free_ports()
        self.log_path = Path(tempfile.mkstemp(prefix="bert-serving-log-", dir=CACHE)[1])
        model = ["-model_dir", str(model_dir)] if model_dir else []
        if "-engine" not in args:
            model += ["-engine", ENGINE]
        ports = ["-port", str(self.port), "-port_out", str(self.port_out)]
        command = [
            *prefix,
            sys.executable,
            "-m",
            "bert_serving.server",
            *model,
            *ports,
            *(["-cpu"] if cpu else []),
            *map(str, args),
        ]
        with open(self.log_path, "w") as log:
            self.process = subprocess.Popen(
                command,
                stderr=log,
                stdout=log,
                stdin=subprocess.DEVNULL,
                env=_environment(env or {}),
                start_new_session=True,  # signals to the process group of the tests must not reach it
            )
        self.outlives_module = False
        STARTED.append(self)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_ready(self, seconds: float = 120.0) -> Server:
        def is_ready() -> bool:
            assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log}"
            return READY_LINE in self.log

        try:
            wait_until(is_ready, seconds, "the server")
        except AssertionError:
            self.kill()
            raise
        return self

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def child(self, name: str) -> psutil.Process:
        """Returns the child process with this name, such as ``worker-0`` or ``sink``."""
        for child in self.children():
            with contextlib.suppress(psutil.Error):
                if f"bert-serving-{name}" in child.cmdline():
                    return child
        raise AssertionError(f"no process {name}:\n{self.log}")

    def stop(self, seconds: float = 90.0) -> int:
        """Sends SIGTERM. Returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            children = self.children()
            self.process.kill()
            self.process.wait(60)
            psutil.wait_procs(children, timeout=10)


@contextlib.contextmanager
def serving(*args: str | Path, **kwargs: object) -> Iterator[Server]:
    """Yields a server that is ready, and stops it afterwards."""
    server = Server(*args, **kwargs)  # type: ignore[arg-type]
    try:
        yield server.wait_ready()
        server.stop()
    finally:
        server.kill()


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
            probe.listen(1)
        except OSError:
            return False
    return True
