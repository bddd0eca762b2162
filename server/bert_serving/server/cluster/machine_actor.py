"""The actor that Ray places on a node: it runs a machine that joins the front, in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bert_serving.client.ray_cluster import exit_with_node


class Started(NamedTuple):
    """A machine that has started.

    Attributes:
        name: its name at the front; empty if its options are not valid.
        host: the node.
    """

    name: str
    host: str


class Ended(NamedTuple):
    """A machine that has ended: exit code of its process, and the reason, which may be empty."""

    exit_code: int
    reason: str


class MachineActor:
    """Runs the join process, and ends with it or before it.

    Its methods run in threads: `ended` blocks until the process has ended, and `drain` may be called meanwhile.

    Args:
        arguments: command line of ``bert-serving-join``.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        exit_with_node()
        # Ray sets OMP_NUM_THREADS to the CPUs of the actor, or to 1; the machine has -threads.
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bert_serving.server.cluster.machine_process", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
            text=True,
            start_new_session=True,
        )

        line = self._read_line()
        self._started = Started(str(json.loads(line)["machine"]) if line else "", socket.gethostname())

    def started(self) -> Started:
        """Returns the name of the machine."""
        return self._started

    def ended(self) -> Ended:
        """Waits until the process has ended."""
        line = self._read_line()
        code = self._process.wait()
        return Ended(code, str(json.loads(line)["reason"]) if line else "")

    def drain(self) -> None:
        """Makes the machine finish its batches and end."""
        self._process.terminate()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()
