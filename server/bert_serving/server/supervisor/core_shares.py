"""Shares the cores of a CPU out between the models of a server with ``-num_worker auto``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..config.models import public_name
from ..config.server_config import ServerConfig
from ..engines.nvml import Gpu, list_gpus
from .core_split import take_cores, usable_cores
from .cpu_topology import Topology, read_topology


def share_cores(
    configs: Sequence[ServerConfig],
    log: logging.Logger,
    find_gpus: Callable[[], list[Gpu]] = list_gpus,
    find_cores: Callable[[], Topology] = read_topology,
) -> list[Topology]:
    """Returns the cores of each model: all of them if no model of several has ``-num_worker auto``.

    Models have equal parts. A model that names workers and threads has a core for each thread, and the others share
    the rest. A model without workers has no part, and neither has one on GPUs, unless it falls back to the CPU.
    """
    topology = find_cores()
    if len(configs) == 1 or all(each.num_worker != "auto" for each in configs):
        return [topology] * len(configs)
    has_gpus = any(not each.cpu for each in configs) and bool(find_gpus())
    on_gpu = [has_gpus and not each.cpu and max(each.device_map, default=0) >= 0 for each in configs]
    num_tokenizer = 0 if configs[0].num_tokenizer == "auto" else int(configs[0].num_tokenizer)
    fallback = [_needed_cores(each) for each in configs]
    needs = [0 if is_on_gpu else need for need, is_on_gpu in zip(fallback, on_gpu, strict=True)]
    parts = divide_cores(topology, needs, num_tokenizer)
    described = [
        f"{public_name(each)} {part.num_usable if need is None else need}"
        for each, part, need in zip(configs, parts, needs, strict=True)
        if need != 0
    ]
    if described:
        log.info("-num_worker auto: cores of each model, of %d: %s", topology.num_usable, ", ".join(described))
    of_fallback = divide_cores(topology, fallback, num_tokenizer)
    return [two if is_on_gpu else one for one, two, is_on_gpu in zip(parts, of_fallback, on_gpu, strict=True)]


def divide_cores(topology: Topology, needs: Sequence[int | None], num_tokenizer: int = 0) -> list[Topology]:
    """Returns the part of each model. No two equal parts have a core in common, unless there are too few.

    Args:
        needs: number of cores of each model; None for an equal part of the rest, at least one.
        num_tokenizer: number of tokenizer processes, which get a core each, up to half of the cores.
    """
    whole = replace(topology, is_part=True)
    usable = usable_cores(topology, num_tokenizer)
    count, rest = needs.count(None), usable - sum(need for need in needs if need)
    if topology.is_limited or rest < count:  # parts of the time, on any core
        sizes = iter([max(1, rest // count + (index < rest % count)) for index in range(count)])
        return [replace(whole, quota=float(next(sizes))) if need is None else whole for need in needs]
    cores, parts = [core for node in take_cores(topology.cores, usable) for core in node], []
    for need in needs:
        if need is not None:
            parts.append(whole)
            continue
        size = -(-rest // count)
        parts.append(replace(whole, cores=tuple(cores[:size])))
        del cores[:size]
        rest, count = rest - size, count - 1
    return parts


def _needed_cores(config: ServerConfig) -> int | None:
    """Returns the number of cores that a model names; None for an equal part."""
    if config.num_worker == 0:
        return 0
    return None if config.num_worker == "auto" or config.threads is None else int(config.num_worker) * config.threads
