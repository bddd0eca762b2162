"""Messages of a machine that joins name flags that its command has, or say that they are those of the front."""

from __future__ import annotations

import logging

import pytest

from bert_serving.server.cli.join import machine_options
from bert_serving.server.config.machine_options import NamingFrontOptions, name_front_options
from bert_serving.server.config.options import OPTIONS
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.supervisor.machine import MachineSupervisor
from servers import TINY


def test_each_flag_is_of_the_command_or_called_one_of_the_front() -> None:
    own = {flag for option in machine_options() for flag in option.flags} | {"-join_keys"}
    for option in OPTIONS.values():
        for flag in (each for each in option.flags if not each.startswith("--")):
            message = f"{flag} 7 is set; the folder wants 8"
            remark = "" if flag in own else f" ({flag} is an option of the front)"
            assert name_front_options(message) == message + remark


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("-max_seq_len 9 or -dtype fp16, not -max_seq_len 8", "(-max_seq_len, -dtype are options of the front)"),
        ("start the front with a -dtype that all its machines compute", ""),
        ("a folder /models/-dtype and m-dtype", ""),
        ("layer -1 has -inf", ""),
    ],
)
def test_the_remark_names_each_flag_once(message: str, named: str) -> None:
    assert name_front_options(message) == f"{message} {named}".rstrip()


def test_the_reason_of_a_failure_gets_the_remark(capsys: pytest.CaptureFixture[str]) -> None:
    machine = MachineSupervisor("127.0.0.1", 1, ServerConfig.from_dict({"model_dir": str(TINY)}), None)
    try:
        machine._fail("-max_seq_len 600 is more than the 512 positions of the model")
    finally:
        machine._finish()
    remark = "-max_seq_len 600 is more than the 512 positions of the model (-max_seq_len is an option of the front)"
    assert machine.failure == remark
    assert capsys.readouterr().err.count(remark) == 1


def test_log_lines_get_the_remark(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("machine options")
    log.addFilter(NamingFrontOptions())
    log.warning("-normalize %s is set, 100%%", "off")
    log.warning("%d workers", 2)
    assert caplog.messages == ["-normalize off is set, 100% (-normalize is an option of the front)", "2 workers"]
