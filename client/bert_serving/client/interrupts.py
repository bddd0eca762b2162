"""Ends a command on SIGINT with exit code 130 and no traceback, also during imports. The server imports it too."""

from __future__ import annotations

import importlib
import os
import signal
from types import FrameType

#: Exit code of an interrupted command: 128 and the number of SIGINT, as a shell reports it.
EXIT_INTERRUPTED = 130


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
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return int(command())
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    finally:
        exit_on_interrupt()  # Python waits for threads when it ends


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)
