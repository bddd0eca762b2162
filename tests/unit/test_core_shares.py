"""Cores of several models with ``-num_worker auto``: equal parts, of which no core belongs to two models."""

from __future__ import annotations

import logging
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.cli import check
from bert_serving.server.config.models import further_models
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.nvml import Gpu
from bert_serving.server.supervisor import models
from bert_serving.server.supervisor.core_shares import divide_cores, share_cores
from bert_serving.server.supervisor.core_split import usable_cores
from bert_serving.server.supervisor.cpu_topology import Core, Topology
from bert_serving.server.supervisor.placement import plan_workers
from bert_serving.server.supervisor.prepared_model import PreparedModel
from servers import TINY

LOG = logging.getLogger("test")
FREE = [Gpu(0, 0.0, 0.1)]


def machine_of(*cores: int, quota: float | None = None) -> Topology:
    """Returns a machine with so many cores in each NUMA node."""
    nodes = [node for node, count in enumerate(cores) for _ in range(count)]
    return Topology(tuple(Core(node, (number,)) for number, node in enumerate(nodes)), quota)


def configs(*specs: str, **options: object) -> list[ServerConfig]:
    """Returns the configuration of a first model, and of further ones with these options."""
    named = [f"m{number}={TINY},engine=zeros{spec and ','}{spec}" for number, spec in enumerate(specs, 1)]
    first = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "zeros", "model": named, **options})
    return [first, *further_models(first)]


def workers(topology: Topology, *specs: str, gpus: tuple[Gpu, ...] = (), **options: object) -> list[list[object]]:
    """Returns the CPUs of each worker of each model, or its number of threads if it is not bound to any."""
    found = configs(*specs, **options)
    parts = share_cores(found, LOG, lambda: list(gpus), lambda: topology)
    plans = [
        plan_workers(each, LOG, lambda: list(gpus), find_cores=lambda part=part: part)  # type: ignore[misc]
        for each, part in zip(found, parts, strict=True)
    ]
    devices = [[worker.device for worker in each] for each in plans]
    return [[each.cpus or (each.threads if each.kind == "cpu" else "gpu") for each in model] for model in devices]


@pytest.mark.parametrize(
    ("topology", "specs", "options", "expected"),
    [
        (machine_of(8), ["num_worker=auto"], {}, [[(0, 1, 2, 3)], [(4, 5, 6, 7)]]),
        (machine_of(2), ["num_worker=auto"], {}, [[(0,)], [(1,)]]),
        (machine_of(2), ["num_worker=auto"] * 2, {}, [[1]] * 3),  # too few cores: none is bound
        (machine_of(1), ["num_worker=auto"], {}, [[(0,)]] * 2),
        (machine_of(5), ["num_worker=auto"], {}, [[(0, 1, 2)], [(3, 4)]]),
        (machine_of(4, 4), ["num_worker=auto"], {}, [[(0, 1, 2, 3)], [(4, 5, 6, 7)]]),
        (machine_of(3, 3), ["num_worker=auto"] * 2, {}, [[(0, 1)], [(2,), (3,)], [(4, 5)]]),
        (machine_of(8), ["num_worker=auto,threads=1"], {}, [[(0, 1, 2, 3)], [(4,), (5,), (6,), (7,)]]),
        (machine_of(8), ["num_worker=2"], {}, [[(0, 1, 2, 3)], [2, 2]]),
        (machine_of(8), [""], {}, [[(0, 1, 2, 3)], [4]]),
        (machine_of(8), ["num_worker=2,threads=1"], {}, [[(0, 1, 2, 3, 4, 5)], [1, 1]]),
        (machine_of(8), ["num_worker=3,threads=4"], {}, [[1], [4] * 3]),
        (machine_of(8), ["num_worker=auto"], {"num_tokenizer": 2}, [[(0, 1, 2)], [(3, 4, 5)]]),
        (machine_of(64, quota=8.0), ["num_worker=auto"], {}, [[4], [4]]),
        (machine_of(64, quota=3.5), ["num_worker=auto"], {}, [[2], [1]]),
        (machine_of(8), ["num_worker=auto"], {"num_worker": 1}, [[4], [(4, 5, 6, 7)]]),
        (machine_of(8), [""], {"num_worker": 1}, [[4], [4]]),  # no auto: each worker has an equal part
    ],
)
def test_parts_of_models(
    topology: Topology,
    specs: list[str],
    options: dict[str, object],
    expected: list[list[object]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "read_topology", lambda: topology)
    values = {"num_worker": "auto", **options}
    if "auto" not in str((values, specs)):
        values["threads"] = models.share_threads(configs(*specs, **values))[0].threads
    assert workers(topology, *specs, **values) == expected


def test_models_on_gpus_have_no_part() -> None:
    options = {"num_worker": "auto"}
    topology, gpus = machine_of(8), (FREE[0], Gpu(1, 0.0, 0.1))
    assert workers(topology, "num_worker=auto", gpus=gpus, **options) == [["gpu", "gpu"]] * 2
    both = [list(range(8))[:4], list(range(8))[4:]]
    on_cpu = workers(topology, "num_worker=auto,device_map=-1", gpus=gpus, **options)
    assert on_cpu == [["gpu", "gpu"], [tuple(each) for each in both]]
    assert workers(topology, "num_worker=auto", gpus=gpus, cpu=True, **options) == [[tuple(each)] for each in both]
    busy = (Gpu(0, 1.0, 1.0),)  # the models fall back to the CPU
    assert workers(topology, "num_worker=auto", gpus=busy, **options) == [[tuple(each)] for each in both]


@given(
    st.lists(st.integers(1, 24), min_size=1, max_size=4),
    st.none() | st.floats(0.01, 64),
    st.lists(st.none() | st.integers(0, 12), min_size=1, max_size=8),
    st.integers(0, 8),
)
def test_no_core_has_two_models_and_none_is_idle(
    nodes: list[int], quota: float | None, needs: list[int | None], num_tokenizer: int
) -> None:
    topology = machine_of(*nodes, quota=quota)
    parts = divide_cores(topology, needs, num_tokenizer)
    equal = [part for part, need in zip(parts, needs, strict=True) if need is None]
    rest = usable_cores(topology, num_tokenizer) - sum(need or 0 for need in needs)
    sizes = [part.num_usable for part in equal]
    assert len(parts) == len(needs)
    assert all(part.is_part and part.cores for part in parts)
    assert all(size >= 1 for size in sizes)
    assert not equal or max(sizes) - min(sizes) <= 1
    if equal and rest >= len(equal):
        assert sum(sizes) == rest
    cores = [core for part in equal for core in part.cores if not part.is_limited]
    assert len(cores) == len(set(cores)) or len(topology.cores) == 1


def test_start_and_check_name_the_parts_in_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    for module in (models, check):
        monkeypatch.setattr(module, "share_cores", partial(share_cores, find_cores=lambda: machine_of(16)))
    first, *_ = configs("num_worker=auto", "", num_worker="auto", cpu=True, graph_tmp_dir=None)
    prepared = PreparedModel(LOG)
    try:
        planned = models.plan_models(first, prepared, LOG, lambda: False)
    finally:
        prepared.close()
    [line] = [each.getMessage() for each in caplog.records if "of each model" in each.getMessage()]
    assert line == "-num_worker auto: cores of each model, of 16: tiny 6, m1 5, m2 5"
    assert [[worker.device.threads for worker in each.placements] for each in planned] == [[6], [5], [5]]
    assert check.check(first) == 0
    shown = capsys.readouterr().out
    assert [shown.count(f"with {number} threads") for number in (6, 5)] == [1, 2]
