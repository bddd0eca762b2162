"""Runs a server in a memory cgroup, as a container does."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
#: Adds its process to a group, and becomes the program that its arguments name.
ENTER = "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])"


class Container:
    """A memory cgroup of version 1 or 2, whose processes cannot take more than ``limit`` bytes together."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._is_v1 = folder, folder.parent.name == "memory"
        self._write("memory.limit_in_bytes" if self._is_v1 else "memory.max", limit)
        with contextlib.suppress(OSError):  # no swap, or none that is counted
            self._write("memory.memsw.limit_in_bytes" if self._is_v1 else "memory.swap.max", limit * self._is_v1)
        self.prefix = [sys.executable, "-c", ENTER, str(folder / "cgroup.procs")]

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(str(value))

    @property
    def peak(self) -> int:
        """The most bytes that the processes took together, page cache included. 0 if the kernel does not tell."""
        with contextlib.suppress(OSError):
            return int((self._folder / ("memory.max_usage_in_bytes" if self._is_v1 else "memory.peak")).read_text())
        return 0

    @property
    def num_killed(self) -> int:
        """Processes that the kernel killed because the memory was full."""
        lines = (self._folder / ("memory.oom_control" if self._is_v1 else "memory.events")).read_text().splitlines()
        return int(dict(line.split() for line in lines)["oom_kill"])


@contextlib.contextmanager
def container(limit: int) -> Iterator[Container]:
    """Yields a group with a limit of memory in bytes, and removes it when its processes have ended.

    Raises:
        OSError: this needs root, and a system that lets it create groups.
    """
    version_1 = _ROOT / "memory"
    parent = version_1 if (version_1 / "memory.limit_in_bytes").exists() else _ROOT
    if parent is _ROOT:
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
    folder = parent / f"bert-serving-tests-{os.getpid()}"
    folder.mkdir()
    try:
        yield Container(folder, limit)
    finally:
        deadline = time.monotonic() + 10
        while True:
            try:
                folder.rmdir()
                break
            except OSError:  # a process is still ending
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
