"""Imports the library of an engine before the model is prepared."""

from __future__ import annotations

import importlib
from typing import Any

from ..engines.base import Device
from .affinity import bind_to_cores


def run(early: dict[str, Any]) -> None:
    """Imports the library, in the state of the process in which ``worker.run`` imports it otherwise.

    An engine outside the package is imported by the worker alone.

    Args:
        early: ``device``, ``engine`` and ``dtype`` of the worker, and whether it compiles with XLA (``xla``).
    """
    device = Device(**early["device"])
    bind_to_cores(device, lambda _: None)  # libraries count the cores when they are imported
    if early["engine"] == "onnx":
        from ..engines.onnx.engine import import_onnxruntime

        import_onnxruntime()
    elif early["engine"] == "tensorflow":
        from ..engines.tensorflow.engine import import_for_cpu

        import_for_cpu(device, early["dtype"], early["xla"])
    elif early["engine"] == "torch":
        importlib.import_module("torch")
