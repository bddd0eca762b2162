"""Processes that wait for the prepared model run meanwhile: they serve afterwards, and none is left or missed."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bert_serving.client import BertClient
from servers import Server, free_ports, wait_until

#: An engine that prepares until a file is removed.
ENGINE = """
import os, time
from bert_serving.server.engines.zeros import INFO, create, unavailable

def prepare(spec, log):
    while os.path.exists(os.environ["WAITS_FOR"]):
        time.sleep(0.02)
"""
WAITING = ("worker-0", "worker-1", "http")


def importing(server: Server) -> list[psutil.Process]:
    """Returns the child processes that have read their first line: they import pyzmq after it."""
    found = []
    for child in server.children():
        with contextlib.suppress(psutil.Error):
            if any("zmq" in mapped.path for mapped in child.memory_maps()):
                found.append(child)
    return found


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "waiting.py").write_text(ENGINE, "utf-8")
    (tmp_path / "gate").touch()
    return tmp_path / "gate"


@pytest.fixture
def server(gate: Path) -> Iterator[Server]:
    """A server whose model is being prepared, and whose other processes have started."""
    env = {"PYTHONPATH": str(gate.parent), "WAITS_FOR": str(gate)}
    server = Server("-engine", "engines.waiting", "-num_worker", "2", "-http_port", str(*free_ports(1)), env=env)
    try:
        wait_until(lambda: len(importing(server)) == 6, what="the processes that wait")
        yield server
    finally:
        server.kill()


def test_a_process_that_started_early_serves(server: Server, gate: Path) -> None:
    early = {name: server.child(name).pid for name in WAITING}
    killed = server.child("worker-1")
    killed.kill()
    wait_until(lambda: killed.status() == psutil.STATUS_ZOMBIE, what="its end")  # the supervisor looks at it later
    gate.unlink()
    server.wait_ready()
    now = {name: server.child(name).pid for name in WAITING}
    assert {name for name in WAITING if early[name] == now[name]} == {"worker-0", "http"}
    assert " E:" not in server.log
    with BertClient(port=server.port, port_out=server.port_out) as client:
        assert client.encode(["hello world"]).shape == (1, 32)
        assert not any(client.server_status["restarts"].values())
    assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_that_wait_end_with_the_supervisor(server: Server, number: int) -> None:
    children = server.children()
    server.process.send_signal(number)
    assert server.process.wait(60) == (0 if number == signal.SIGTERM else -number)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "Traceback" not in server.log
