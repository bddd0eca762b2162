"""A lock on a file, which the system releases when the process ends, however it ends."""

from __future__ import annotations

import os
import sys
from typing import BinaryIO


def try_lock(path: str) -> BinaryIO | None:
    """Opens a file for reading and appending, and locks it; returns ``None`` if another process has locked it.

    Raises:
        OSError: the file cannot be opened, or its file system has no locks.
    """
    while True:
        file = open(path, "a+b")  # noqa: SIM115, it outlives this function
        try:
            _lock(file)
        except (BlockingIOError, PermissionError):
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        if os.path.exists(path) and os.path.samestat(os.stat(path), os.fstat(file.fileno())):
            return file
        file.close()  # its last owner has removed it meanwhile


def _lock(file: BinaryIO) -> None:
    if sys.platform == "win32":
        import msvcrt

        file.seek(1 << 30)  # far behind the content, because Windows protects a locked range from other handles
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
