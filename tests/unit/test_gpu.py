"""What a worker says of its GPU, with a driver that is made up: the machine of the tests need not have one."""

from __future__ import annotations

import sys
import types

import pytest

from bert_serving.server.engines.nvml import GpuMeter


class NVMLError(Exception):
    pass


def driver(has_rates: bool = True) -> types.ModuleType:
    """Two GPUs, called 0 and 1."""

    def rates(handle: int) -> types.SimpleNamespace:
        if not has_rates:
            raise NVMLError
        return types.SimpleNamespace(gpu=10 * handle)

    made = types.ModuleType("pynvml")
    for name, value in {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetMemoryInfo": lambda handle: types.SimpleNamespace(used=handle, total=5),
        "nvmlDeviceGetUtilizationRates": rates,
    }.items():
        setattr(made, name, value)
    return made


def test_it_reads_the_gpu_that_the_worker_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert GpuMeter(1).read() == {"gpu_memory_used": 1, "gpu_memory_total": 5, "gpu_utilization": 0.1}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert GpuMeter(1).read() == {"gpu_memory_used": 0, "gpu_memory_total": 5, "gpu_utilization": 0.0}


def test_a_slice_of_a_gpu_has_memory_and_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", driver(has_rates=False))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert GpuMeter(1).read() == {"gpu_memory_used": 1, "gpu_memory_total": 5}


@pytest.mark.parametrize("module", [None, driver()], ids=["no library", "no such GPU"])
def test_without_a_gpu_it_says_nothing(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)
    assert GpuMeter(2).read() == {}
