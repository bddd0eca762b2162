"""Signals that a terminal or a service manager sends to all processes of the server at once.

Child processes ignore them, because the supervisor decides when they end. A signal that arrives before a child process
can ignore it would end it, so it starts with these signals blocked.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

GROUP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def group_signals_blocked() -> Iterator[None]:
    """Blocks these signals in this thread, and in child processes that it starts meanwhile."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, GROUP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_group_signals() -> None:
    """Ignores these signals, also those that arrived while they were blocked."""
    for number in GROUP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, GROUP_SIGNALS)
