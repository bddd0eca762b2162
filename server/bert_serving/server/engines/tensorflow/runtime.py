"""Runs the saved graph on a device: with TensorFlow's API, or on the CPU without importing it.

The API of TensorFlow imports 2,000 modules, which take four fifths of the start of a worker. They are needed to trace
a function, for GPUs and for XLA. On the CPU, the graph is converted to a function, which TensorFlow runs as a traced
one.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from ...model.errors import ReaderMissing
from ...model.tensorflow_import import import_modules, import_tensorflow
from ..base import Device
from . import saved_graph
from .device import open_device, set_up_cpu
from .graph import FEEDS
from .graph_function import inputs_of, make_function

#: Computes one output of the graph from the arrays of ``FEEDS``, in their order.
Function = Callable[[Sequence[np.ndarray]], np.ndarray]


class Runtime(Protocol):
    """TensorFlow in this process.

    Attributes:
        errors: the module of its errors.
        device_name: name of the device in errors.
    """

    errors: ModuleType
    device_name: str

    def load(self, fused: bool, output: str) -> Function:
        """Returns an output of the graph as a function; ``fused`` as in ``saved_graph``."""
        ...


def open_runtime(device: Device, folders: tuple[Path, Path], xla: bool) -> Runtime:
    """Opens a device.

    Args:
        folders: those of ``saved_graph.find``.

    Raises:
        EngineUnavailable: TensorFlow finds no GPU.
        ReaderMissing: TensorFlow is not installed.
    """
    if runs_without_api(device, xla):
        with contextlib.suppress(ReaderMissing, AttributeError):  # other versions may lack what is not public
            return CpuRuntime(device, folders)
    return ApiRuntime(device, folders, xla)


def runs_without_api(device: Device, xla: bool) -> bool:
    """Returns whether this process needs no API of TensorFlow, if its version has the modules for that."""
    return device.kind == "cpu" and not xla and not _has_plugins()


def import_cpu_modules() -> list[ModuleType]:
    """Imports the modules of ``CpuRuntime``.

    Raises:
        ReaderMissing: as ``import_modules``.
    """
    return import_modules(
        "the engine tensorflow",
        "eager.context",
        "framework.constant_op",
        "framework.dtypes",
        "framework.op_def_registry",
        "framework.errors",
        "pywrap_tfe",
    )


class ApiRuntime:
    """Traces the graph with the API of TensorFlow; see ``Runtime``."""

    def __init__(self, device: Device, folders: tuple[Path, Path], xla: bool) -> None:
        self._tf: Any = import_tensorflow("the engine tensorflow")
        self.errors: Any = self._tf.errors
        self.device_name = open_device(self._tf, device)
        self._weights = saved_graph.map_weights(folders[0], partial(self._to_tensor, self.device_name))
        self._graph, self._xla = folders[1], xla

    def _to_tensor(self, device_name: str, array: np.ndarray, dtype: str) -> Any:
        tf = self._tf
        with tf.device("/CPU:0"):
            tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
            tensor = tensor if tensor.dtype == dtype else tf.bitcast(tensor, dtype)
        if "CPU" not in device_name:
            with tf.device(device_name):
                tensor = tf.identity(tensor)
        return tensor

    def load(self, fused: bool, output: str) -> Function:
        """See ``Runtime``."""
        tf = self._tf
        graph = tf.compat.v1.GraphDef.FromString(saved_graph.file_of(self._graph, fused).read_bytes())
        function = saved_graph.load_function(tf, graph, self._weights, self.device_name, self._xla, output)
        return lambda feeds: np.asarray(function(*map(tf.constant, feeds)).numpy())


class CpuRuntime:
    """Runs the graph as a function, without the API; see ``Runtime``.

    Raises:
        ReaderMissing, AttributeError: this version of TensorFlow has no such modules or functions.
    """

    _numbers = itertools.count()

    def __init__(self, device: Device, folders: tuple[Path, Path]) -> None:
        eager, constant_op, dtypes, self._operators, self.errors, pywrap = import_cpu_modules()
        self._context: Any = eager.context()
        set_up_cpu(self._context, device.threads)
        self._context.ensure_initialized()
        self.device_name = "/CPU:0"
        self._convert = partial(constant_op.convert_to_eager_tensor, ctx=self._context)
        self._call, self._add = self._context.call_function, self._context.add_function_def
        self._execute, self._dtypes, self._pywrap = eager.execute.execute, dtypes, pywrap
        self._weights = saved_graph.map_weights(folders[0], self._to_tensor)
        self._graph = folders[1]

    def _to_tensor(self, array: np.ndarray, dtype: str) -> Any:
        tensor = self._pywrap.TFE_FromDlpackCapsule(array.__dlpack__(), self._context._handle)
        if tensor.dtype == dtype:
            return tensor
        attributes = ("T", tensor.dtype.as_datatype_enum, "type", self._dtypes.as_dtype(dtype).as_datatype_enum)
        return self._execute("Bitcast", 1, [tensor], attributes, self._context)[0]

    def load(self, fused: bool, output: str) -> Function:
        """See ``Runtime``."""
        from tensorflow.core.framework import function_pb2, graph_pb2

        graph = graph_pb2.GraphDef.FromString(saved_graph.file_of(self._graph, fused).read_bytes())
        weights = {saved_graph.scoped(name): tensor for name, tensor in self._weights.items()}
        names = inputs_of(graph, output)
        shapes = {name: tuple(weights[name].shape) for name in names if name in weights}
        name = f"bert_serving_{next(self._numbers)}"
        self._add(make_function(function_pb2, self._operators.get, graph, name, output, shapes))
        places = {feed: index for index, feed in enumerate(FEEDS)}
        fixed = [weights.get(each) for each in names]
        given = [(index, places[each]) for index, each in enumerate(names) if each in places]

        def run(feeds: Sequence[np.ndarray]) -> np.ndarray:
            inputs = list(fixed)
            for index, place in given:
                inputs[index] = self._convert(feeds[place])
            (found,) = self._call(name.encode(), inputs, 1)
            return np.asarray(found.numpy())

        return run


def _has_plugins() -> bool:
    """Returns whether the package loads plugins for devices when it is imported."""
    if os.environ.get("TF_PLUGGABLE_DEVICE_LIBRARY_PATH") or (spec := find_spec("tensorflow")) is None:
        return True
    places = [*sys.path, *(os.path.dirname(place) for place in spec.submodule_search_locations or ())]
    return any(os.path.exists(os.path.join(place, "tensorflow-plugins")) for place in places)
