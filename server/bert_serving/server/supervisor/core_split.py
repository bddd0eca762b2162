"""Computes the workers and threads of ``-num_worker auto`` on a CPU."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.option import MAX_PROCESSES
from .cpu_topology import Core, Topology, format_cpu_list

#: Cores of one worker, or up to twice as many less one. The threads of one matrix product wait for the slowest, so a
#: core of a large group computes less. PyTorch's launcher for Xeon processors has the same number for low latency.
CORES_PER_WORKER = 4


@dataclass(frozen=True, slots=True)
class WorkerCores:
    """The share of one worker: its threads, and the logical CPUs to which it is bound; empty for all."""

    threads: int
    cpus: tuple[int, ...] = ()


def split_cores(topology: Topology, num_tokenizer: int = 0, threads: int | None = None) -> list[WorkerCores]:
    """Returns the share of each worker, at least one.

    A worker has a thread for each of its physical cores, all of one NUMA node, and is bound to all their hardware
    threads. No core has two workers. Under a quota, workers are not bound: other containers use the same cores, and
    each would be bound to the first ones.

    Args:
        num_tokenizer: number of tokenizer processes, which get a core each, up to half of the cores.
        threads: number of threads of each worker; None for about ``CORES_PER_WORKER``.
    """
    usable = usable_cores(topology, num_tokenizer)
    shares = []
    for cores in [] if topology.is_limited else take_cores(topology.cores, usable):
        ends = list(itertools.accumulate(_sizes(len(cores), threads), initial=0))
        for start, end in itertools.pairwise(ends):
            cpus = [cpu for core in cores[start:end] for cpu in core.cpus]
            shares.append(WorkerCores(end - start, tuple(cpus)))
    if not shares:  # a quota, or more threads than the cores of a node
        shares = [WorkerCores(size) for size in _sizes(usable, threads) or [threads or 1]]
    return shares[:MAX_PROCESSES]


def usable_cores(topology: Topology, num_tokenizer: int) -> int:
    """Returns the number of cores of all workers."""
    usable = topology.num_usable
    return max(math.ceil(usable / 2), usable - num_tokenizer)


def describe_split(shares: Sequence[WorkerCores]) -> str:
    """Returns the shares in words."""
    sizes = sorted({share.threads for share in shares})
    workers, threads = "s" * (len(shares) != 1), "s" * (sizes != [1])
    text = f"{len(shares)} worker{workers} of {' or '.join(map(str, sizes))} thread{threads}"
    if not shares[0].cpus:
        return f"{text}, not bound to cores"
    return f"{text}, bound to CPUs {'; '.join(format_cpu_list(share.cpus) for share in shares)}"


def _sizes(count: int, threads: int | None) -> list[int]:
    """Returns the numbers of cores of the workers that share ``count`` cores."""
    if threads is not None:
        return [threads] * (count // threads)
    number = max(1, count // CORES_PER_WORKER)
    return [count // number + (index < count % number) for index in range(number)]


def take_cores(cores: Sequence[Core], count: int) -> list[list[Core]]:
    """Returns ``count`` cores by node; the nodes with the most cores leave out the last ones."""
    nodes = [list(group) for _, group in itertools.groupby(cores, key=lambda core: core.node)]
    for _ in range(len(cores) - count):
        max(nodes, key=len).pop()
    return [node for node in nodes if node]
