"""Binds a worker process to its cores."""

from __future__ import annotations

import os
from collections.abc import Callable

from ..engines.base import Device


def bind_to_cores(device: Device, warn: Callable[[str], None]) -> None:
    """Binds this process, and each thread that it starts from now on, to ``device.cpus``; empty: to none.

    Systems without such a call, and cores that are no longer available, leave the process unbound. The latter is
    logged.
    """
    if not device.cpus or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, device.cpus)
    except OSError as error:
        warn(f"cannot bind this process to the CPUs {', '.join(map(str, device.cpus))} ({error}): it uses all cores")
