"""A process that cannot start again ends the server with a reason and an exit code; one that loads delays no stop."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from bert_serving.server import BertServer
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.supervisor import supervisor
from fault_helpers import HERE
from servers import TINY, free_ports, wait_until


def test_a_worker_that_cannot_start_again_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    monkeypatch.setenv("BREAKS_WITH", str(broken))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(supervisor, "MAX_FAILED_STARTS", 2)  # the pauses between eight take more than a minute
    port, port_out = free_ports()
    argv = ["-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), "-cpu"]
    server = BertServer(get_args_parser().parse_args([*argv, "-engine", "fault_engines.breaking"]))
    with server:
        broken.touch()
        worker = server.children["worker-0"].process
        assert worker is not None
        psutil.Process(worker.pid).kill()
        wait_until(lambda: server.exit_code is not None, 120, "the end")
    assert server.exit_code == 4
    assert server.failure is not None
    assert "worker-0 ended 3 times before it was ready" in server.failure
    assert "the driver is gone" in server.failure


@pytest.mark.minutes
def test_a_worker_that_loads_its_model_does_not_delay_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = tmp_path / "loads"
    monkeypatch.setenv("LOADS_WITH", str(loads))
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 3600.0)  # that of a ready worker
    port, port_out = free_ports()
    argv = ["-model_dir", str(TINY), "-port", str(port), "-port_out", str(port_out), "-cpu"]
    server = BertServer(get_args_parser().parse_args([*argv, "-engine", "fault_engines.loading"]))
    with server:
        loads.touch()
        worker = server.children["worker-0"].process
        assert worker is not None
        psutil.Process(worker.pid).kill()
        wait_until(lambda: not loads.exists(), 120, "the worker to load its model")
    assert server.exit_code == 0
