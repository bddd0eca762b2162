"""Bounds how long the main loop of a process waits for a thread that computes.

A thread that calls a socket releases the GIL. A thread that computes in Python takes it, and returns it after the
switch interval only. The default of 5 ms is longer than a short request takes, and a request waits several times.
"""

from __future__ import annotations

import sys

#: Seconds. Tokenizing and parsing in threads do not cost measurably more processor time than with 5 ms.
SWITCH_INTERVAL = 0.0002


def switch_threads_often() -> None:
    """Lowers the switch interval of this process."""
    sys.setswitchinterval(SWITCH_INTERVAL)
