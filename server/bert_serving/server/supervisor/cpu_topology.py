"""Reads the cores that this process may use: their NUMA nodes, their hardware threads, and the quota of a container."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cgroup import cpu_quota
from ..engines.cpu_info import allowed_cpus

_SYSTEM = Path("/sys/devices/system")


@dataclass(frozen=True, slots=True)
class Core:
    """A physical core.

    Attributes:
        node: number of its NUMA node.
        cpus: numbers of its hardware threads that this process may use, ascending.
    """

    node: int
    cpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Topology:
    """The cores that this process may use.

    Attributes:
        cores: sorted by node and number.
        quota: processor time that the container may use, in cores; None without a limit.
        is_part: whether these are the cores of one model of several, without those of tokenizer processes.
    """

    cores: tuple[Core, ...]
    quota: float | None = None
    is_part: bool = False

    @property
    def num_usable(self) -> int:
        """Number of cores whose time this process gets, at least 1."""
        count = len(self.cores)
        return max(1, count if self.quota is None else min(count, int(self.quota)))

    @property
    def num_threads(self) -> int:
        """Number of hardware threads, or that of the quota if it is less."""
        count = sum(len(core.cpus) for core in self.cores)
        return max(1, count if self.quota is None else min(count, math.ceil(self.quota)))

    @property
    def is_limited(self) -> bool:
        """Whether the quota is less than the cores, so that other programs use them too."""
        return self.num_usable < len(self.cores)


def read_topology(system: Path = _SYSTEM, cpus: Collection[int] | None = None) -> Topology:
    """Returns the cores that this process may use. Without Linux, each logical CPU counts as a core.

    Args:
        system: folder of the kernel with ``cpu`` and ``node``.
        cpus: logical CPUs that the process may use; None for those of this process.
    """
    allowed = sorted(allowed_cpus() if cpus is None else cpus)
    nodes: dict[int, int] = {}
    for folder in system.glob("node/node[0-9]*"):
        nodes |= dict.fromkeys(_read_cpus(folder / "cpulist"), int(folder.name.removeprefix("node")))
    threads: dict[int, list[int]] = {}
    for cpu in allowed:
        siblings = _read_cpus(system / f"cpu/cpu{cpu}/topology/thread_siblings_list")
        threads.setdefault(min(siblings, default=cpu), []).append(cpu)
    cores = [Core(nodes.get(group[0], 0), tuple(group)) for group in threads.values()]
    return Topology(tuple(sorted(cores, key=lambda core: (core.node, core.cpus))), cpu_quota())


def parse_cpu_list(text: str) -> list[int]:
    """Returns the numbers of a list of the kernel, such as ``0-3,8``.

    Raises:
        ValueError: it is no such list.
    """
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def format_cpu_list(numbers: Iterable[int]) -> str:
    """Returns a list of the kernel, such as ``0-3,8``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _read_cpus(path: Path) -> list[int]:
    try:
        return parse_cpu_list(path.read_text())
    except (OSError, ValueError):
        return []
