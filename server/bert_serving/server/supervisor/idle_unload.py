"""Stops the workers of unloaded models, and starts them again when a request needs them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from enum import Enum

from ..ipc import commands
from .child import Child


class _Phase(Enum):
    STOPPING = "it was told to stop"
    RESTARTING = "it was told to stop, and is needed again"
    STOPPED = "it has ended"
    LOADING = "it starts again"


class IdleUnload:
    """Knows which workers are unloaded. They count as ready, because a request starts them.

    The ventilator sends no batch to a worker that it reports as unloaded. So such a worker always stops, even if its
    model is needed again meanwhile. One that has not yet reported that it is ready is told when it does: an earlier
    command could be lost.
    """

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._phases: dict[str, _Phase] = {}

    def excuses(self, name: str) -> bool:
        """Returns whether a process is not ready because its model is unloaded."""
        return name in self._phases

    def apply(
        self, unloaded: Mapping[int, Collection[str]], children: Mapping[str, Child], tell: Callable[..., None]
    ) -> None:
        """Stops and starts workers.

        Args:
            unloaded: the index of each unloaded model, with the identities of its workers that get no more batches.
            tell: sends a command to the process with a name.
        """
        for name, child in children.items():
            if child.role != "worker":
                continue
            phase = self._phases.get(name)
            idle = unloaded.get(child.options.get("model_number", 0))
            if idle is not None:
                is_idle = child.identity.decode() in idle and child.is_running and not child.is_draining
                if phase in (None, _Phase.LOADING) and is_idle:
                    self._phases[name] = _Phase.STOPPING
                    if child.is_ready:
                        tell(name, commands.STOP)
                elif phase is _Phase.RESTARTING:
                    self._phases[name] = _Phase.STOPPING
            elif phase is _Phase.STOPPING:
                self._phases[name] = _Phase.RESTARTING
            elif phase is _Phase.STOPPED:
                self._load(child)

    def on_exit(self, child: Child) -> bool:
        """Returns whether a process has ended because its model is unloaded; starts it again if it is needed."""
        phase = self._phases.get(child.name)
        if phase is _Phase.STOPPING:
            self._phases[child.name] = _Phase.STOPPED
            self._log.info("%s is unloaded", child.name)
        elif phase is _Phase.RESTARTING:
            self._load(child)
        else:
            self._phases.pop(child.name, None)  # it ended while it started: a failure as any other
            return False
        return True

    def on_ready(self, child: Child, tell: Callable[..., None]) -> None:
        """Records that a process is ready, or stops it if its model is unloaded; see :meth:`apply`."""
        phase = self._phases.get(child.name)
        if phase is _Phase.LOADING:
            del self._phases[child.name]
        elif phase is not None:
            tell(child.name, commands.STOP)

    def _load(self, child: Child) -> None:
        self._phases[child.name] = _Phase.LOADING
        child.restart_at = 0.0  # at once
