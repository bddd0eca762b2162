"""Tells TensorFlow which device, how many threads and how much memory this process may use, before it starts."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from ..base import Device, EngineUnavailable


def set_environment(device: Device, dtype: str) -> None:
    """Sets the variables that TensorFlow reads once, when it starts; without effect in a process where it has started.

    ``TF_ONEDNN_ASSUME_FROZEN_WEIGHTS`` lets oneDNN keep a copy of the weights in the layout that its kernels want. In
    bf16 this takes a third off the time of one sentence. In fp32 the layouts for few and for many tokens differ, so
    batches of a middle size would be laid out again in every call: there it is left off.
    """
    if device.kind == "gpu":
        _choose_gpu(device)
        return
    if "tensorflow" not in sys.modules:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    if dtype == "bf16":
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")


def _choose_gpu(device: Device) -> None:
    """Shows this process the one GPU of ``device``, counted as the driver and ``nvidia-smi`` count.

    Must run before TensorFlow looks for GPUs. Where the user has set ``CUDA_VISIBLE_DEVICES``, the index counts in
    that list.
    """
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if listed and device.index >= len(listed):
        raise EngineUnavailable(
            f"there is no GPU {device.index} among CUDA_VISIBLE_DEVICES={','.join(listed)}; correct -device_map"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = listed[device.index] if listed else str(device.index)


def open_device(tf: Any, device: Device) -> str:
    """Sets up TensorFlow in this process for ``device``; returns the name that graphs use for it.

    Threads and devices can be set once in a process. A second engine in the same process shares what the first set.

    Raises:
        EngineUnavailable: TensorFlow sees no GPU.
    """
    with contextlib.suppress(RuntimeError):  # TensorFlow has started already
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(device.threads)
    if device.kind == "cpu":
        with contextlib.suppress(RuntimeError):
            tf.config.set_visible_devices([], "GPU")
        return "/CPU:0"
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        raise EngineUnavailable(
            f"TensorFlow sees no GPU where {device} was asked for; check nvidia-smi, install TensorFlow with its CUDA "
            "libraries (pip install tensorflow[and-cuda]), or start with -cpu"
        )
    tf.config.experimental.enable_tensor_float_32_execution(False)  # fp32 means fp32; bf16 is there for speed
    with contextlib.suppress(RuntimeError):
        limit = gpu_memory_mib(device)
        if limit is None:
            tf.config.experimental.set_memory_growth(gpus[0], True)
        else:
            share = tf.config.LogicalDeviceConfiguration(memory_limit=int(limit * device.memory_fraction))
            tf.config.set_logical_device_configuration(gpus[0], [share])
    return "/GPU:0"


def gpu_memory_mib(device: Device) -> int | None:
    """Memory of the GPU that ``choose_gpu`` has shown, in MiB; None where the driver's library cannot be asked."""
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
    except Exception:  # no driver, no library, a card that hides its memory: all mean "not known"
        return None
