"""Converts a graph to a function that TensorFlow runs without the modules that trace one."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

_PLACEHOLDER = "Placeholder"


def inputs_of(graph: Any, output: str) -> list[str]:
    """Returns the names of the placeholders that an output of a ``GraphDef`` needs, in the order of the graph."""
    needed = _needed(graph, output)
    return [node.name for node in graph.node if node.op == _PLACEHOLDER and node.name in needed]


def make_function(
    function_pb2: ModuleType,
    find_operator: Any,
    graph: Any,
    name: str,
    output: str,
    shapes: Mapping[str, tuple[int, ...]],
) -> Any:
    """Returns a ``FunctionDef`` whose arguments are ``inputs_of`` in this order, and whose result is one output.

    Args:
        function_pb2: the module of ``FunctionDef``.
        find_operator: returns the ``OpDef`` of a kind of node.
        graph: a ``GraphDef``.
        name: that of the function.
        output: name of a node ``Identity``.
        shapes: shapes of placeholders that are known better than in the graph.
    """
    needed = _needed(graph, output)
    function = function_pb2.FunctionDef()
    function.signature.name = name
    function.attr["_construction_context"].s = b"kEagerRuntime"
    names: dict[str, str] = {}
    outputs: dict[str, list[str]] = {}
    for node in graph.node:
        if node.name not in needed:
            continue
        if node.op == _PLACEHOLDER:
            index = len(names)
            names[node.name] = f"argument_{index}"
            function.signature.input_arg.add(name=names[node.name], type=node.attr["dtype"].type)
            shape = function.arg_attr[index].attr["_output_shapes"].list.shape.add()
            if node.name in shapes:
                for size in shapes[node.name]:
                    shape.dim.add(size=size)
            else:
                shape.CopyFrom(node.attr["shape"].shape)
        else:
            outputs[node.name] = _output_names(find_operator(node.op), node)
            function.node_def.add().CopyFrom(node)
    for node in function.node_def:
        for number, source in enumerate(node.input):
            if source.startswith("^"):
                continue
            producer, _, index = source.partition(":")
            node.input[number] = names.get(producer) or f"{producer}:{outputs[producer][int(index or 0)]}"
        if node.name == output:
            function.signature.output_arg.add(name="result", type=node.attr["T"].type)
    function.ret["result"] = f"{output}:{outputs[output][0]}"
    return function


def _needed(graph: Any, output: str) -> set[str]:
    """Returns the names of the nodes that compute an output."""
    nodes = {node.name: node for node in graph.node}
    needed: set[str] = set()
    waiting = [output]
    while waiting:
        if (name := waiting.pop()) not in needed:
            needed.add(name)
            waiting += [source.lstrip("^").partition(":")[0] for source in nodes[name].input]
    return needed


def _output_names(operator: Any, node: Any) -> list[str]:
    """Returns the name of each output of a node in a function: that of the output of its operator, and an index."""
    names = []
    for argument in operator.output_arg:
        count = 1
        if argument.number_attr:
            count = node.attr[argument.number_attr].i
        elif argument.type_list_attr:
            count = len(node.attr[argument.type_list_attr].list.type)
        names += [f"{argument.name}:{number}" for number in range(count)]
    return names
