"""Starts processes that wait for the prepared model earlier, so that they import their libraries meanwhile."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress

from .arguments import send_arguments
from .child import Child, import_path

#: Roles that wait for the prepared model.
_WAITING = ("worker", "http", "jobs")


class EarlyProcesses:
    """Processes that import what they need and wait for their arguments.

    The supervisor does not watch them: it takes one that still runs, or starts another process.
    """

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._is_done = False

    def step(self, children: Mapping[str, Child]) -> None:
        """Starts them once, if a model is being prepared and the processes for requests are ready.

        Before, these would share the cores with the process that prepares. If the system has no memory or process id,
        ``Child.start`` tries again later.
        """
        front = [child for child in children.values() if child.role in ("ventilator", "sink")]
        if self._is_done or not all(child.is_ready for child in front):
            return
        self._is_done = True
        if all(child.is_finished for child in children.values() if child.role == "prepare"):
            return
        for child in children.values():
            if child.role in _WAITING and not child.incarnation:
                with suppress(OSError):
                    self._start(child)

    def _start(self, child: Child) -> None:
        process = self._processes[child.name] = child.start_early()
        early = {"role": child.role, "xla": child.config.xla}
        early |= {name: child.options[name] for name in ("engine", "dtype", "device") if child.role == "worker"}
        assert process.stdin is not None
        send_arguments(process.stdin, json.dumps({"path": import_path(), "early": early}).encode() + b"\n")

    def take(self, child: Child) -> subprocess.Popen[bytes] | None:
        """Returns the process of a child if it still runs, and forgets it."""
        process = self._processes.pop(child.name, None)
        if process is None or process.poll() is None:
            return process
        _end(process)
        return None

    def close(self) -> None:
        """Ends the processes that were not needed."""
        while self._processes:
            _end(self._processes.popitem()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
