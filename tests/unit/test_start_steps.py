"""Tests the durations of the steps of a start."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from bert_serving.server.ipc import start_steps
from bert_serving.server.ipc.start_steps import StartSteps, process_start


def test_steps_add_up_to_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((100.0, 100.25, 101.0))
    monkeypatch.setattr(start_steps.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(start_steps.time, "process_time", lambda: 0.5)
    steps = StartSteps(98.5)
    for step in ("imports", "engine", "imports"):
        steps.done(step)
    assert str(steps) == "start took 2.50 s, 0.50 s of processor time: imports 2.25 s, engine 0.25 s"


@pytest.mark.skipif(sys.platform != "linux", reason="the estimate elsewhere has no lower limit")
def test_a_start_begins_with_the_process() -> None:
    code = "from bert_serving.server.ipc.start_steps import process_start; print(process_start())"
    before = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, env=os.environ)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert before - 2 * tick <= float(done.stdout) <= time.monotonic()


def test_without_a_record_of_the_system_a_start_is_an_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(start_steps.time, "CLOCK_BOOTTIME", raising=False)
    assert process_start() <= time.monotonic() - time.process_time() + 1
