"""Workers and threads of ``-num_worker auto``, from descriptions of machines: tests may have two cores only."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert_serving.server.cgroup import cpu_quota
from bert_serving.server.cli import join
from bert_serving.server.cluster import cli as cluster
from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines import cpu_info
from bert_serving.server.engines.base import Device
from bert_serving.server.engines.nvml import Gpu
from bert_serving.server.errors import ConfigError
from bert_serving.server.supervisor import core_split, machine_models
from bert_serving.server.supervisor.core_split import WorkerCores, describe_split, split_cores
from bert_serving.server.supervisor.cpu_topology import (
    Core,
    Topology,
    format_cpu_list,
    parse_cpu_list,
    read_topology,
)
from bert_serving.server.supervisor.placement import WorkerPlacement, plan_workers
from bert_serving.server.worker import affinity
from servers import TINY

LOG = logging.getLogger("test")
FREE = [Gpu(0, 0.0, 0.1), Gpu(1, 0.0, 0.2)]


def machine_of(*cores: int, threads: int = 1, quota: float | None = None) -> Topology:
    """Returns a machine with so many cores in each NUMA node, numbered as Linux does: first threads first."""
    total, numbers = sum(cores), itertools.count()
    found = [
        Core(node, tuple(number + total * thread for thread in range(threads)))
        for node, count in enumerate(cores)
        for number in itertools.islice(numbers, count)
    ]
    return Topology(tuple(found), quota)


def sizes(shares: Sequence[WorkerCores]) -> list[int]:
    return [share.threads for share in shares]


# ---------------------------------------------------------------- the split


@pytest.mark.parametrize(
    ("topology", "expected"),
    [
        (machine_of(1), [1]),
        (machine_of(2), [2]),
        (machine_of(7), [7]),
        (machine_of(8), [4, 4]),
        (machine_of(9), [5, 4]),
        (machine_of(16), [4] * 4),
        (machine_of(16, threads=2), [4] * 4),
        (machine_of(32, 32), [4] * 16),
        (machine_of(6, 10), [6, 5, 5]),
        (machine_of(8, 1), [4, 4, 1]),
        (machine_of(64, quota=8.0), [4, 4]),
        (machine_of(64, quota=2.5), [2]),
        (machine_of(64, quota=0.5), [1]),
        (machine_of(16, quota=16.0), [4] * 4),
    ],
)
def test_machines_and_containers(topology: Topology, expected: list[int]) -> None:
    assert sizes(split_cores(topology)) == expected


def test_workers_are_bound_to_all_hardware_threads_of_their_cores() -> None:
    assert split_cores(machine_of(4, 4, threads=2)) == [
        WorkerCores(4, (0, 8, 1, 9, 2, 10, 3, 11)),
        WorkerCores(4, (4, 12, 5, 13, 6, 14, 7, 15)),
    ]
    assert describe_split(split_cores(machine_of(4, 4, threads=2))) == (
        "2 workers of 4 threads, bound to CPUs 0-3,8-11; 4-7,12-15"
    )


def test_workers_under_a_quota_are_not_bound() -> None:
    shares = split_cores(machine_of(64, quota=11.0))
    assert shares == [WorkerCores(6), WorkerCores(5)]
    assert describe_split(shares) == "2 workers of 5 or 6 threads, not bound to cores"
    assert describe_split(split_cores(machine_of(1))) == "1 worker of 1 thread, bound to CPUs 0"


@pytest.mark.parametrize(
    ("num_tokenizer", "expected"), [(0, [4] * 4), (1, [4, 4, 7]), (4, [6, 6]), (8, [4, 4]), (1000, [4, 4])]
)
def test_tokenizer_processes_get_cores_of_their_own(num_tokenizer: int, expected: list[int]) -> None:
    assert sorted(sizes(split_cores(machine_of(8, 8), num_tokenizer))) == expected


@pytest.mark.parametrize(
    ("topology", "threads", "expected"),
    [
        (machine_of(16), 1, [1] * 16),
        (machine_of(16), 5, [5] * 3),
        (machine_of(6, 6), 4, [4, 4]),
        (machine_of(6, 6), 8, [8]),  # of two nodes, not bound
        (machine_of(4), 8, [8]),
        (machine_of(64, quota=6.0), 2, [2] * 3),
        (machine_of(64, quota=6.0), 8, [8]),
    ],
)
def test_given_threads_count(topology: Topology, threads: int, expected: list[int]) -> None:
    shares = split_cores(topology, threads=threads)
    assert sizes(shares) == expected
    assert all(len(share.cpus) in (0, threads) for share in shares)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Machines of which the process may use any part."""
    nodes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=8))
    whole = machine_of(*nodes, threads=draw(st.integers(1, 2)))
    kept = draw(st.lists(st.sampled_from(whole.cores), min_size=1, unique=True))
    cores = tuple(sorted(kept, key=lambda core: (core.node, core.cpus)))
    return Topology(cores, draw(st.none() | st.floats(0.01, 200)))


@given(topologies(), st.integers(0, 100), st.none() | st.integers(1, 100))
def test_no_core_has_two_workers_and_no_worker_two_nodes(
    topology: Topology, num_tokenizer: int, threads: int | None
) -> None:
    shares = split_cores(topology, num_tokenizer, threads)
    assert shares
    assert all(share.threads >= 1 for share in shares)
    if threads is None or threads <= topology.num_usable / 2:
        assert sum(sizes(shares)) <= topology.num_usable
    if threads is None:
        assert max(sizes(shares)) < 2 * core_split.CORES_PER_WORKER
        assert sum(sizes(shares)) >= topology.num_usable - num_tokenizer
        assert 2 * sum(sizes(shares)) >= topology.num_usable
    else:
        assert set(sizes(shares)) == {threads}
    core_of = {cpu: core for core in topology.cores for cpu in core.cpus}
    bound = [cpu for share in shares for cpu in share.cpus]
    assert len(bound) == len(set(bound))
    assert set(bound) <= set(core_of)
    assert len({bool(share.cpus) for share in shares}) == 1
    assert not (bound and topology.is_limited)
    for share in filter(lambda share: share.cpus, shares):
        cores = {core_of[cpu] for cpu in share.cpus}
        assert len(cores) == share.threads
        assert {cpu for core in cores for cpu in core.cpus} == set(share.cpus)
        assert len({core.node for core in cores}) == 1


@given(st.integers(1, 500))
def test_cores_are_shared_evenly(count: int) -> None:
    found = sizes(split_cores(machine_of(count)))
    assert sum(found) == count
    assert max(found) - min(found) <= 1


# ---------------------------------------------------------------- reading the machine


def write_system(folder: Path, siblings: dict[int, str], nodes: dict[int, str]) -> Path:
    for cpu, text in siblings.items():
        (folder / f"cpu/cpu{cpu}/topology").mkdir(parents=True)
        (folder / f"cpu/cpu{cpu}/topology/thread_siblings_list").write_text(f"{text}\n")
    for node, text in nodes.items():
        (folder / f"node/node{node}").mkdir(parents=True)
        (folder / f"node/node{node}/cpulist").write_text(f"{text}\n")
    return folder


def test_cores_nodes_and_hardware_threads_are_read(tmp_path: Path) -> None:
    siblings = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}
    system = write_system(tmp_path, siblings, {0: "0,2,4,6", 1: "1,3,5,7"})
    assert read_topology(system, range(8)).cores == (
        Core(0, (0, 4)),
        Core(0, (2, 6)),
        Core(1, (1, 5)),
        Core(1, (3, 7)),
    )
    assert read_topology(system, {1, 4, 6, 7}).cores == (
        Core(0, (4,)),
        Core(0, (6,)),
        Core(1, (1,)),
        Core(1, (7,)),
    )


def test_without_files_each_cpu_is_a_core(tmp_path: Path) -> None:
    assert read_topology(tmp_path, {0, 1, 2}).cores == (Core(0, (0,)), Core(0, (1,)), Core(0, (2,)))
    write_system(tmp_path, {0: "damaged", 1: ""}, {0: "x-y"})
    assert read_topology(tmp_path, {0, 1}).cores == (Core(0, (0,)), Core(0, (1,)))


def test_this_machine_can_be_read() -> None:
    topology = read_topology()
    assert topology.cores
    assert topology.num_threads >= topology.num_usable >= 1


@given(st.sets(st.integers(0, 300)))
def test_lists_of_cpus_are_those_of_the_kernel(numbers: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(numbers)) == sorted(numbers)


@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, "0::/", None),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "250000 100000"}, "0::/", 2.5),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "max 100000"}, "0::/a/b", 4.0),
        ({"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, "0::/a/b", 0.5),
        ({"other/cpu.max": "50000 100000"}, "0::/a", None),
        ({"cpu.max": "damaged"}, "0::/", None),
        ({"cpu.max": "1000 0"}, "0::/", None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", 3.0),
        ({"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/a", 1.5),
    ],
)
def test_the_quota_is_that_of_the_strictest_group(
    files: dict[str, str], groups: str, expected: float | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "membership").write_text(f"{groups}\n")
    assert cpu_quota(tmp_path, tmp_path / "membership") == expected
    assert cpu_quota(tmp_path, tmp_path / "absent") == (expected if groups[-1] == "/" else None)


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (100.0, 8), (2.5, 3), (2.0, 2), (0.1, 1)])
def test_each_count_of_cores_is_limited_by_the_quota(
    quota: float | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_info, "allowed_cpus", lambda: list(range(8)))
    monkeypatch.setattr(cpu_info, "_quota", lambda: quota)
    assert cpu_info.num_cores() == Topology(machine_of(8).cores, quota).num_threads == expected


# ---------------------------------------------------------------- the option


def plan(topology: Topology, gpus: Sequence[Gpu] = (), **options: object) -> list[WorkerPlacement]:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "zeros", **options})
    return plan_workers(config, LOG, lambda: list(gpus), find_cores=lambda: topology)


def test_auto_binds_workers_of_the_cpu() -> None:
    plans = plan(machine_of(4, 4), num_worker="auto")
    assert [(each.device.threads, each.device.cpus) for each in plans] == [(4, (0, 1, 2, 3)), (4, (4, 5, 6, 7))]
    assert len(plan(machine_of(8), num_worker="auto", num_tokenizer=4)) == 1
    assert len(plan(machine_of(8), num_worker="auto", num_tokenizer="auto")) == 2
    assert len(plan(machine_of(8), num_worker="auto", threads=2)) == 4


def test_auto_has_a_worker_for_each_gpu() -> None:
    def devices(**options: object) -> list[str]:
        return [str(each.device) for each in plan(machine_of(16), FREE, num_worker="auto", **options)]

    assert devices() == ["gpu: 0", "gpu: 1"]
    assert devices(device_map=[1]) == ["gpu: 1"]
    assert devices(device_map=[1, -1, 0]) == ["gpu: 1", "cpu", "gpu: 0"]
    assert devices(device_map=[1, 1]) == ["gpu: 1", "gpu: 1"]
    assert devices(device_map=[-1]) == devices(cpu=True) == ["cpu"] * 4


def test_the_start_says_in_one_line_when_auto_has_more_workers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for options in ({"num_worker": 1}, {"num_worker": 2}, {"threads": 4}):
        plan(machine_of(16), **options)
    plan(machine_of(16), FREE)
    plan(machine_of(7))
    assert "auto" not in caplog.text
    [only] = plan(machine_of(16))
    assert only.device == Device("cpu", 0, 16)
    [line] = [record.getMessage() for record in caplog.records if "-num_worker auto" in record.getMessage()]
    assert line.startswith("-num_worker auto would use the 16 cores better: 4 workers of 4 threads, bound to CPUs 0-3;")


def test_the_command_line_takes_auto() -> None:
    args = get_args_parser().parse_args(["-model_dir", str(TINY), "-num_worker", "AUTO"])
    config = ServerConfig.from_args(args)
    assert config.num_worker == "auto"
    assert ServerConfig.from_json(config.to_json()).num_worker == "auto"
    with pytest.raises(ConfigError, match="'many' is not an integer, or auto"):
        ServerConfig.from_dict({"model_dir": "m", "num_worker": "many"})


def test_a_machine_that_joins_takes_auto(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(machine_models, "list_gpus", lambda: FREE)

    monkeypatch.setattr(join, "MachineSupervisor", lambda host, port, config, keys: config)

    def count(*args: str) -> int | str:
        parsed = join.get_parser().parse_args(["127.0.0.1:6000", "-model_dir", str(TINY), *args])
        return machine_models.count_workers(join.make_machine(parsed)).num_worker  # type: ignore[arg-type]

    assert [count(), count("-num_worker", "auto"), count("-num_worker", "3"), count("-cpu")] == [2, "auto", 3, 1]
    with pytest.raises(SystemExit):
        count("-num_worker", "0")
    assert "0 is too small: must be at least 1, or auto" in capsys.readouterr().err


def test_a_cluster_reserves_no_cores_for_auto(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["127.0.0.1:6000", "-model_dir", str(TINY), "-num_worker", "auto", "-num_cpus", "4"]
    with pytest.raises(SystemExit):
        cluster.main(arguments)
    error = " ".join(capsys.readouterr().err.split())
    assert "-num_worker auto takes all cores of a node, and -num_cpus 4 reserves some: set" in error
    parsed: argparse.Namespace = cluster.get_parser().parse_args(arguments[:-2])
    assert cluster.machine_arguments(parsed)[-2:] == ["-num_worker", "auto"]


# ---------------------------------------------------------------- binding


def test_a_worker_whose_cores_are_gone_uses_all(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, warnings = [], []

    def refuse(process: int, cpus: Sequence[int]) -> None:
        asked.append(list(cpus))
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("os.sched_setaffinity", refuse, raising=False)
    affinity.bind_to_cores(Device(cpus=()), warnings.append)
    assert not asked
    affinity.bind_to_cores(Device(cpus=(8, 9)), warnings.append)
    assert asked == [[8, 9]]
    assert "cannot bind this process to the CPUs 8, 9 ([Errno 22] Invalid argument): it uses all cores" in warnings[0]
