"""One child process of the supervisor: how it is started, what is known of it, how it is ended."""

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
from ..ipc.process_context import HEARTBEAT_INTERVAL

#: Program text of every part. It drops the current folder from the import path, so that a file there that happens to
#: be called like a library is not imported in its place, and takes over the parent's path.
BOOTSTRAP = (
    "import sys; sys.path[:] = filter(None, sys.path); import json; "
    "boot = json.loads(sys.stdin.readline()); sys.path[:] = boot['path']; "
    "from bert_serving.server.child_main import main; main(boot)"
)


#: A part that has not beaten for so long (s) may still come back, but is not counted on meanwhile.
LIVENESS_TIMEOUT = 5 * HEARTBEAT_INTERVAL


@dataclass(eq=False)
class Child:
    """A part of the server that runs in a process of its own.

    Attributes:
        role: which code it runs: ventilator, sink, prepare, worker, http.
        context: its name in the log.
        incarnation: how often it was started; part of its identity, so that a predecessor's words are not its own.
        reason: what it said before it ended, if it could.
        failed_starts: ends in a row before it was ready.
        crashes: ends in a row after it was ready, each soon after the start.
        is_draining: it was asked to end, so that a new one can take its place.
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
    is_ready: bool = False
    reason: str = ""
    failed_starts: int = 0
    crashes: int = 0
    is_draining: bool = False
    drain_again_at: float = 0.0
    started_at: float = 0.0
    restart_at: float | None = None
    last_heartbeat: float | None = None
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> bytes:
        return f"{self.name}.{self.incarnation}".encode()

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts the process. Its standard input is its lifeline: it ends when this process is gone."""
        self.incarnation += 1
        self.is_ready, self.reason, self.restart_at, self.last_heartbeat = False, "", None, None
        self.is_draining = False
        self.info = {}
        self.started_at = time.monotonic()
        boot = {
            "path": sys.path,
            "role": self.role,
            "name": self.identity.decode(),
            "context": self.context,
            "config": self.config.to_json(),
            "addresses": self.addresses.to_dict(),
            "options": self.options,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", BOOTSTRAP, f"bert-serving-{self.name}"],
            stdin=subprocess.PIPE,
            env={**os.environ, **self.env},
        )
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(boot).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it ended at once, which the supervisor sees

    def on_heartbeat(self, heartbeat: dict[str, Any], now: float) -> None:
        self.last_heartbeat = now
        self.info.update(heartbeat)

    def reset_liveness(self, now: float) -> None:
        """Nobody listened for a while, so silence until now says nothing."""
        if self.last_heartbeat is not None:
            self.last_heartbeat = now
        self.info["age"] = 0.0

    def is_up(self, now: float) -> bool:
        """Whether it was ready, and gave a sign of life lately."""
        return self.is_ready and (self.last_heartbeat is None or now - self.last_heartbeat <= LIVENESS_TIMEOUT)

    def hang_reason(self, now: float) -> str:
        """Why this process counts as hung; empty if it does not."""
        config = self.config
        if not self.is_ready and now - self.started_at > config.start_timeout:
            return f"it was not ready after {config.start_timeout:g} s (-start_timeout)"
        if self.last_heartbeat is not None and now - self.last_heartbeat > config.heartbeat_timeout:
            return f"no sign of life for {config.heartbeat_timeout:g} s (-heartbeat_timeout)"
        if self.is_ready and self.role != "prepare":
            age = self.info.get("age", 0.0)
            if self.info.get("busy"):
                if age > config.worker_timeout:
                    return f"one batch took more than {config.worker_timeout:g} s (-worker_timeout)"
            elif age > config.heartbeat_timeout:
                return f"its loop stood still for {config.heartbeat_timeout:g} s (-heartbeat_timeout)"
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
        """The process has ended: lets go of what belonged to it."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process, self.is_ready = None, False


def describe_exit(code: int) -> str:
    """An exit code in words; a killed process has often run out of memory."""
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    hint = "; the system kills processes so when memory runs out" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"
