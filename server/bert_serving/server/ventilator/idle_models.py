"""Decides which models free their memory, because no request has named them for ``-idle_unload`` seconds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence

from ..ipc.commands import MODELS_UNLOADED
from .request_table import RequestTable
from .served_model import ServedModel


class IdleModels:
    """Tells the supervisor which models are unloaded, at each change.

    The workers of an unloaded model get no more batches. A request for it waits until their successors register.
    Workers of machines that join stay, and compute meanwhile.

    Args:
        tables: the request tables of all models.
        served: the models, in the same order.
        send: sends frames to the supervisor.
        clock: returns monotonic seconds.

    Attributes:
        is_enabled: whether any model has ``-idle_unload``.
    """

    def __init__(
        self,
        tables: Sequence[RequestTable],
        served: Sequence[ServedModel],
        send: Callable[[list[bytes]], object],
        log: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self._tables, self._served, self._send, self._log, self._clock = tables, served, send, log, clock
        self._seconds = [model.config.idle_unload for model in served]
        self.is_enabled = any(self._seconds)
        self._last_used = [clock()] * len(tables)
        self._unloaded: dict[int, list[str]] = {}  # with the workers that get no more batches
        self._reported: dict[int, list[str]] | None = None  # None: a supervisor may know those of an earlier ventilator

    @property
    def unloaded_names(self) -> list[str]:
        """Names of the models that are unloaded."""
        return [self._served[number].name for number in sorted(self._unloaded)]

    def use(self, table: RequestTable) -> None:
        """Records a request for a model, and loads the model if it is unloaded."""
        number = self._tables.index(table)
        self._last_used[number] = self._clock()
        if number in self._unloaded:
            del self._unloaded[number]
            self._log.info("model %s: a request needs it; loading", self._served[number].name)
            self._report()

    def step(self, now: float) -> None:
        """Unloads models whose time is over. Call it once a second."""
        for number, table in enumerate(self._tables):
            workers = {name: each for name, each in table.dispatcher.workers.items() if not each.machine}
            if table.jobs or table.digests:
                self._last_used[number] = now
            if number in self._unloaded:
                if not all(worker.is_draining for worker in workers.values()):  # one that was just restarted
                    del self._unloaded[number]
                    self._last_used[number] = now
            elif self._seconds[number] and workers and now - self._last_used[number] >= self._seconds[number]:
                for name in workers:
                    table.dispatcher.drain_worker(name)
                self._unloaded[number] = [name.decode() for name in workers]
                idle = now - self._last_used[number]
                self._log.info("model %s: no request for %.0f s; unloading", self._served[number].name, idle)
        self._report()

    def _report(self) -> None:
        if self._unloaded != self._reported:
            self._reported = dict(self._unloaded)
            self._send([MODELS_UNLOADED, json.dumps(self._unloaded).encode()])
