"""Default of ``-queue_memory`` and ``-result_memory``: derived from the memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

#: Default on a machine with enough memory, and the largest share of the memory of this machine or container.
MAX_MEMORY, SHARE = 2 * 2**30, 4
_CGROUP = Path("/sys/fs/cgroup")


def default_memory() -> int:
    """Returns 2 GiB, or a quarter of the available memory if that is less."""
    return min(MAX_MEMORY, available_memory() // SHARE)


def available_memory(root: Path = _CGROUP, membership: Path = Path("/proc/self/cgroup")) -> int:
    """Returns the memory of this machine in bytes, or the lowest limit of the container if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [2**63]
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        lines = []
    files = {root / "memory.max", root / "memory" / "memory.limit_in_bytes"}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        folder = Path(path.lstrip("/"))
        for parent in (folder, *folder.parents):
            if not controllers:  # version 2
                files.add(root / parent / "memory.max")
            elif "memory" in controllers.split(","):
                files.add(root / "memory" / parent / "memory.limit_in_bytes")
    for file in files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):
            continue  # no such group, or no limit: "max"
    return min(limits)
