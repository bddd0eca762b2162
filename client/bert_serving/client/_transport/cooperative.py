"""Polling under gevent and eventlet, which replace the threads of Python by cooperative ones.

A cooperative thread that blocks in ZeroMQ blocks all others. It waits in the ``select`` of its library instead.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import zmq

Poll = Callable[[zmq.Poller, int], list[tuple[Any, int]]]

#: Modules with the test for replaced threads: name of the test, name of the threads in it, module of ``select``.
_LIBRARIES = {
    "gevent.monkey": ("is_module_patched", "threading", "gevent.select"),
    "eventlet.patcher": ("is_monkey_patched", "thread", "eventlet.green.select"),
}


def cooperative_poll() -> Poll | None:
    """Returns a `zmq.Poller.poll` that lets other cooperative threads run; ``None`` if threads are not cooperative."""
    for library, (is_patched, threads, select) in _LIBRARIES.items():
        module = sys.modules.get(library)
        if module is not None and getattr(module, is_patched)(threads):
            return _poll_with(import_module(select).select)
    return None


def _poll_with(select: Callable[..., Any]) -> Poll:
    def poll(poller: zmq.Poller, milliseconds: int) -> list[tuple[Any, int]]:
        # A ZeroMQ descriptor is readable only until the events are read. So the events are read before the wait.
        ready = poller.poll(0)
        if ready:
            time.sleep(0)  # other threads run even if messages arrive without a pause
            return ready
        select([each.fileno() for each, _ in poller.sockets], [], [], milliseconds / 1000)
        return poller.poll(0)

    return poll
