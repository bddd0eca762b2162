"""Tests when a child process counts as hung."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from bert_serving.server.ipc.endpoints import Addresses
from bert_serving.server.ipc.heartbeat import LIVENESS_TIMEOUT
from bert_serving.server.supervisor import child as module
from bert_serving.server.supervisor.arguments import THREAD_NAME
from bert_serving.server.supervisor.child import Child
from process_harness import tiny_config

LIMIT = 4.0


@pytest.fixture
def child() -> Child:
    config = tiny_config("-heartbeat_timeout", str(LIMIT), "-worker_timeout", "30", "-start_timeout", "100")
    child = Child("http", "http", "HTTP", config, Addresses("", "", "", "", ""), {}, {})
    child.started_at = time.monotonic()
    return child


def test_a_start_that_takes_longer_than_a_heartbeat_may_is_no_hang(child: Child) -> None:
    """Heartbeats of the start tell of no progress, and one of them may arrive behind READY."""
    now = child.started_at
    for _ in range(50):
        now += 1
        child.on_heartbeat({"age": now - child.started_at, "busy": False}, now)
        assert not child.hang_reason(now)
    child.on_ready({}, now)
    assert not child.hang_reason(now)
    child.on_heartbeat({"age": 51.0, "busy": False}, now + 0.5)
    assert not child.hang_reason(now + 1)
    child.on_heartbeat({"age": 0.5, "busy": False}, now + 1.5)
    assert not child.hang_reason(now + 2)


@pytest.mark.parametrize(("is_busy", "limit"), [(False, LIMIT), (True, 30.0)])
def test_a_main_loop_that_stands_still_is_a_hang(child: Child, is_busy: bool, limit: float) -> None:
    ready_at = child.started_at + 50
    child.on_ready({}, ready_at)
    for second in range(1, 60):
        child.on_heartbeat({"age": float(second), "busy": is_busy}, ready_at + second)
        assert bool(child.hang_reason(ready_at + second)) == (second > limit)


@pytest.mark.parametrize("num_heartbeats", [0, 1])
def test_a_process_without_heartbeats_hangs(child: Child, num_heartbeats: int) -> None:
    """Also if it stands still between its report that it is ready and its first heartbeat."""
    child.on_ready({}, child.started_at)
    for _ in range(num_heartbeats):
        child.on_heartbeat({"age": 0.0, "busy": False}, child.started_at)
    assert child.is_up(child.started_at + LIVENESS_TIMEOUT)
    assert not child.is_up(child.started_at + LIVENESS_TIMEOUT + 0.1)
    assert not child.hang_reason(child.started_at + LIMIT)
    assert "no heartbeat" in child.hang_reason(child.started_at + LIMIT + 0.1)


LARGE = {"options": ["of more bytes than a pipe holds"] * 100_000}


def test_a_process_that_does_not_read_its_arguments_does_not_stop_the_supervisor(
    child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that hangs while Python starts: it is killed as any other."""
    monkeypatch.setattr(module, "BOOTSTRAP", "import time; time.sleep(100)")
    child.options = LARGE
    for _ in range(2):
        started = time.monotonic()
        child.start()
        assert time.monotonic() - started < 50
        [sender] = [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]
        assert child.hang_reason(time.monotonic() + 101)
        child.kill()
        child.end(time.monotonic() + 50)
        sender.join(50)
        assert not sender.is_alive()


def test_arguments_of_any_size_arrive(child: Child, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "options"
    monkeypatch.setattr(
        module,
        "BOOTSTRAP",
        "import json, sys; options = json.loads(sys.stdin.readline())['options']; "
        f"open({str(path)!r}, 'w').write(str(len(options.get('options', ''))))",
    )
    for options, expected in ((LARGE, "100000"), ({}, "0")):
        child.options = options
        child.start()
        assert child.process is not None
        assert child.process.wait(60) == 0
        assert path.read_text() == expected
        child.end(time.monotonic() + 10)
