"""Which models the ventilator unloads: those without requests that have workers of this server."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace
from typing import Any

from bert_serving.server.ventilator.idle_models import IdleModels


class Table:
    """The request table of a model with workers, by name: those of machines have the name of the machine."""

    def __init__(self, **machines: str) -> None:
        self.jobs: list[object] = []
        self.digests: list[object] = []
        workers = {name.encode(): SimpleNamespace(machine=each, is_draining=False) for name, each in machines.items()}
        self.dispatcher: Any = SimpleNamespace(workers=workers, drain_worker=self._drain)

    def _drain(self, name: bytes) -> None:
        self.dispatcher.workers[name].is_draining = True


def test_workers_of_machines_stay_and_do_not_load_a_model_again() -> None:
    tables: list[Any] = [Table(own=""), Table(own="", joined="gpu1"), Table(joined="gpu1")]
    served: list[Any] = [
        SimpleNamespace(name=str(number), config=SimpleNamespace(idle_unload=seconds))
        for number, seconds in enumerate((0, 5, 5))
    ]
    sent: list[dict[str, list[str]]] = []
    now = 0.0
    idle = IdleModels(
        tables, served, lambda frames: sent.append(json.loads(frames[1])), logging.getLogger("test"), lambda: now
    )
    for now in (1.0, 4.9, 5.0, 6.0, 7.0):
        idle.step(now)
    assert sent == [{}, {"1": ["own"]}], "the machine's model has nothing to unload, and the unloaded one stays so"
    draining = {name for name, worker in tables[1].dispatcher.workers.items() if worker.is_draining}
    assert draining == {b"own"}
    idle.use(tables[1])
    tables[1].dispatcher.workers[b"own"].is_draining = False  # its successor
    idle.step(8.0)
    assert (sent[2:], idle.unloaded_names) == ([{}], [])
