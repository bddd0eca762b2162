"""Collects the nodes and the constants of an ONNX graph.

``docs/ContribOperators.md`` of ONNX Runtime describes the operators of the domain ``com.microsoft``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Inputs of the graph, fields of ``layout.Layout``: name to (element type, axes). ``attend`` is 1 where attention may
#: use a token. ``is_long`` is that of ``grid``. A graph declares only the inputs that it reads.
FEEDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "input_ids": (TensorProto.INT32, ("t",)),
    "type_ids": (TensorProto.INT32, ("t",)),
    "positions": (TensorProto.INT32, ("t",)),
    "unpack": (TensorProto.INT32, ("n", "T")),
    "pack": (TensorProto.INT32, ("t",)),
    "attend": (TensorProto.INT32, ("n", "T")),
    "bias": (TensorProto.FLOAT, ("n", "T")),
    "mask": (TensorProto.FLOAT, ("n", "T")),
    "first": (TensorProto.INT32, ("n",)),
    "last": (TensorProto.INT32, ("n",)),
    "is_long": (TensorProto.BOOL, ()),
}

#: Opset and IR version that ONNX 1.16 and later read and write.
OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"
#: ONNX Runtime reads prepacked weights with instructions that need addresses of this multiple. In the file, they follow
#: other constants without padding.
ALIGNMENT = 64
#: Constants of at least this size are in the file of the weights.
EXTERNAL_BYTES = 1024


class Graph:
    """Collects the nodes of a graph. Names are numbered in order, so equal calls make equal graphs.

    Args:
        constants: receives the constants of at least ``EXTERNAL_BYTES`` by name; the graph has their types and shapes
            alone. None: the graph has a copy of them.
    """

    def __init__(self, constants: dict[str, np.ndarray] | None = None) -> None:
        self._constants = constants
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.outputs: list[tuple[str, int]] = []
        self._named: dict[str, str] = {}
        self._once: dict[tuple[str, object], str] = {}
        self._prefix = ""
        self._num_bodies = 0

    def tensor(self, values: Any, key: str = "") -> str:
        """Adds a constant and returns its name; equal keys share the constant of the first."""
        if key in self._named:
            return self._named[key]
        name = f"constant_{len(self.tensors)}"
        array = np.ascontiguousarray(values)
        if self._constants is None or array.nbytes < EXTERNAL_BYTES:
            self.tensors.append(numpy_helper.from_array(array, name))
        else:
            self._constants[name] = array
            self.tensors.append(_without_values(array, name))
        if key:
            self._named[key] = name
        return name

    def table(self, values: np.ndarray, key: str = "", axis: int = 0) -> str:
        """Adds a constant whose rows are selected, and returns its name; zeros after the last row align its size.

        Equal keys share the constant of the first.
        """
        row = values.nbytes // values.shape[axis]
        missing = next(rows for rows in range(ALIGNMENT) if (values.nbytes + rows * row) % ALIGNMENT == 0)
        if missing:
            values = np.pad(values, [(0, missing if each == axis else 0) for each in range(values.ndim)])
        return self.tensor(values, key)

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or a list of names for several outputs."""
        names = [f"{self._prefix}{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def once(self, key: object, add: Callable[[], str]) -> str:
        """Returns what ``add`` returned at the first call with this key in the same body."""
        if (self._prefix, key) not in self._once:
            self._once[self._prefix, key] = add()
        return self._once[self._prefix, key]

    def body(self, add: Callable[..., list[tuple[str, int]]], **inputs: int) -> onnx.GraphProto:
        """Returns the body of a loop or a branch; its nodes may read what the graph has so far.

        Args:
            add: gets the names of the inputs, adds the nodes, and returns names and element types of the outputs.
            inputs: element type of each input, which is a scalar.
        """
        outer, self.nodes = self.nodes, []
        prefix, self._prefix = self._prefix, f"body_{self._num_bodies}/"
        self._num_bodies += 1
        names = {f"{self._prefix}{name}": kind for name, kind in inputs.items()}
        outputs = add(*names)
        body = helper.make_graph(
            self.nodes,
            self._prefix.rstrip("/"),
            [helper.make_tensor_value_info(name, kind, ()) for name, kind in names.items()],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs],
        )
        self.nodes, self._prefix = outer, prefix
        return body

    def model(self) -> onnx.ModelProto:
        """Returns the complete model; its inputs are the names of ``FEEDS`` that the graph reads."""
        used = _names(self.nodes)
        inputs = [helper.make_tensor_value_info(name, *FEEDS[name]) for name in FEEDS if name in used]
        outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in self.outputs]
        return helper.make_model(
            helper.make_graph(self.nodes, "bert", inputs, outputs, self.tensors),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
        )


def _names(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Returns the names that nodes and their bodies read."""
    nodes = list(nodes)
    bodies = [attribute.g for node in nodes for attribute in node.attribute if attribute.HasField("g")]
    found = {name for node in nodes for name in node.input}
    return found.union(*(_names(body.node) for body in bodies))


class Dense(Protocol):
    """Adds the product of an input and a kernel."""

    def __call__(
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray, rows: str = "t"
    ) -> tuple[str, np.ndarray]:
        """Returns the name of the product, and the bias that is still to be added.

        Args:
            x: name of the input, ``[rows, in]``.
            kernel: weights, ``[in, out]``.
            rows: the number of rows by name; inputs of a body with equal names have equally many.
        """


def dense_fp32(
    graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray, rows: str = "t"
) -> tuple[str, np.ndarray]:
    """Adds a product in float32."""
    return graph.op("MatMul", x, graph.tensor(kernel, f"{scope}/kernel")), bias


def _without_values(array: np.ndarray, name: str) -> onnx.TensorProto:
    """Returns the type and the shape of a constant that the session receives beside the graph."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = TensorProto(name=name, data_type=kind, dims=array.shape, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="none")
    return tensor


def is_aligned(constants: Mapping[str, np.ndarray]) -> bool:
    """Returns whether prepacked weights may follow each of the large constants in the file."""
    return all(array.nbytes % ALIGNMENT == 0 for array in constants.values())
