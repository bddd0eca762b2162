"""Which workers stop and start when models are unloaded and needed again, in any order of events."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.ipc import commands
from bert_serving.server.supervisor.idle_unload import IdleUnload


class Workers:
    """Two workers, of the models 0 and 1, that obey STOP when a test lets them."""

    def __init__(self) -> None:
        self.unload = IdleUnload(logging.getLogger("test"))
        self.children: dict[str, Any] = {
            f"worker-{number}": SimpleNamespace(
                role="worker",
                name=f"worker-{number}",
                identity=b"worker-%d.1" % number,
                is_running=True,
                options={"model_number": number},
                is_ready=True,
                is_draining=False,
                restart_at=None,
            )
            for number in range(2)
        }
        self.told: set[str] = set()

    def tell(self, name: str, command: bytes) -> None:
        assert command == commands.STOP
        assert name not in self.told, "a worker is told once"
        self.told.add(name)

    def apply(self, unloaded: list[int]) -> None:
        idle = {number: [f"worker-{number}.1"] for number in unloaded}
        self.unload.apply(idle, self.children, self.tell)

    def stop(self, name: str) -> None:
        """A worker that was told to stop ends."""
        if name in self.told:
            self.told.remove(name)
            self.children[name].is_ready = self.children[name].is_running = False
            assert self.unload.on_exit(self.children[name])

    def start(self, name: str) -> None:
        """A worker whose start is due becomes ready."""
        child = self.children[name]
        if child.restart_at is not None:
            child.restart_at, child.is_ready, child.is_running = None, True, True
            self.unload.on_ready(child, self.tell)


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("apply"), st.sampled_from([(), (0,), (1,), (0, 1)])),
        st.tuples(st.sampled_from(["stop", "start"]), st.sampled_from(["worker-0", "worker-1"])),
    ),
    max_size=30,
)


@given(EVENTS)
def test_every_worker_ends_in_the_state_that_the_last_report_asks_for(events: list[tuple[str, Any]]) -> None:
    workers = Workers()
    unloaded: tuple[int, ...] = ()
    for kind, value in events:
        getattr(workers, kind)(list(value) if kind == "apply" else value)
        unloaded = value if kind == "apply" else unloaded
    for _ in range(3):  # the ventilator unloads again what was still loading
        for name in workers.children:
            workers.stop(name)
            workers.start(name)
        workers.apply(list(unloaded))
    for number, child in enumerate(workers.children.values()):
        workers.stop(child.name)
        assert child.is_ready == (number not in unloaded)
        assert workers.unload.excuses(child.name) == (number in unloaded)


def test_a_worker_that_dies_while_it_starts_again_is_a_failure() -> None:
    workers = Workers()
    workers.apply([1])
    workers.stop("worker-1")
    workers.apply([])
    assert workers.children["worker-1"].restart_at == 0.0
    assert not workers.unload.on_exit(workers.children["worker-1"])
    assert not workers.unload.excuses("worker-1")


def test_a_worker_stops_whose_report_that_it_is_ready_comes_later() -> None:
    """The messages of ventilator and worker arrive in any order, such as after the supervisor was suspended."""
    workers = Workers()
    child = workers.children["worker-1"]
    child.is_ready = False
    workers.apply([1])
    child.is_ready = True
    workers.unload.on_ready(child, workers.tell)
    assert workers.told == {"worker-1"}
    assert workers.unload.excuses("worker-1")
    workers.apply([])
    workers.stop("worker-1")
    assert child.restart_at == 0.0
    child.restart_at, child.is_running = None, True
    workers.apply([1])
    assert not workers.told
    child.is_ready = True
    workers.unload.on_ready(child, workers.tell)
    assert workers.told == {"worker-1"}, "the same if it is loaded again"


def test_a_worker_that_was_started_after_the_report_is_left_alone() -> None:
    workers = Workers()
    workers.children["worker-1"].identity = b"worker-1.2"
    workers.apply([1])
    assert not workers.told
    assert not workers.unload.excuses("worker-1")
