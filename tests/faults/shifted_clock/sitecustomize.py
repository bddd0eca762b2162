"""Shifts the monotonic clock of processes with this folder in ``PYTHONPATH``, as on another machine.

The clocks of ``worker-0`` and of a joining machine are ahead of the others, that of ``worker-1`` is behind.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_SHIFTS = {"bert-serving-worker-0": 500_000, "bert-serving-worker-1": -500_000}
_SHIFTS["bert_serving.server.cli.join"] = 500_000


def _shifted(clock: Callable[[], float], shift: int) -> Callable[[], float]:
    return lambda: clock() + shift


for _name, _seconds in _SHIFTS.items():
    if _name in sys.orig_argv:
        time.monotonic = _shifted(time.monotonic, _seconds)
        time.monotonic_ns = _shifted(time.monotonic_ns, _seconds * 10**9)  # type: ignore[assignment]
