"""Starts, describes and ends one child process of the supervisor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ..config.server_config import ServerConfig
from ..ipc.endpoints import Addresses
from ..ipc.group_signals import group_signals_blocked
from ..ipc.heartbeat import LIVENESS_TIMEOUT
from . import fork
from .arguments import send_arguments

#: Program text of every child process. It removes the current folder from the import path, so that a file there does
#: not shadow a library, and then adopts the parent's path.
BOOTSTRAP = (
    "import sys; sys.path[:] = filter(None, sys.path); import json; "
    "arguments = json.loads(sys.stdin.readline()); sys.path[:] = arguments['path']; "
    "from bert_serving.server.child_main import main; main(arguments)"
)

#: Failed starts in a row after which the server ends. A process that was ready before it died is always restarted: its
#: configuration works, and the cause may be temporary.
MAX_FAILED_STARTS = 8
#: After this many crashes in a row, each within the window after the start, restarts are delayed by the backoff. Both
#: are in seconds.
CRASH_LOOP_THRESHOLD, CRASH_LOOP_WINDOW, CRASH_LOOP_BACKOFF = 8, 30.0, 1.0


@dataclass(eq=False)
class Child:
    """A child process of the server.

    Attributes:
        role: the code that it runs; ``child_main`` has all roles.
        context: its name in the log.
        incarnation: number of starts; part of its identity, so that messages of a predecessor are recognised.
        ready_at: monotonic seconds at which it became ready, or None.
        reason: the reason that it reported before it ended.
        failed_starts: number of ends in a row before it was ready.
        crashes: number of ends in a row after it was ready, each within ``CRASH_LOOP_WINDOW``.
        is_draining: it gets no more work and is about to be replaced.
        is_finished: its work is done; for the role prepare.
    """

    role: str
    name: str
    context: str
    config: ServerConfig
    addresses: Addresses
    options: dict[str, Any]
    env: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    incarnation: int = 0
    ready_at: float | None = None
    reason: str = ""
    failed_starts: int = 0
    crashes: int = 0
    is_draining: bool = False
    is_finished: bool = False
    drain_again_at: float = 0.0
    started_at: float = 0.0
    restart_at: float | None = None
    last_heartbeat: float | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> bytes:
        return f"{self.name}.{self.incarnation}".encode()

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, early: subprocess.Popen[bytes] | None = None) -> None:
        """Starts the process. It ends when its standard input closes, so it cannot outlive this process.

        Args:
            early: a process of ``start_early`` that runs and waits; None starts another one.
        """
        self.incarnation += 1
        self.ready_at, self.reason, self.restart_at, self.last_heartbeat = None, "", None, None
        self.is_draining = False
        self.info = {}
        self.started_at = time.monotonic()
        arguments = {
            "path": import_path(),
            "role": self.role,
            "name": self.identity.decode(),
            "context": self.context,
            "config": self.config.to_json(),
            "addresses": self.addresses.to_dict(),
            "options": self.options,
            "started_at": self.started_at,
        }
        self.process = self.start_early() if early is None else early
        assert self.process.stdin is not None
        send_arguments(self.process.stdin, json.dumps(arguments).encode() + b"\n")

    def start_early(self) -> subprocess.Popen[bytes]:
        """Returns a new process, which waits for its arguments."""
        with fork.fork_lock, group_signals_blocked():
            process = subprocess.Popen(
                [sys.executable, "-c", BOOTSTRAP, f"bert-serving-{self.name}"],
                stdin=subprocess.PIPE,
                env={**os.environ, **self.env},
                bufsize=0,  # a buffer has a lock, which a forked process might find locked
            )
            assert process.stdin is not None
            fork.close_on_fork(process.stdin)
        return process

    def on_heartbeat(self, heartbeat: dict[str, Any], now: float) -> None:
        self.last_heartbeat = now
        self.info.update(heartbeat)

    def on_ready(self, info: dict[str, Any], now: float) -> None:
        self.ready_at = self.last_heartbeat = now
        self.failed_starts = 0
        self.info.update(info)

    def schedule_restart(self, now: float, was_ready: bool) -> None:
        """Sets the time of the next start, with a delay after repeated failures."""
        if was_ready:
            self.crashes = self.crashes + 1 if now - self.started_at < CRASH_LOOP_WINDOW else 1
            self.restart_at = now + (CRASH_LOOP_BACKOFF if self.crashes > CRASH_LOOP_THRESHOLD else 0.0)
        else:
            self.failed_starts += 1
            self.restart_at = now + (0.0 if self.failed_starts == 1 else min(30.0, 0.25 * 2**self.failed_starts))

    def reset_liveness(self, now: float) -> None:
        """Restarts the liveness period, after this process was suspended."""
        if self.last_heartbeat is not None:
            self.last_heartbeat = now
        self.info["age"] = 0.0

    def is_up(self, now: float) -> bool:
        """Returns whether it is ready and its last heartbeat is recent."""
        return self.is_ready and (self.last_heartbeat is None or now - self.last_heartbeat <= LIVENESS_TIMEOUT)

    def hang_reason(self, now: float) -> str:
        """Returns the reason why this process counts as hung, or an empty string."""
        config = self.config
        if not self.is_ready and now - self.started_at > config.start_timeout:
            return f"not ready after {config.start_timeout:.15g} s (-start_timeout)"
        if self.last_heartbeat is not None and now - self.last_heartbeat > config.heartbeat_timeout:
            return f"no heartbeat for {config.heartbeat_timeout:.15g} s (-heartbeat_timeout)"
        if self.ready_at is not None and self.role != "prepare":
            age = min(self.info.get("age", 0.0), now - self.ready_at)  # a slow start is no hang
            if self.info.get("busy"):
                if age > config.worker_timeout:
                    return f"one batch took more than {config.worker_timeout:.15g} s (-worker_timeout)"
            elif age > config.heartbeat_timeout:
                return f"no progress of its main loop for {config.heartbeat_timeout:.15g} s (-heartbeat_timeout)"
        return ""

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()

    def end(self, deadline: float) -> None:
        """Waits until the process has ended; kills it at ``deadline`` (monotonic seconds)."""
        assert self.process is not None
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.on_exit()

    def on_exit(self) -> None:
        """Releases what belonged to the ended process."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process, self.ready_at = None, None


def import_path() -> list[str]:
    """Returns the import path of this process, without entries that Python ignores."""
    return [entry for entry in sys.path if isinstance(entry, str)]


def describe_exit(code: int) -> str:
    """Describes an exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
