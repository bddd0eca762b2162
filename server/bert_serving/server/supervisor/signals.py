"""Ends servers inside a Python program on SIGINT and SIGTERM, as these signals end ``bert-serving-start``.

A server is a thread that keeps the program alive after its main thread has ended. Signals reach the main thread, so a
handler decides: it interrupts the program's own code, or stops the servers if there is no such code to interrupt.
"""

from __future__ import annotations

# Engines use this module, but Python does not import it any more when the main thread has ended.
import concurrent.futures.thread  # noqa: F401
import contextlib
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from types import FrameType
from typing import Protocol


class Stoppable(Protocol):
    """A server in a thread."""

    def is_alive(self) -> bool: ...

    def stop(self) -> None: ...


_servers: weakref.WeakSet[Stoppable] = weakref.WeakSet()
#: Servers that stop when the main thread ends, because a signal interrupted it.
_interrupted: weakref.WeakSet[Stoppable] = weakref.WeakSet()
#: Servers that the main thread waits for; it does nothing else, so a signal stops them.
_joined: list[Stoppable] = []
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


def handle_signals(server: Stoppable) -> None:
    """Handles SIGINT and SIGTERM while ``server`` runs. Handlers of the program stay in place."""
    _servers.add(server)
    if threading.current_thread() is threading.main_thread():
        for number, default in _DEFAULTS.items():
            if signal.getsignal(number) == default:
                signal.signal(number, _on_signal)


def is_program_over(server: Stoppable) -> bool:
    """Returns whether a signal interrupted the program and its main thread has ended since."""
    return server in _interrupted and not threading.main_thread().is_alive()


@contextlib.contextmanager
def joining(server: Stoppable) -> Iterator[None]:
    """Marks the time in which the main thread only waits for ``server``."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _joined.append(server)
    try:
        yield
    finally:
        _joined.remove(server)


def _on_signal(number: int, frame: FrameType | None) -> None:
    running = [server for server in _servers if server.is_alive()]
    if running and (_joined or not threading.main_thread().is_alive()):
        for server in running:
            server.stop()
        return
    _interrupted.update(running)
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    if running:
        raise SystemExit(128 + number)  # with statements and finally clauses run, so servers drain
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
