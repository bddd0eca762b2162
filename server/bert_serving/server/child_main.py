"""Entry point of every child process.

The supervisor starts ``python -c BOOTSTRAP <name>`` and writes the configuration to its standard input. The pipe stays
open. When the supervisor ends, even by SIGKILL, the pipe closes and the child process ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from .config.machine_options import NamingFrontOptions
from .config.server_config import ServerConfig
from .engines.base import EngineError
from .errors import ServingError
from .ipc.commands import FATAL
from .ipc.descriptors import raise_descriptor_limit
from .ipc.endpoints import Addresses
from .ipc.group_signals import ignore_group_signals
from .ipc.process_context import ProcessContext
from .ipc.sockets import make_socket
from .ipc.start_steps import StartSteps
from .log import flush_log, get_logger
from .model.errors import ModelError

EXIT_FAILED, EXIT_ORPHANED = 1, 9
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _exit_when_orphaned(addresses: Addresses) -> None:
    """Ends this process when the supervisor's end of the standard input closes.

    Removes the socket folder too, because a killed supervisor cannot remove it.
    """

    def watch() -> None:
        try:
            while os.read(sys.stdin.fileno(), 4096):
                pass
        except OSError:
            pass
        if addresses.folder:
            shutil.rmtree(addresses.folder, ignore_errors=True)
        os._exit(EXIT_ORPHANED)

    threading.Thread(target=watch, name="exit-when-orphaned", daemon=True).start()


def _resume_when_orphaned() -> None:
    """Lets Linux resume this process when its supervisor ends: a suspended one (SIGSTOP) cannot watch the pipe."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def _wait_for_start(early: dict[str, Any]) -> dict[str, Any]:
    """Imports what a role needs, and returns the arguments of its process when they arrive.

    Ends this process if the supervisor closes its standard input before.
    """
    with contextlib.suppress(Exception):  # the role raises it again, and reports it
        _load_role(early["role"])
        if early["role"] == "worker":
            from .worker import early_imports

            early_imports.run(early)
    line = sys.stdin.readline()
    if not line:
        os._exit(EXIT_ORPHANED)
    arguments: dict[str, Any] = json.loads(line)
    return arguments


def main(arguments: dict[str, Any]) -> None:
    """Runs the role that ``arguments`` name in this process, and ends the process.

    Args:
        arguments: the first line of the standard input. With ``early``, the second line has those of the role.
    """
    # ONNX Runtime collects and sends telemetry unless this is set before its first import.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    ignore_group_signals()
    _resume_when_orphaned()
    if "early" in arguments:
        arguments = _wait_for_start(arguments["early"])
    addresses = Addresses(**arguments["addresses"])
    _exit_when_orphaned(addresses)
    config = ServerConfig.from_json(arguments["config"])
    role, name = arguments["role"], arguments["name"]
    process = ProcessContext(
        name,
        config,
        addresses,
        arguments["options"],
        get_logger(arguments["context"], *config.log_settings),
        steps=StartSteps(arguments["started_at"]),
    )
    if "join" in process.options:
        process.log.addFilter(NamingFrontOptions())
    try:
        if role in ("ventilator", "sink", "http"):  # libraries in workers may use select(), which is limited to 1,024
            raise_descriptor_limit()
        run = _load_role(role)
        process.steps.done("interpreter and imports")
        run(process)
        code = 0
    except Exception as error:
        code = EXIT_FAILED
        _report_fatal(process, error)
    # Sockets have no linger, so this does not wait. Daemon threads hold sockets, so context.term() would block.
    flush_log()
    os._exit(code)


def _report_fatal(process: ProcessContext, error: Exception) -> None:
    """Reports the error to the supervisor. An unforeseen error is logged with its traceback."""
    if isinstance(error, ServingError | ModelError | EngineError):
        reason = str(error)
    else:
        reason = f"{type(error).__name__}: {error}"
        process.log.exception("unforeseen error in %s; the process ends", process.name)
    sock = make_socket(process.context, zmq.DEALER, IDENTITY=b"last:" + process.name.encode())
    sock.connect(process.addresses.control)
    sock.send_multipart([FATAL, reason.encode()])
    sock.close(linger=2000)
    time.sleep(0.2)


def _load_role(role: str) -> Callable[[ProcessContext], None]:
    """Imports the module of a role and returns its entry point."""
    if role == "ventilator":
        from .ventilator import ventilator

        return ventilator.run
    if role == "sink":
        from .sink import sink

        return sink.run
    if role == "tokenizer":
        from .tokenizer import process as tokenizer_process

        return tokenizer_process.run
    if role == "worker":
        from .worker import worker

        return worker.run
    if role == "prepare":
        from .worker import prepare

        return prepare.run
    if role == "measure":
        from .worker import measure

        return measure.run
    if role == "http":
        from .http import process

        return process.run
    if role == "jobs":
        from .http.batch_jobs import process as jobs_process

        return jobs_process.run
    raise ValueError(f"unknown role: {role}")
