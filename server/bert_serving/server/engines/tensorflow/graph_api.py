"""Imports what ``graph.GraphBuilder`` needs of TensorFlow, without the rest of its API, whose import takes longer."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

from ...model.errors import ReaderMissing
from ...model.tensorflow_import import import_modules, import_tensorflow


def import_graph_api(purpose: str) -> Any:
    """Returns an object that has names of the package ``tensorflow``: those that build a graph.

    Returns the package itself if this version of TensorFlow has other modules.

    Args:
        purpose: operation that needs TensorFlow, for the error message.

    Raises:
        ReaderMissing: TensorFlow is not installed.
    """
    with contextlib.suppress(ReaderMissing, AttributeError):
        return _import_parts(purpose)
    return import_tensorflow(purpose)


def _import_parts(purpose: str) -> Any:
    """Returns the names of TensorFlow's modules.

    Raises:
        ReaderMissing, AttributeError: this version has no such modules or names.
    """
    ops, dtypes, constant_op, array, stack, math, nn, gen_nn, _ = import_modules(
        purpose,
        "framework.ops",
        "framework.dtypes",
        "framework.constant_op",
        "ops.array_ops",
        "ops.array_ops_stack",
        "ops.math_ops",
        "ops.nn_ops",
        "ops.gen_nn_ops",
        "ops.tensor_getitem_override",  # indexes of tensors
    )
    v1 = SimpleNamespace(placeholder=array.placeholder)
    return SimpleNamespace(
        Graph=ops.Graph,
        as_dtype=dtypes.as_dtype,
        cast=math.cast,
        compat=SimpleNamespace(v1=v1),
        concat=array.concat,
        constant=constant_op.constant,
        fill=array.fill,
        float32=dtypes.float32,
        gather=array.gather_v2,
        identity=array.identity,
        math=SimpleNamespace(rsqrt=math.rsqrt, squared_difference=math.squared_difference),
        matmul=math.matmul,
        nn=SimpleNamespace(bias_add=nn.bias_add, gelu=nn.gelu, relu=gen_nn.relu, softmax=nn.softmax_v2, tanh=math.tanh),
        range=math.range,
        raw_ops=SimpleNamespace(FusedBatchNormV3=gen_nn.fused_batch_norm_v3),
        reduce_max=math.reduce_max,
        reduce_mean=math.reduce_mean,
        reduce_sum=math.reduce_sum,
        reshape=array.reshape,
        shape=array.shape_v2,
        tanh=math.tanh,
        unstack=stack.unstack,
        where=array.where_v2,
        zeros_like=array.zeros_like_v2,
    )
