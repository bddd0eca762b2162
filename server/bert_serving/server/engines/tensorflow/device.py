"""Sets the device, the threads and the memory that TensorFlow may use in this process, before it starts."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from ..base import Device, EngineUnavailable


def set_environment(device: Device, dtype: str) -> None:
    """Sets the environment variables that TensorFlow reads once at its start; no effect if it has started.

    ``TF_ONEDNN_ASSUME_FROZEN_WEIGHTS`` lets oneDNN keep a copy of the weights in its own layout. In bf16 this takes a
    third
    off the time of one sentence. In fp32 the layouts for few and for many tokens differ, so batches of medium size
    would be
    reordered in every call. It is therefore off in fp32.
    """
    if device.kind == "gpu":
        _choose_gpu(device)
        return
    if "tensorflow" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if dtype == "bf16":
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")


def _choose_gpu(device: Device) -> None:
    """Makes only the GPU of ``device`` visible, by its index in the driver and in ``nvidia-smi``.

    Must run before TensorFlow searches for GPUs. If ``CUDA_VISIBLE_DEVICES`` is set, the index counts in that list.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if listed and device.index >= len(listed):
        raise EngineUnavailable(
            f"no GPU with index {device.index} in CUDA_VISIBLE_DEVICES={','.join(listed)}; correct -device_map"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = listed[device.index] if listed else str(device.index)


def open_device(tf: Any, device: Device) -> str:
    """Sets up TensorFlow in this process for ``device`` and returns the device name for graphs.

    Threads and devices can be set once per process. A second engine in the same process uses the settings of the first.

    Raises:
        EngineUnavailable: TensorFlow finds no GPU.
    """
    with contextlib.suppress(RuntimeError):  # TensorFlow has started
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
    if device.kind == "cpu":
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
        return "/CPU:0"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise EngineUnavailable(
            f"TensorFlow finds no GPU, but {device} is configured; check nvidia-smi, install TensorFlow with its CUDA "
            "libraries (pip install tensorflow[and-cuda]), or start with -cpu"
        )
    tf.config.experimental.enable_tensor_float_32_execution(False)  # fp32 stays exact; bf16 is the fast dtype
    with contextlib.suppress(RuntimeError):
        limit = gpu_memory_mib(device)
        if limit is None:
            tf.config.experimental.set_memory_growth(gpus[0], True)
        else:
            share = tf.config.LogicalDeviceConfiguration(memory_limit=int(limit * device.memory_fraction))
            tf.config.set_logical_device_configuration(gpus[0], [share])
    return "/GPU:0"


def set_up_cpu(context: Any, threads: int) -> None:
    """Sets up the CPU as ``open_device`` does, with the context of TensorFlow in place of its API."""
    with contextlib.suppress(RuntimeError):  # TensorFlow has started
        context.inter_op_parallelism_threads = 1
        context.intra_op_parallelism_threads = threads
    with contextlib.suppress(RuntimeError):
        context.set_visible_devices([], "GPU")


def gpu_memory_mib(device: Device) -> int | None:
    """Returns the memory of the visible GPU in MiB, or None if the library of the driver does not report it."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            name = os.environ.get("CUDA_VISIBLE_DEVICES", "") or str(device.index)
            if name.isdigit():
                handle = pynvml.nvmlDeviceGetHandleByIndex(int(name))
            else:
                handle = pynvml.nvmlDeviceGetHandleByUUID(name)
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).total) >> 20
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # no driver, no library, or no memory size: unknown
        return None
