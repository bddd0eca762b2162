"""Tests that a drain tells each process to finish its requests, whichever process dies before or meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.server.ipc import commands
from bert_serving.server.supervisor.drain import RESEND_SECONDS, Drain


class Processes:
    """Ventilator and sink; a command reaches a process that is ready only."""

    def __init__(self) -> None:
        self.now = 0.0
        self.children: dict[str, Any] = {name: process(name, 1) for name in ("ventilator", "sink")}
        self.draining: set[bytes] = set()

    def tell(self, name: str, *frames: bytes) -> None:
        child = self.children[name]
        if not child.is_ready:
            return
        if frames == (commands.DRAIN,):
            self.draining.add(child.identity)
        elif frames == (commands.RESUME,):
            self.draining.discard(child.identity)

    def is_draining(self, name: str) -> bool:
        return self.children[name].identity in self.draining

    def die(self, name: str) -> None:
        self.children[name].is_ready = False

    def come_back(self, name: str) -> None:
        self.children[name] = process(name, int(self.children[name].identity[-1:]) + 1)


def process(name: str, incarnation: int) -> Any:
    identity = f"{name}.{incarnation}".encode()
    return SimpleNamespace(role=name, name=name, identity=identity, is_ready=True, process=object(), restart_at=None)


def finish(processes: Processes, drain: Drain) -> None:
    """Lets processes that were told to drain report it, within a bounded time."""
    for _ in range(20):
        processes.now += 1
        drain.step(processes.now)
        for name in ("ventilator", "sink"):
            if processes.is_draining(name):
                drain.on_drained(name)
        drain.step(processes.now)
    assert drain.is_finished


@pytest.mark.parametrize("name", ["ventilator", "sink"])
def test_a_process_that_is_not_ready_when_the_drain_begins_is_told_later(name: str) -> None:
    processes = Processes()
    processes.die(name)
    drain = Drain(processes.children, 0.0, 60.0, processes.tell)
    drain.step(0.0)
    processes.come_back(name)
    processes.now = 1.0
    drain.step(processes.now)
    drain.step(processes.now + RESEND_SECONDS - 0.1)
    assert not processes.draining, "clients have no time to send their requests again"
    finish(processes, drain)


@pytest.mark.parametrize("name", ["ventilator", "sink"])
def test_a_process_that_dies_meanwhile_is_told_again(name: str) -> None:
    processes = Processes()
    drain = Drain(processes.children, 0.0, 60.0, processes.tell)
    drain.step(0.0)
    assert processes.is_draining("ventilator")
    processes.die(name)
    assert drain.on_death(processes.children[name])
    drain.step(1.0)
    processes.come_back(name)
    drain.step(2.0)
    assert not processes.is_draining("ventilator")
    finish(processes, drain)
