"""Drains accepted requests at the end of a server, in the order in which requests pass the processes.

A ventilator or sink that dies meanwhile is replaced. Clients then send their unanswered requests again, so requests are
accepted for some seconds before the drain goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from ..ipc import commands
from .child import Child

#: Seconds in which clients notice that a connection has closed, connect again and repeat their requests.
RESEND_SECONDS = 5.0


class Drain:
    """Tells one process after the other to drain, and knows which have finished.

    Args:
        tell: sends a command to the process with a name.
        timeout: seconds after which the drain counts as failed.
    """

    def __init__(self, children: dict[str, Child], now: float, timeout: float, tell: Callable[..., None]) -> None:
        self._children, self._tell = children, tell
        self.deadline = now + timeout
        if "jobs" in children:  # batch jobs go on after the next start
            tell("jobs", commands.STOP)
        has_http = "http" in children and children["http"].is_ready
        self._waiting = ["http", "ventilator", "sink"] if has_http else ["ventilator", "sink"]
        self._told: bytes = b""
        self._is_interrupted = not self._is_serving  # a process has died before the drain
        self._resume_at: float | None = None

    @property
    def _is_serving(self) -> bool:
        return all(self._children[name].is_ready for name in ("ventilator", "sink"))

    @property
    def is_finished(self) -> bool:
        return not self._waiting

    def step(self, now: float) -> None:
        """Tells the current process to drain, unless requests are about to be repeated."""
        if self._is_interrupted:
            if not self._is_serving:
                self._resume_at = None
                return
            if self._resume_at is None:
                self._resume_at = now + RESEND_SECONDS
            if now < self._resume_at:
                return
            self._is_interrupted = False
        if self._waiting and self._children[self._waiting[0]].identity != self._told:
            self._told = self._children[self._waiting[0]].identity
            self._tell(self._waiting[0], commands.DRAIN)

    def on_drained(self, name: str) -> None:
        """Records that a process has finished its requests."""
        if self._waiting and self._waiting[0] == name and (name == "http" or not self._is_interrupted):
            del self._waiting[0]

    def on_death(self, child: Child) -> bool:
        """Returns whether a process that ended has to be replaced."""
        if child.role == "jobs":
            return False
        if child.role == "http":  # its connections are gone, and their requests with them
            self._waiting = [name for name in self._waiting if name != "http"]
            return False
        if child.role == "ventilator" and self._waiting == ["sink"]:  # all results are in the sink
            return False
        if child.role in ("ventilator", "sink"):
            self._waiting = [*(["http"] if "http" in self._waiting else []), "ventilator", "sink"]
            self._is_interrupted, self._resume_at, self._told = True, None, b""
            self._tell("ventilator", commands.RESUME)
        return True

    @property
    def is_ventilator_missing(self) -> bool:
        """Returns whether the ventilator, which was not replaced, is needed again."""
        ventilator = self._children["ventilator"]
        return self._is_interrupted and ventilator.process is None and ventilator.restart_at is None
