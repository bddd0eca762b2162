"""The process that an actor of Ray starts: ``bert-serving-join``, which drains and ends when the actor ends.

The actor holds the standard input of this process. When it closes, even because the actor is killed, the machine
drains. The standard output carries two JSON lines: the name of the machine, and the reason for its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from ..cli import join
from ..errors import ConfigError
from ..log import flush_log
from ..supervisor.machine import MachineSupervisor
from ..supervisor.supervisor import EXIT_START_FAILED, STOP_SECONDS

_EXIT_USAGE, _EXIT_ORPHANED = 2, 9
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a machine until SIGTERM or the end of the actor. Returns the exit code of ``bert-serving-join``."""
    events = os.dup(1)
    os.dup2(2, 1)
    args = join.get_parser().parse_args(argv)
    try:
        machine = join.make_machine(args)
    except (ConfigError, ValueError) as error:
        _tell(events, {"machine": ""})
        _tell(events, {"exit_code": _EXIT_USAGE, "reason": str(error)})
        return _EXIT_USAGE

    def on_signal(number: int, frame: FrameType | None) -> None:
        machine.stop()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _stop_when_orphaned(machine)
    _tell(events, {"machine": machine.machine_name})
    machine.run()
    code = EXIT_START_FAILED if machine.exit_code is None else machine.exit_code
    _tell(events, {"exit_code": code, "reason": machine.failure or ""})
    flush_log()
    os._exit(code)  # threads may still hold sockets


def _stop_when_orphaned(machine: MachineSupervisor) -> None:
    """Drains the machine when the standard input closes. Ends this process if the machine does not end in time."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        machine.stop()
        threading.Event().wait(machine.config.drain_timeout + 2 * STOP_SECONDS)
        os._exit(_EXIT_ORPHANED)

    threading.Thread(target=watch, name="stop-when-orphaned", daemon=True).start()
    # A suspended process (SIGSTOP) cannot watch the pipe. Linux resumes it when the actor ends.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def _tell(events: int, event: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the actor has ended
        os.write(events, (json.dumps(event) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
