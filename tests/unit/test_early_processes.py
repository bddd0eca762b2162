"""Tests when processes that wait for the prepared model start, and which of them are used."""

from __future__ import annotations

import time

import pytest

from bert_serving.server.ipc.endpoints import Addresses
from bert_serving.server.supervisor.child import Child
from bert_serving.server.supervisor.early_start import EarlyProcesses
from process_harness import tiny_config


@pytest.fixture
def children() -> dict[str, Child]:
    """The processes of a server that prepares a model."""
    config = tiny_config()
    options = {"engine": "zeros", "dtype": "fp32", "device": {}}
    names = {"ventilator": "ventilator", "sink": "sink", "prepare-zeros-fp32": "prepare", "worker-0": "worker"}
    addresses = Addresses("", "", "", "", "")
    made = {name: Child(role, name, name, config, addresses, dict(options), {}) for name, role in names.items()}
    for name in ("ventilator", "sink", "prepare-zeros-fp32"):
        made[name].incarnation = 1
    return made


def test_they_start_once_when_the_processes_for_requests_are_ready(children: dict[str, Child]) -> None:
    early, worker = EarlyProcesses(), children["worker-0"]
    try:
        early.step(children)
        assert early.take(worker) is None
        for name in ("ventilator", "sink"):
            children[name].on_ready({}, time.monotonic())
        early.step(children)
        process = early.take(worker)
        assert process is not None
        assert process.poll() is None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 9, "it ends with the supervisor"
        early.step(children)
        assert early.take(worker) is None
    finally:
        early.close()


def test_none_starts_without_a_model_to_prepare(children: dict[str, Child]) -> None:
    early = EarlyProcesses()
    children["prepare-zeros-fp32"].is_finished = True
    for name in ("ventilator", "sink"):
        children[name].on_ready({}, time.monotonic())
    early.step(children)
    assert early.take(children["worker-0"]) is None


def test_one_that_has_ended_is_not_used(children: dict[str, Child]) -> None:
    early = EarlyProcesses()
    for name in ("ventilator", "sink"):
        children[name].on_ready({}, time.monotonic())
    early.step(children)
    process = early._processes["worker-0"]
    process.kill()
    process.wait(60)
    assert early.take(children["worker-0"]) is None
    early.close()
