"""Limits the time that full garbage collections take.

Python collects all objects whenever their number has grown by a quarter. With ten thousand clients, each collection
takes long enough to delay them. Here, a collection visits only objects that are newer than the last one. All objects
are visited so rarely that this takes a small share of the time.
"""

from __future__ import annotations

import gc
import time
from typing import Any

#: New objects after which Python collects the newest ones. Those of a request live until its reply, and most are freed
#: without a collection. With the default of 700, Python visits those of waiting requests again and again.
NEW_OBJECTS = 5000
#: Least time (s) between two collections of all objects.
INTERVAL = 300.0
#: Largest share of the time that these collections take.
MAX_SHARE = 0.001


class FullCollections:
    """Controls the garbage collector of this process. Make one when the process is initialized."""

    def __init__(self) -> None:
        self._next = time.monotonic() + INTERVAL
        gc.collect()
        gc.freeze()
        gc.callbacks.append(_freeze)
        self._thresholds = gc.get_threshold()
        gc.set_threshold(NEW_OBJECTS, *self._thresholds[1:])

    def close(self) -> None:
        """Lets Python collect objects as usual, for a program that goes on after the loop."""
        gc.callbacks.remove(_freeze)
        gc.set_threshold(*self._thresholds)
        gc.unfreeze()

    def run_if_due(self) -> None:
        """Collects all objects if it is time. Call it in the loop of the process."""
        started = time.monotonic()
        if started < self._next:
            return
        gc.unfreeze()
        gc.collect()  # the callback freezes what is left
        ended = time.monotonic()
        self._next = ended + max(INTERVAL, (ended - started) / MAX_SHARE)


def _freeze(phase: str, info: dict[str, Any]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()
