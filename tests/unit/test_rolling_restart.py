"""A rolling restart of a server whose workers are all on machines that have joined."""

from __future__ import annotations

import logging

import pytest

from bert_serving.server.supervisor.rolling_restart import RollingRestart


def test_a_server_without_workers_logs_that_none_is_restarted(caplog: pytest.LogCaptureFixture) -> None:
    restart = RollingRestart(logging.getLogger("restart"))
    restart.request()
    restart.step({}, True, 0.0, lambda *_: pytest.fail("no process gets a command"))
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "no workers to restart (-num_worker 0); stop each machine, and start it again" in record.getMessage()
