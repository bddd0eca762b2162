"""Ends a command on SIGINT with exit code 130 and no traceback, also during imports. The server imports it too."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: Exit code of an interrupted command: 128 and the number of SIGINT, as a shell reports it.
EXIT_INTERRUPTED = 130
#: Seconds until SIGINT is sent again; the destructor that dropped the exception has returned by then.
_REPEAT_SECONDS = 0.05


def exit_on_interrupt() -> None:
    """Makes SIGINT end this process at once. A process that ignores SIGINT, such as one of ``nohup``, still does."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def run_command(module: str, function: str, *, is_interruptible: bool = False) -> int:
    """Imports the function of a command, and returns its exit code. Call :func:`exit_on_interrupt` before.

    Args:
        is_interruptible: SIGINT raises KeyboardInterrupt in the function, which cleans up. Otherwise it ends the
            process, until the function sets a handler of its own.
    """
    command = getattr(importlib.import_module(module), function)
    if not is_interruptible or signal.getsignal(signal.SIGINT) is not _exit:
        return int(command())
    sys.unraisablehook = _on_unraisable
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return int(command())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        exit_on_interrupt()  # Python waits for threads when it ends


def _on_unraisable(dropped: UnraisableHookArgs) -> None:
    """Sends SIGINT again if a destructor, such as that of a message of ZeroMQ, dropped its KeyboardInterrupt."""
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    timer = threading.Timer(_REPEAT_SECONDS, _interrupt_main_thread)
    timer.daemon = True
    timer.start()


def _interrupt_main_thread() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
