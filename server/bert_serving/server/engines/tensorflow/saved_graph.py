"""Caches the weights and the graph of the engine tensorflow.

The tensors are in one raw file, which every worker maps. On the CPU all workers of a machine share its pages.
TensorFlow uses the mapped memory through DLPack without a copy. (Its op ``ImmutableConst`` keeps a private copy in
eager mode, and maps the file again in every call of a graph.)

The graph has a placeholder for each tensor. It has two forms, with plain and with fused layer normalization; see
``graph.GraphBuilder.layer_norm``.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...model.cache import Cache
from ...model.config import ModelConfig
from ...model.weights import expected_shapes, load_weights
from ..base import EngineSpec, Log
from .graph import FEEDS, GraphBuilder
from .graph_api import import_graph_api

#: TensorFlow's names of the dtypes of ``EngineSpec``.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_WEIGHTS = "tensorflow-weights"
_GRAPH = "tensorflow-graph"
_INDEX = "weights.json"
_RAW = "weights.bin"
#: Alignment of tensors in bytes: a cache line, and the widest vector of any CPU.
_ALIGNMENT = 64
_CARRIERS = {"float32": "float32", "float16": "float16", "bfloat16": "int16"}
_PLAIN = "plain.pb"
_FUSED = "fused.pb"
#: Outputs of the graph: see ``graph.GraphBuilder.build``.
VECTORS, TOKENS = "vectors", "tokens"


def write(spec: EngineSpec, log: Log) -> None:
    """Writes weights and graph to the cache if they are missing or damaged.

    Raises:
        ModelError: the model cannot be read, see ``load_weights``.
        CacheError: the cache cannot be written.
        ValueError: the model has no such pooling layer.
    """
    cache = spec.cache()
    cache.entry(_WEIGHTS, _weights_cache_key(spec, cache), lambda folder: _write_weights(spec, folder, log))
    cache.entry(_GRAPH, _graph_cache_key(spec), lambda folder: _write_graph(spec, folder, log))


def find(spec: EngineSpec) -> tuple[Path, Path] | None:
    """Returns the folders of the weights and of the graph, or None if one is missing."""
    cache = spec.cache()
    weights = cache.find(_WEIGHTS, _weights_cache_key(spec, cache))
    graph = cache.find(_GRAPH, _graph_cache_key(spec))
    return (weights, graph) if weights and graph else None


def map_weights(folder: Path, to_tensor: Callable[[np.ndarray, str], Any]) -> dict[str, Any]:
    """Returns the tensors in ``folder`` by name.

    Args:
        to_tensor: converts a mapped array and the name of its dtype; integers carry bfloat16, which has no DLPack type
            in numpy.
    """
    index = json.loads((folder / _INDEX).read_text("utf-8"))
    # Mode "c" is copy-on-write: DLPack exports no read-only memory.
    raw = np.memmap(folder / _RAW, np.uint8, mode="c")
    tensors = {}
    for name, (offset, dtype, shape) in index.items():
        carrier = np.dtype(_CARRIERS[dtype])
        array = raw[offset : offset + carrier.itemsize * math.prod(shape)].view(carrier).reshape(shape)
        tensors[name] = to_tensor(array, dtype)
    return tensors


def file_of(folder: Path, fused: bool) -> Path:
    """Returns the file of the graph with plain or fused layer normalization."""
    return folder / (_FUSED if fused else _PLAIN)


def load_function(
    tf: Any, graph: Any, weights: dict[str, Any], device_name: str, xla: bool, output: str = VECTORS
) -> Any:
    """Returns one output of a ``GraphDef``, which is changed, as a function of the inputs in the order of ``FEEDS``.

    The weights are bound. The function is traced once, for all shapes. It computes nothing that its output does not
    need.
    """
    read = {name.split(":")[0] for node in graph.node for name in node.input}
    used = read & {node.name for node in graph.node if node.op == "Placeholder"}
    # The inputs and weights replace the placeholders. XLA rejects unused placeholders.
    for index in reversed([number for number, node in enumerate(graph.node) if node.op == "Placeholder"]):
        del graph.node[index]

    def run(*feeds: Any) -> Any:
        capture = tf.compat.v1.get_default_graph().capture
        inputs = {f"{name}:0": feed for name, feed in zip(FEEDS, feeds, strict=True) if name in used}
        inputs |= {f"{scoped(name)}:0": capture(tensor) for name, tensor in weights.items() if scoped(name) in used}
        with tf.device(device_name):
            (found,) = tf.graph_util.import_graph_def(graph, inputs, [f"{output}:0"], name="")
        return found

    signature = [tf.TensorSpec([None] * rank, dtype) for dtype, rank in FEEDS.values()]
    function = tf.function(run, input_signature=signature, autograph=False, jit_compile=xla or None)
    return function.get_concrete_function()


def fuse_weights(config: ModelConfig, weights: dict[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    """Converts canonical weights to the weights of the graph.

    Query, key and value become one kernel, ``.../qkv/kernel`` ``[hidden, 3 hidden]``, and the scale of attention,
    ``1/sqrt(head size)``, is multiplied into the query. Kernels and biases of dense layers get ``dtype``. Embeddings,
    LayerNorm and pooler stay float32; the pooler computes one token per sequence.
    """
    fused = {}
    scale = np.float32(1 / np.sqrt(config.head_size))
    for name, weight in weights.items():
        scope, _, kind = name.rpartition("/")
        if scope.endswith("/self/query"):
            base = scope[: -len("/query")]
            parts = [weight * scale, *(weights[f"{base}/{part}/{kind}"] for part in ("key", "value"))]
            fused[f"{base}/qkv/{kind}"] = np.concatenate(parts, axis=-1).astype(dtype, copy=False)
        elif not scope.endswith(("/self/key", "/self/value")):
            is_dense = scope.startswith("encoder/") and kind in ("kernel", "bias")
            fused[name] = weight.astype(dtype, copy=False) if is_dense else weight
    return fused


def fused_shapes(spec: EngineSpec) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Returns (dtype, shape) of each result of ``fuse_weights``; the number of rows of a table is None."""
    shapes: dict[str, tuple[str, tuple[int | None, ...]]] = {}
    for name, shape in expected_shapes(spec.model, max(spec.layers) + 1, spec.needs_pooler).items():
        scope, _, kind = name.rpartition("/")
        dtype = DTYPES[spec.dtype] if scope.startswith("encoder/") and kind in ("kernel", "bias") else "float32"
        if scope.endswith("/self/query"):
            shapes[f"{scope[: -len('/query')]}/qkv/{kind}"] = (dtype, (*shape[:-1], 3 * shape[-1]))
        elif not scope.endswith(("/self/key", "/self/value")):
            shapes[name] = (dtype, (None, *shape[1:]) if name.endswith("_embeddings") else shape)
    return shapes


def scoped(name: str) -> str:
    """Returns the name of the placeholder of a weight."""
    return "weight/" + name


def _weights_cache_key(spec: EngineSpec, cache: Cache) -> dict[str, object]:
    return {
        "model": spec.digest(cache),
        "dtype": spec.dtype,
        "layers": max(spec.layers) + 1,
        "pooler": spec.needs_pooler,
        "byteorder": sys.byteorder,
    }


def _graph_cache_key(spec: EngineSpec) -> dict[str, object]:
    model = spec.model
    return {
        "sizes": [model.hidden_size, model.num_attention_heads, model.intermediate_size],
        "act": model.hidden_act,
        "layer_norm_eps": model.layer_norm_eps,
        "dtype": spec.dtype,
        "output_dtype": spec.output_dtype,
        "pooling_strategy": spec.pooling_strategy,
        "layers": spec.layers,
        "outputs": [VECTORS, TOKENS],
        "use_position_embeddings": spec.use_position_embeddings,
        "tensorflow": _tensorflow_version(),
        "machine": platform.machine(),
    }


def _tensorflow_version() -> str:
    for package in ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tf-nightly"):
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "unknown"


def _write_weights(spec: EngineSpec, folder: Path, log: Log) -> None:
    log(f"load parameters from checkpoint {spec.model.checkpoint}")
    tf = import_graph_api("the engine tensorflow")
    weights = load_weights(spec.model, max(spec.layers) + 1, spec.needs_pooler)
    dtype = tf.as_dtype(DTYPES[spec.dtype]).as_numpy_dtype
    index = {}
    with open(folder / _RAW, "wb") as file:
        for name, weight in fuse_weights(spec.model, weights, dtype).items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            index[name] = (file.tell(), tf.as_dtype(weight.dtype).name, weight.shape)
            file.write(np.ascontiguousarray(weight).reshape(-1).view(np.uint8).data)
    (folder / _INDEX).write_text(json.dumps(index), "utf-8")


def _write_graph(spec: EngineSpec, folder: Path, log: Log) -> None:
    layers = ", ".join(str(layer - spec.model.num_hidden_layers) for layer in spec.layers)
    log(f"build graph of layer {layers}, {spec.dtype}")
    tf = import_graph_api("the engine tensorflow")
    for file, fused_norm in ((_PLAIN, False), (_FUSED, True)):
        (folder / file).write_bytes(_graph(tf, spec, fused_norm))


def _graph(tf: Any, spec: EngineSpec, fused_norm: bool) -> bytes:
    """Returns a serialized ``GraphDef`` with a placeholder for each input and weight."""
    shapes = fused_shapes(spec)
    weights: dict[str, Any] = {}

    def weight(name: str) -> Any:
        if name not in weights:
            dtype, shape = shapes[name]
            weights[name] = tf.compat.v1.placeholder(dtype, shape, name=scoped(name))
        return weights[name]

    with tf.Graph().as_default() as graph:
        feeds = {
            name: tf.compat.v1.placeholder(dtype, [None] * rank, name=name) for name, (dtype, rank) in FEEDS.items()
        }
        outputs = GraphBuilder(tf, spec, weight, feeds, fused_norm).build()
        for name, output in zip((VECTORS, TOKENS), outputs, strict=True):
            tf.identity(output, name=name)
        return bytes(graph.as_graph_def().SerializeToString(deterministic=True))
