"""Runs a peer: its server, if any, and the driver that generates load."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from exports import DRIVERS
from install import OFFLINE
from peers import Peer, filled

READY_SECONDS = 180.0
#: Maximum seconds of one job; the slowest peer needs a tenth of it on two cores.
ANSWER_SECONDS = 300.0


class PeerError(RuntimeError):
    """A peer did not start, ended, failed or timed out; the message contains the end of its log."""


class RunningPeer:
    """A running peer.

    Raises:
        PeerError: it did not start.
    """

    def __init__(self, peer: Peer, python: str, hf: str, texts: Path) -> None:
        self.peer = peer
        port = _free_port()
        env = {**os.environ, **OFFLINE, "PATH": f"{Path(python).parent}:{os.environ['PATH']}"}
        if not peer.is_ours:
            env.pop("PYTHONPATH", None)
        self._log = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115, closed by close()
        self._processes: list[subprocess.Popen[str]] = []
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()  # output of the driver; None when it ends
        try:
            if peer.server is not None:
                server = self._start(filled(peer.server, python, port, hf), env)
                self._wait_for(server, peer.ready)
            script, *words = filled(peer.driver, python, port, hf)
            command = [python, str(DRIVERS / script), *words, str(texts)]
            self._driver = self._start(command, env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            threading.Thread(target=self._read_lines, daemon=True).start()
            self._answer(READY_SECONDS)
        except BaseException:
            self.close()
            raise

    def request(self, kind: str, number: int | list[int], seconds: float = ANSWER_SECONDS) -> Any:
        """Sends a job to the driver, see ``drivers/loop.py``, and returns its result.

        Raises:
            PeerError: the job failed, the driver ended, or no result arrived within ``seconds``.
        """
        assert self._driver.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._driver.stdin.write(json.dumps([kind, number]) + "\n")
            self._driver.stdin.flush()
        return self._answer(seconds)

    def memory_mib(self) -> float:
        """Returns the memory of the server, or of the driver if that computes, with all descendants: PSS in MiB.

        PSS counts a page that processes share once.

        Raises:
            PeerError: the process ended.
        """
        return sum(process.memory_full_info().pss for process in self._family()) / (1 << 20)

    def processor_seconds(self) -> float:
        """Returns the processor time that the same processes have used.

        Raises:
            PeerError: the process ended.
        """
        times = [process.cpu_times() for process in self._family()]
        return sum(time.user + time.system for time in times)

    def _family(self) -> list[psutil.Process]:
        try:
            computing = psutil.Process(self._processes[0].pid)
            return [computing, *computing.children(recursive=True)]
        except psutil.NoSuchProcess as error:
            raise PeerError(f"{self.peer.label} {self.peer.dtype} ended:\n{self._log_tail()}") from error

    def _read_lines(self) -> None:
        assert self._driver.stdout is not None
        with self._driver.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def _answer(self, seconds: float) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                words = f"{self._log_tail()}\nno response for {seconds:g} s"
                raise PeerError(f"{self.peer.label} {self.peer.dtype} timed out:\n{words}") from None
            if line is None:
                raise PeerError(f"{self.peer.label} {self.peer.dtype} ended:\n{self._log_tail()}")
            if line.startswith("answer:"):
                value = json.loads(line.removeprefix("answer:"))
                if isinstance(value, dict):
                    raise PeerError(f"{self.peer.label} {self.peer.dtype}: {value['failure']}")
                return value

    def _start(self, command: list[str], env: dict[str, str], **pipes: Any) -> subprocess.Popen[str]:
        out = {"stdin": subprocess.DEVNULL, "stdout": self._log, "stderr": self._log, **pipes}
        process = subprocess.Popen(command, env=env, cwd="/", text=True, start_new_session=True, **out)
        self._processes.append(process)
        return process

    def _wait_for(self, server: subprocess.Popen[str], ready: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while ready not in Path(self._log.name).read_text("utf-8", "replace"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise PeerError(f"{self.peer.label} {self.peer.dtype} did not start:\n{self._log_tail()}")
            time.sleep(0.1)

    def _log_tail(self) -> str:
        return Path(self._log.name).read_text("utf-8", "replace")[-2000:]

    def close(self) -> None:
        """Stops the driver, the server, and remaining children of the server."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
        self._log.close()


def _free_port() -> int:
    """Returns a free port whose two successors are free as well."""
    while True:
        port = random.randint(10_000, 32_000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in range(3):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port + number))
            return port
