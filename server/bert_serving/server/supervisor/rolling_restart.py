"""Replaces the workers one after the other, so that no request fails."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ..ipc import commands
from .child import Child


class RollingRestart:
    """Drains and stops each worker, and waits until its successor is ready."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._requests = 0
        self._names: list[str] = []

    def request(self) -> None:
        """Requests a restart of all workers. Safe in a signal handler."""
        self._requests += 1

    def on_exit(self, child: Child) -> None:
        """Records that a draining worker has ended."""
        self._names.remove(child.name)

    def step(
        self,
        children: dict[str, Child],
        is_whole: bool,
        now: float,
        tell: Callable[..., None],
        is_unloaded: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Continues the restart; begins one that was requested.

        Args:
            is_whole: all processes of the server are ready.
            tell: sends a command to the process with a name.
            is_unloaded: returns whether a worker has no process, and needs no restart.
        """
        if self._requests:
            self._requests = 0
            self._names = [name for name, child in children.items() if child.role == "worker"]
            if not self._names:
                self._log.warning(
                    "this server has no workers to restart (-num_worker 0); stop each machine, and start it again"
                )
            else:
                self._log.info("restarting the workers one after the other")
        if not self._names:
            return
        child = children[self._names[0]]
        if is_unloaded(child.name):
            del self._names[0]
        elif child.is_draining:
            if now > child.drain_again_at:  # repeated, because the ventilator may have been restarted
                child.drain_again_at = now + 1
                tell("ventilator", commands.DRAIN_WORKER, child.identity)
        elif is_whole:
            self._log.info("draining %s before its restart", child.name)
            child.is_draining = True
