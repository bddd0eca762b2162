"""Default of ``-queue_memory`` and ``-result_memory``: derived from the memory that this process may use."""

from __future__ import annotations

import os
from pathlib import Path

from ..cgroup import MEMBERSHIP, ROOT, group_folders

#: Default on a machine with enough memory, and the largest share of the memory of this machine or container.
MAX_MEMORY, SHARE = 2 * 2**30, 4


def default_memory() -> int:
    """Returns 2 GiB, or a quarter of the available memory if that is less."""
    return min(MAX_MEMORY, available_memory() // SHARE)


def available_memory(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """Returns the memory of this machine in bytes, or the lowest limit of the container if that is less."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")] if hasattr(os, "sysconf") else [2**63]
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    files = [folder / names[version] for version, folder in group_folders("memory", root, membership)]
    for file in files:
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):
            continue  # no such group, or no limit: "max"
    return min(limits)
