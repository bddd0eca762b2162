"""Builds the BERT encoder as an ONNX graph over packed tokens, with operators that are fast in ONNX Runtime.

Dense layers compute packed tokens, ``[t, hidden]``. Only attention uses the padded grid ``[n, T]``: one Gather unpacks
the tokens and one packs them again. The graph has no layer above the highest pooling layer. If the pooling strategy
needs one token of a sequence, the highest layer computes only that token. The encoder is that of Devlin et al.,
https://arxiv.org/abs/1810.04805. ``docs/ContribOperators.md`` of ONNX Runtime describes the operators of the domain
``com.microsoft``.

The optimizer of ONNX Runtime is off: on the CPU its ``SkipLayerNormalization`` takes nine times as long as ``Add`` and
``LayerNormalization``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...model.config import ModelConfig
from ...model.pooling import PoolingStrategy
from ..base import EngineSpec

#: Inputs of the graph, fields of ``layout.Layout``: name to (element type, axes). ``attend`` is 1 where attention may
#: use a token. A graph declares only the inputs that it reads.
FEEDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "input_ids": (TensorProto.INT32, ("t",)),
    "type_ids": (TensorProto.INT32, ("t",)),
    "positions": (TensorProto.INT32, ("t",)),
    "unpack": (TensorProto.INT32, ("n", "T")),
    "pack": (TensorProto.INT32, ("t",)),
    "attend": (TensorProto.INT32, ("n", "T")),
    "mask": (TensorProto.FLOAT, ("n", "T")),
    "first": (TensorProto.INT32, ("n",)),
    "last": (TensorProto.INT32, ("n",)),
}

#: Opset and IR version that ONNX 1.16 and later read and write.
OPSET = 21
IR_VERSION = 10
MICROSOFT = "com.microsoft"

#: The input of ``FEEDS`` that selects the token of a strategy.
_ONE_TOKEN = {
    PoolingStrategy.CLS_TOKEN: "first",
    PoolingStrategy.SEP_TOKEN: "last",
    PoolingStrategy.CLS_POOLED: "first",
}


class Graph:
    """Collects the nodes of a graph. Names are numbered in order, so equal calls make equal graphs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []
        self.outputs: list[tuple[str, int]] = []

    def tensor(self, values: Any) -> str:
        """Adds a constant and returns its name."""
        name = f"constant_{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def op(self, kind: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Adds a node and returns the name of its output, or a list of names for several outputs."""
        names = [f"{kind}_{len(self.nodes)}_{number}" for number in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def model(self) -> onnx.ModelProto:
        """Returns the complete model; its inputs are the names of ``FEEDS`` that the graph reads."""
        used = {name for node in self.nodes for name in node.input}
        inputs = [helper.make_tensor_value_info(name, *FEEDS[name]) for name in FEEDS if name in used]
        outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in self.outputs]
        return helper.make_model(
            helper.make_graph(self.nodes, "bert", inputs, outputs, self.tensors),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
        )


#: Adds the product of an input ``[t, in]`` and a kernel ``[in, out]``: (graph, input name, scope, kernel, bias) to
#: (name of the product, bias that is still to be added).
Dense = Callable[[Graph, str, str, np.ndarray, np.ndarray], tuple[str, np.ndarray]]


def dense_fp32(graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray) -> tuple[str, np.ndarray]:
    """Adds a product in float32."""
    return graph.op("MatMul", x, graph.tensor(kernel)), bias


def build(spec: EngineSpec, weights: dict[str, np.ndarray], dense: Dense = dense_fp32) -> onnx.ModelProto:
    """Returns the graph from token ids to vectors: its first output is ``[n, d]``, or ``[t, d]`` without pooling.

    Args:
        spec: what to compute; ``dtype`` is ignored.
        weights: canonical weights, see ``model.weights``, at least of the layers up to the highest pooling layer.
        dense: adds the dense layers of the encoder.

    Raises:
        ValueError: the model has no such pooling layer.
    """
    graph = Graph()
    layers = spec.layers
    strategy = PoolingStrategy.from_string(spec.pooling_strategy)
    selected = _ONE_TOKEN.get(strategy)
    x = _embeddings(graph, spec, weights)
    hidden: dict[int, str] = {}
    for layer in range(max(layers) + 1):
        is_top = layer == max(layers)
        x = _encoder_layer(graph, spec.model, weights, layer, x, selected if is_top and selected else None, dense)
        if layer in layers:
            hidden[layer] = graph.op("Gather", x, selected) if selected and not is_top else x
    vectors = [hidden[layer] for layer in layers]
    x = vectors[0] if len(vectors) == 1 else graph.op("Concat", *vectors, axis=-1)
    x = _pool(graph, strategy, weights, x)
    kind = TensorProto.FLOAT16 if spec.output_dtype == "float16" else TensorProto.FLOAT
    if kind != TensorProto.FLOAT:
        x = graph.op("Cast", x, to=kind)
    graph.outputs.insert(0, (x, kind))
    return graph.model()


def _embeddings(graph: Graph, spec: EngineSpec, weights: dict[str, np.ndarray]) -> str:
    x = graph.op("Gather", graph.tensor(weights["embeddings/word_embeddings"]), "input_ids")
    x = graph.op("Add", x, graph.op("Gather", graph.tensor(weights["embeddings/token_type_embeddings"]), "type_ids"))
    if spec.use_position_embeddings:
        table = graph.tensor(weights["embeddings/position_embeddings"])
        x = graph.op("Add", x, graph.op("Gather", table, "positions"))
    return _layer_norm(graph, spec.model, weights, "embeddings/LayerNorm", x)


def _encoder_layer(
    graph: Graph,
    model: ModelConfig,
    weights: dict[str, np.ndarray],
    layer: int,
    x: str,
    selected: str | None,
    dense: Dense,
) -> str:
    """Adds one layer, ``[t, hidden]`` to ``[t, hidden]``, or to ``[n, hidden]`` for a selected token per sequence."""
    scope = f"encoder/layer_{layer}"
    scopes = [f"{scope}/attention/self/{name}" for name in ("query", "key", "value")]
    kernel = np.concatenate([weights[f"{one}/kernel"] for one in scopes], axis=1)
    bias = np.concatenate([weights[f"{one}/bias"] for one in scopes])
    qkv, bias = dense(graph, x, f"{scope}/attention/self/qkv", kernel, bias)
    grid = graph.op("Gather", qkv, "unpack")
    query, key, value = graph.op("Split", grid, outputs=3, axis=-1, num_outputs=3)
    attention = graph.op(
        "MultiHeadAttention",
        *(query, key, value, graph.tensor(bias), "attend"),
        domain=MICROSOFT,
        num_heads=model.num_attention_heads,
        mask_filter_value=-10000.0,
    )
    flat = graph.op("Reshape", attention, graph.tensor(np.array([-1, model.hidden_size])))
    index = "pack"
    if selected:
        index, x = graph.op("Gather", "pack", selected), graph.op("Gather", x, selected)
    attention = graph.op("Gather", flat, index)

    def linear(inputs: str, name: str) -> tuple[str, str]:
        product, bias = dense(
            graph, inputs, f"{scope}/{name}", weights[f"{scope}/{name}/kernel"], weights[f"{scope}/{name}/bias"]
        )
        return product, graph.tensor(bias)

    x = graph.op("Add", graph.op("Add", *linear(attention, "attention/output/dense")), x)
    x = _layer_norm(graph, model, weights, f"{scope}/attention/output/LayerNorm", x)
    inner = _activate(graph, model.hidden_act, *linear(x, "intermediate/dense"))
    x = graph.op("Add", graph.op("Add", *linear(inner, "output/dense")), x)
    return _layer_norm(graph, model, weights, f"{scope}/output/LayerNorm", x)


def _activate(graph: Graph, act: str, x: str, bias: str) -> str:
    """Adds the activation of ``x + bias``, by the names of ``model.config_values.HIDDEN_ACTS``."""
    fused = {"gelu": "BiasGelu", "gelu_new": "FastGelu"}
    if act in fused:
        return str(graph.op(fused[act], x, bias, domain=MICROSOFT))
    return str(graph.op({"relu": "Relu", "tanh": "Tanh"}[act], graph.op("Add", x, bias)))


def _layer_norm(graph: Graph, model: ModelConfig, weights: dict[str, np.ndarray], scope: str, x: str) -> str:
    gamma, beta = (graph.tensor(weights[f"{scope}/{name}"]) for name in ("gamma", "beta"))
    return str(graph.op("LayerNormalization", x, gamma, beta, axis=-1, epsilon=model.layer_norm_eps))


def _pool(graph: Graph, strategy: PoolingStrategy, weights: dict[str, np.ndarray], x: str) -> str:
    """Adds pooling of ``[t, d]``, or of ``[n, d]`` with one selected token per sequence; 0 if all tokens are masked."""
    if strategy is PoolingStrategy.CLS_POOLED:
        kernel, bias = graph.tensor(weights["pooler/dense/kernel"]), graph.tensor(weights["pooler/dense/bias"])
        return str(graph.op("Tanh", graph.op("Gemm", x, kernel, bias)))
    if strategy in _ONE_TOKEN:
        return x
    last = graph.tensor(np.array([-1]))
    if strategy is PoolingStrategy.NONE:
        of_token = graph.op("Gather", graph.op("Reshape", "mask", last), "pack")
        return str(graph.op("Mul", x, graph.op("Unsqueeze", of_token, last)))
    time = graph.tensor(np.array([1]))
    grid, mask = graph.op("Gather", x, "unpack"), graph.op("Unsqueeze", "mask", last)
    pooled = []
    if strategy in (PoolingStrategy.REDUCE_MEAN, PoolingStrategy.REDUCE_MEAN_MAX):
        count = graph.op("Add", graph.op("ReduceSum", mask, time, keepdims=0), graph.tensor(np.float32(1e-10)))
        total = graph.op("ReduceSum", graph.op("Mul", grid, mask), time, keepdims=0)
        pooled.append(graph.op("Div", total, count))
    if strategy in (PoolingStrategy.REDUCE_MAX, PoolingStrategy.REDUCE_MEAN_MAX):
        zero, hidden = graph.tensor(np.float32(0)), graph.tensor(np.float32(-1e30))
        visible = graph.op("Where", graph.op("Greater", mask, zero), grid, hidden)
        any_visible = graph.op("Greater", graph.op("ReduceMax", mask, time, keepdims=0), zero)
        pooled.append(graph.op("Where", any_visible, graph.op("ReduceMax", visible, time, keepdims=0), zero))
    return pooled[0] if len(pooled) == 1 else str(graph.op("Concat", *pooled, axis=-1))
