"""Ctrl-C ends each command quietly with exit code 130, also while it imports."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bert_serving.client.interrupts import exit_on_interrupt

ROOT = Path(__file__).resolve().parents[2]
#: Module, function and name of each command of both distributions.
COMMANDS = [
    (module, function, command)
    for name in ("client", "server")
    for command, module, function in re.findall(
        r'^(bert-serving-\w+) = "(.+):(.+)"', (ROOT / name / "pyproject.toml").read_text(encoding="utf-8"), re.M
    )
]
#: Runs a command that interrupts itself at one of the events that Python reports while it imports and runs.
INTERRUPTED = """
import os, signal, sys
module, function, moment = sys.argv[1:4]
del sys.argv[1:4]
command = getattr(__import__(module, fromlist=[function]), function)
number = 0
def on_event(event, arguments):
    global number
    number += 1
    if number == int(moment):
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(on_event)
sys.exit(command())
"""


@pytest.mark.parametrize(
    ("module", "function", "moment"),
    [(module, function, (1, 40, 150, 300)[index % 4]) for index, (module, function, _) in enumerate(COMMANDS)],
    ids=[command for *_, command in COMMANDS],
)
def test_interrupt_during_imports(module: str, function: str, moment: int, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, module, function, str(moment), str(tmp_path / "keys")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


#: A command that is interrupted in a destructor, where Python drops the exception.
IN_DESTRUCTOR = """
import signal, time

class Message:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        len("")

def main():
    Message()
    time.sleep(100)
"""


def test_interrupt_in_a_destructor_is_not_lost(tmp_path: Path) -> None:
    (tmp_path / "command_with_destructor.py").write_text(IN_DESTRUCTOR)
    run = "from bert_serving.client.interrupts import exit_on_interrupt, run_command; exit_on_interrupt(); "
    run += "run_command('command_with_destructor', 'main', is_interruptible=True) == 130 or exit(1); exit(130)"
    done = subprocess.run([sys.executable, "-c", run], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup does
    try:
        exit_on_interrupt()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
