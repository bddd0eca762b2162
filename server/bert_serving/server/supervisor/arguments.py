"""Sends its arguments to a child process without waiting for it."""

from __future__ import annotations

import os
import threading
from typing import IO

from . import fork

#: Name of the threads that send arguments for which a pipe had no room.
THREAD_NAME = "arguments"


def send_arguments(stdin: IO[bytes], data: bytes) -> None:
    """Writes to the pipe of a process. If it has no room for all bytes, a thread waits until the process reads.

    The supervisor must not wait: it kills a process that hangs, also before it has read its arguments.
    """
    os.set_blocking(stdin.fileno(), False)
    rest = _write(stdin, data)
    os.set_blocking(stdin.fileno(), True)
    if rest:
        with fork.fork_lock:
            own = os.fdopen(os.dup(stdin.fileno()), "wb", buffering=0)  # `stdin` may be closed meanwhile
            fork.close_on_fork(own)
        threading.Thread(target=_write_rest, args=(own, rest), name=THREAD_NAME, daemon=True).start()


def _write_rest(file: IO[bytes], data: bytes) -> None:
    with file:
        _write(file, data)


def _write(file: IO[bytes], data: bytes) -> bytes:
    """Writes to a file without a buffer. Returns what a pipe that does not block has no room for."""
    try:
        while data:
            written: int | None = file.write(data)
            if written is None:
                return data
            data = data[written:]
    except BrokenPipeError:
        pass  # the process ended at once; the supervisor polls its exit code
    return b""
