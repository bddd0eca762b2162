"""What every child process of the server shares: how it starts, its line to the supervisor, and how it ends.

A child process is started as ``python -c BOOTSTRAP <name>`` with its configuration on the standard input. The pipe
stays open. When it closes, the supervisor is gone, and the child process ends at once, even after SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from .config.server_config import ServerConfig
from .engines.base import EngineError
from .errors import ServingError
from .ipc.commands import FATAL
from .ipc.endpoints import Addresses
from .ipc.process_context import ProcessContext
from .ipc.sockets import make_socket
from .log import get_logger
from .model.errors import ModelError

EXIT_FAILED, EXIT_ORPHANED = 1, 9
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def _exit_when_orphaned(addresses: Addresses) -> None:
    """Ends this process when the supervisor's end of the standard input closes.

    The socket folder goes too: the supervisor, which would have removed it, may have been killed.
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

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    # A part that somebody has stopped (SIGSTOP) would watch nothing: Linux wakes it when its supervisor is gone.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def main(boot: dict[str, Any]) -> None:
    """Runs the part that ``boot`` names, in this process."""
    # ONNX Runtime writes events about this machine into the user's cache and sends them, unless it is told so before
    # it is imported, by whomever.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # Ctrl-C reaches the whole process group; it is the supervisor that decides how the parts end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    addresses = Addresses(**boot["addresses"])
    _exit_when_orphaned(addresses)
    config = ServerConfig.from_json(boot["config"])
    role, name = boot["role"], boot["name"]
    process = ProcessContext(name, config, addresses, boot["options"], get_logger(boot["context"], config.verbose))

    try:
        _load_role(role)(process)
        code = 0
    except Exception as error:
        code = EXIT_FAILED
        _report_fatal(process, error)
    # Sockets have no linger, so this does not wait; daemon threads may hold some, so no context.term().
    sys.stderr.flush()
    os._exit(code)


def _report_fatal(process: ProcessContext, error: Exception) -> None:
    """Tells the supervisor why this part cannot go on; what is no fault of the user's comes with its traceback."""
    if isinstance(error, ServingError | ModelError | EngineError):
        reason = str(error)
    else:
        reason = f"{type(error).__name__}: {error}"
        process.log.exception("this part of the server failed")
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
    if role == "worker":
        from .worker import worker

        return worker.run
    if role == "prepare":
        from .worker import prepare

        return prepare.run
    if role == "http":
        from .http import process

        return process.run
    raise ValueError(f"unknown role: {role}")
