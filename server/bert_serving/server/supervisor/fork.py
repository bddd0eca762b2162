"""Closes what child processes of the program must not inherit by fork.

A program with a server inside may fork, as ``multiprocessing`` and pre-fork web servers do. Each process of the server
ends when the write end of its standard input closes, so no forked process may hold a copy.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Protocol


class Closable(Protocol):
    """A file or a socket."""

    def close(self) -> None: ...


#: Held while a file is opened and registered, so that a fork never sees one that is not registered yet.
fork_lock = threading.RLock()
_inherited: weakref.WeakSet[Closable] = weakref.WeakSet()


def close_on_fork(file: Closable) -> None:
    """Closes ``file`` in processes that this process forks. The caller holds ``fork_lock`` since it opened the file."""
    _inherited.add(file)


def _after_fork_in_child() -> None:
    global fork_lock
    fork_lock = threading.RLock()
    for file in list(_inherited):
        with contextlib.suppress(OSError):
            file.close()
    _inherited.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: fork_lock.acquire(),  # not the method: the lock is replaced in forked processes
        after_in_parent=lambda: fork_lock.release(),
        after_in_child=_after_fork_in_child,
    )
