"""Tests the assignment of devices to workers with simulated GPUs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import types
from importlib.util import find_spec

import pytest

from bert_serving.server import engines
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines import cpu_info
from bert_serving.server.engines.base import Device, EngineUnavailable
from bert_serving.server.engines.nvml import Gpu
from bert_serving.server.supervisor import placement as devices
from bert_serving.server.supervisor.cpu_topology import Core, Topology
from bert_serving.server.supervisor.placement import WorkerPlacement, plan_workers
from servers import TINY

FREE = [Gpu(0, 0.0, 0.5), Gpu(1, 0.0, 0.1), Gpu(2, 0.95, 0.2), Gpu(3, 0.1, 0.3)]


def plan(gpus: list[Gpu], **options: object) -> list[str]:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "zeros", **options})
    return [str(p.device) for p in plan_workers(config, logging.getLogger("test"), lambda: gpus)]


def test_without_gpus_all_workers_run_on_the_cpu(caplog: pytest.LogCaptureFixture) -> None:
    assert plan([], num_worker=3) == ["cpu"] * 3
    assert "no GPU available, fall back to CPU" in caplog.text


def test_the_cpu_option_selects_the_cpu() -> None:
    assert plan(FREE, num_worker=2, cpu=True) == ["cpu", "cpu"]


def test_the_emptiest_free_gpus_come_first() -> None:
    assert plan(FREE, num_worker=3) == ["gpu: 1", "gpu: 3", "gpu: 0"]


def test_more_workers_than_free_gpus_share_them(caplog: pytest.LogCaptureFixture) -> None:
    assert plan(FREE, num_worker=5) == ["gpu: 1", "gpu: 3", "gpu: 0", "gpu: 1", "gpu: 3"]
    assert 'only 3 out of 4 GPU(s) is available/free, but "-num_worker=5"' in caplog.text


def test_device_map_is_used_in_turn() -> None:
    assert plan(FREE, num_worker=4, device_map=[0, 1, 3]) == ["gpu: 0", "gpu: 1", "gpu: 3", "gpu: 0"]
    assert plan(FREE, num_worker=1, device_map=[2, 1]) == ["gpu: 2"]


def test_gpu_and_cpu_workers_mix() -> None:
    assert plan(FREE, num_worker=3, device_map=[0, -1]) == ["gpu: 0", "cpu", "gpu: 0"]


def test_preparing_and_workers_know_the_threads_of_all_workers_on_the_cpu() -> None:
    placements = [
        WorkerPlacement(device, engine, "bf16")
        for device, engine in [
            (Device(threads=5), "torch"),
            (Device("gpu"), "torch"),
            (Device(threads=3), "torch"),
            (Device(threads=5), "torch"),
            (Device(threads=2), "onnx"),
        ]
    ]
    assert devices.cpu_threads(placements, "torch", "bf16") == [3, 5]
    assert devices.cpu_threads(placements[1:2], "torch", "bf16") == []


def test_device_map_with_a_gpu_that_is_not_there() -> None:
    with pytest.raises(EngineUnavailable, match="GPU 7"):
        plan(FREE, device_map=[7])


def test_all_gpus_busy(caplog: pytest.LogCaptureFixture) -> None:
    assert plan([Gpu(0, 0.99, 0.1), Gpu(1, 0.0, 0.95)]) == ["cpu"]
    assert "no GPU is free (all of 2 are in use), fall back to CPU" in caplog.text


def test_a_gpu_without_a_usable_engine_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def choose(name: str, kind: str, dtype: str, *_: object) -> str:
        if kind == "gpu":
            raise EngineUnavailable("install tensorflow[and-cuda]")
        return "zeros"

    monkeypatch.setattr(engines, "choose", choose)
    assert plan(FREE) == ["cpu"]
    assert "tensorflow[and-cuda]" in caplog.text


@pytest.mark.parametrize(("quota", "threads"), [(None, 2), (8.0, 2), (6.5, 2), (3.0, 1), (0.5, 1)])
def test_cpu_workers_share_the_cores_or_the_quota(quota: float | None, threads: int) -> None:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "zeros", "num_worker": 3})
    topology = Topology(tuple(Core(0, (number,)) for number in range(8)), quota)
    plans = plan_workers(config, logging.getLogger("test"), lambda: [], find_cores=lambda: topology)
    assert [p.device.threads for p in plans] == [threads] * 3
    assert {p.device.cpus for p in plans} == {()}


@pytest.mark.parametrize(
    ("gpus", "options", "dtype"),
    [
        ([], {"fp16": True}, "fp32"),
        (FREE, {"fp16": True}, "fp16"),
        (FREE, {"dtype": "auto"}, "bf16"),
        (FREE, {"dtype": "fp32"}, "fp32"),
    ],
)
def test_precision_suits_the_device(gpus: list[Gpu], options: dict[str, object], dtype: str) -> None:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "zeros", **options})
    assert {p.dtype for p in plan_workers(config, logging.getLogger("test"), lambda: gpus)} == {dtype}


@pytest.mark.parametrize(
    ("features", "installed", "expected"),
    [
        ({"amx_bf16", "avx512_bf16"}, ("onnx", "tensorflow", "torch"), ("torch", "bf16")),
        ({"amx_bf16", "avx512_bf16"}, ("onnx", "tensorflow"), ("onnx", "int8")),
        ({"amx_bf16", "avx512_bf16"}, ("tensorflow",), ("tensorflow", "bf16")),
        ({"avx512_bf16"}, ("onnx", "tensorflow", "torch"), ("onnx", "int8")),
        ({"avx512_bf16"}, ("onnx", "torch"), ("onnx", "int8")),
        ({"avx512_bf16"}, ("tensorflow", "torch"), ("tensorflow", "bf16")),
        ({"avx2"}, ("onnx", "torch"), ("onnx", "int8")),
        ({"avx2"}, ("torch",), ("torch", "fp32")),
    ],
)
def test_the_fastest_precision_is_a_matter_of_processor_and_engines(
    features: set[str], installed: tuple[str, ...], expected: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_spec(name: str) -> object | None:
        return object() if {"onnxruntime": "onnx"}.get(name, name) in installed else None

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    config = ServerConfig.from_dict({"model_dir": str(TINY), "engine": "auto", "dtype": "auto"})
    (plan,) = plan_workers(config, logging.getLogger("test"), lambda: [], frozenset(features))
    assert (plan.engine, plan.dtype) == expected


@pytest.mark.parametrize("engine", ["auto", "tensorflow", "torch"])
def test_bf16_is_refused_where_it_would_be_emulated(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    with pytest.raises(EngineUnavailable, match=r"no bf16 instructions .* use fp32"):
        engines.choose(engine, "cpu", "bf16", frozenset({"avx2"}))
    assert engines.choose(engine, "cpu", "bf16", frozenset({"avx2", "avx512_bf16"})) in (engine, "tensorflow")
    assert engines.choose(engine, "cpu", "bf16", frozenset()) in (engine, "tensorflow")  # nothing is known


@pytest.mark.parametrize(
    ("named", "left"),
    [
        ("", {"avx2", "avx512_vnni", "avx512_bf16"}),
        ("avx2", {"avx2"}),
        ("AVX2, avx512_vnni", {"avx2", "avx512_vnni"}),
        ("avx512_bf16 amx_bf16", {"avx2", "avx512_bf16"}),
    ],
)
def test_features_can_be_held_down_and_never_added(named: str, left: set[str]) -> None:
    assert cpu_info.restrict(frozenset({"avx2", "avx512_vnni", "avx512_bf16"}), named) == left


def test_the_variable_holds_the_features_of_a_process_down() -> None:
    code = (
        "from bert_serving.server.engines import cpu_info\n"
        "print(*cpu_info.processor()[1] & cpu_info.DECIDING_FEATURES)\n"
        "print(cpu_info.why_no_bf16())\n"
    )
    env = {**os.environ, "BERT_SERVING_CPU_FEATURES": "avx2", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    left, reason = done.stdout.splitlines()
    assert left == ""
    assert reason == "None" or "that BERT_SERVING_CPU_FEATURES lets it use" in reason


def test_numbers_of_cuda_visible_devices_are_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("pynvml")
    fake.NVMLError = type("NVMLError", (Exception,), {})  # type: ignore[attr-defined]
    seen: list[int] = []

    def handle(index: int) -> int:
        if index > 3:
            raise fake.NVMLError
        seen.append(index)
        return index

    for name, value in {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 4,
        "nvmlDeviceGetHandleByIndex": handle,
        "nvmlDeviceGetMemoryInfo": lambda h: types.SimpleNamespace(used=h, total=10),
        "nvmlDeviceGetUtilizationRates": lambda h: types.SimpleNamespace(gpu=50),
    }.items():
        setattr(fake, name, value)
    monkeypatch.setitem(__import__("sys").modules, "pynvml", fake)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1,-1,0")
    assert devices.list_gpus() == [Gpu(0, 0.5, 0.3), Gpu(1, 0.5, 0.1)]
    assert seen == [3, 1]


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "torch"},
        {"engine": "tensorflow"},
        {"engine": "auto", "xla": True},
        {"engine": "auto", "dtype": "bf16"},
        {"engine": "torch", "dtype": "fp16"},
    ],
)
@pytest.mark.parametrize("gpus", [[], FREE])
def test_deterministic_refuses_engines_and_dtypes_that_are_not(options: dict[str, object], gpus: list[Gpu]) -> None:
    with pytest.raises(EngineUnavailable):
        plan(gpus, deterministic=True, **options)


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="the extra `onnx` is not installed")
@pytest.mark.parametrize("dtype", ["fp32", "int8", "auto"])
def test_deterministic_selects_onnx_on_the_cpu(dtype: str) -> None:
    config = ServerConfig.from_dict({"model_dir": str(TINY), "dtype": dtype, "deterministic": True})
    features = frozenset({"avx512_bf16", "amx_bf16", "avx512_vnni"})
    [found] = plan_workers(config, logging.getLogger("test"), lambda: FREE, features)
    assert (str(found.device), found.engine) == ("cpu", "onnx")
    assert found.dtype == ("int8" if dtype == "auto" else dtype)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="BLAS has one thread")
def test_threads_of_a_product_of_numpy_do_not_wait_actively() -> None:
    """Waiting threads of a head would take the cores of the next batch."""
    device = Device(kind="cpu", threads=2)
    program = """
import time, numpy as np
rows, weight = np.ones((64, 384), np.float32), np.ones((384, 384), np.float32)
rows @ weight
before = time.process_time()
time.sleep(0.5)
print(time.process_time() - before)
"""
    environment = {**os.environ, **WorkerPlacement(device, "onnx", "fp32").environment()}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert float(found.stdout) < 0.02, "of 0.1 s by default"
