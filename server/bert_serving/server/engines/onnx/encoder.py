"""Builds the encoder as an ONNX graph over packed tokens, with operators that are fast in ONNX Runtime.

Dense layers compute packed tokens, ``[t, hidden]``. Only attention uses the padded grid ``[n, T]``: a Gather unpacks
the tokens and one packs them again. The graph has no layer above the highest pooling layer. If the pooling strategy
needs one token of a sequence, the highest layer computes only that token, see ``one_query``. The encoder is that of
Devlin et al., https://arxiv.org/abs/1810.04805, with the differences that ``model.architecture`` describes.

The optimizer of ONNX Runtime is off: on the CPU its ``SkipLayerNormalization`` takes nine times as long as ``Add`` and
``LayerNormalization``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto

from ...model.pooling import PoolingStrategy
from ..base import EngineSpec
from .attention import Attention
from .graph import Dense, Graph, dense_fp32
from .grid import Grid
from .layers import activate, linear, product
from .one_query import has_one_query

#: The input of ``FEEDS`` that selects the token of a strategy.
_ONE_TOKEN = {
    PoolingStrategy.CLS_TOKEN: "first",
    PoolingStrategy.SEP_TOKEN: "last",
    PoolingStrategy.CLS_POOLED: "first",
}


def build(
    spec: EngineSpec,
    weights: Mapping[str, np.ndarray],
    dense: Dense = dense_fp32,
    max_scores: int = 1 << 20,
    has_tokens: bool = False,
    any_batch: bool = False,
    constants: dict[str, np.ndarray] | None = None,
) -> onnx.ModelProto:
    """Returns the graph from token ids to vectors: its first output is ``[n, d]``, or ``[t, d]`` without pooling.

    The graph has a body for long sequences of one length and one for all other batches, with common weights. The input
    ``is_long`` selects one. ONNX Runtime prepacks no weights for a body within these.

    Args:
        spec: what to compute; ``dtype`` is ignored.
        weights: canonical weights, see ``model.weights``, at least of the layers up to the highest pooling layer.
        dense: adds the dense layers of the encoder.
        max_scores: maximum number of attention scores of one head, ``[n, T, T]``, that are computed at once.
        has_tokens: the last output is the vectors of tokens before pooling, float32 ``[t, d]``. With a strategy of one
            token they are those of the tokens that the input ``first`` or ``last`` selects.
        any_batch: one graph for all batches, without bodies. A ``dense`` that adds outputs requires it.
        constants: as that of ``Graph``.

    Raises:
        ValueError: the model has no such pooling layer.
    """
    graph = Graph(constants)

    def vectors(is_long: bool) -> list[tuple[str, int]]:
        encoder = _Encoder(graph, spec, weights, dense, max_scores, Grid(graph, is_long), has_tokens)
        return _vectors(graph, spec, encoder, weights, has_tokens)

    if any_batch:
        graph.outputs[:0] = vectors(False)
        return graph.model()
    long, others = (graph.body(partial(vectors, is_long)) for is_long in (True, False))
    kinds = [output.type.tensor_type.elem_type for output in long.output]
    found = graph.op("If", "is_long", outputs=len(kinds), then_branch=long, else_branch=others)
    graph.outputs += zip([found] if len(kinds) == 1 else found, kinds, strict=True)
    return graph.model()


def _vectors(
    graph: Graph, spec: EngineSpec, encoder: _Encoder, weights: Mapping[str, np.ndarray], has_tokens: bool
) -> list[tuple[str, int]]:
    """Adds everything from token ids to vectors, and returns names and element types of the outputs."""
    layers = spec.layers
    strategy = PoolingStrategy.from_string(spec.pooling_strategy)
    selected = _ONE_TOKEN.get(strategy)
    embeddings = x = encoder.embeddings()
    hidden: dict[int, str] = {}
    for layer in range(max(layers) + 1):
        is_top = layer == max(layers)
        chosen = selected if is_top and selected else None
        x = encoder.layer(layer, x, chosen)
        if layer == 0 and spec.model.architecture.convolution:
            x = encoder.convolution(embeddings, x, chosen)
        if layer in layers:
            output = encoder.final_norm(layer, x)
            hidden[layer] = graph.op("Gather", output, selected) if selected and not is_top else output
    vectors = [hidden[layer] for layer in layers]
    x = vectors[0] if len(vectors) == 1 else graph.op("Concat", *vectors, axis=-1)
    tokens = x
    x = _pool(graph, strategy, weights, x)
    kind = TensorProto.FLOAT16 if spec.output_dtype == "float16" else TensorProto.FLOAT
    if kind != TensorProto.FLOAT:
        x = graph.op("Cast", x, to=kind)
    outputs: list[tuple[str, int]] = [(x, kind)]
    if has_tokens and x != tokens:
        outputs.append((tokens, TensorProto.FLOAT))
    return outputs


class _Encoder:
    """Adds the parts of an encoder to a graph."""

    def __init__(
        self,
        graph: Graph,
        spec: EngineSpec,
        weights: Mapping[str, np.ndarray],
        dense: Dense,
        max_scores: int,
        grid: Grid,
        has_tokens: bool,
    ) -> None:
        self._graph, self._spec, self._weights, self._dense = graph, spec, weights, dense
        self._model, self._architecture = spec.model, spec.model.architecture
        self._attention = Attention(graph, spec.model, weights, dense, max_scores, grid)
        self._grid, self._has_tokens = grid, has_tokens
        # Sums of one query have another order in other company. Rounding to integers would enlarge the difference.
        self._one_query = dense is dense_fp32 and not spec.deterministic and has_one_query(self._architecture)

    def embeddings(self) -> str:
        """Adds the sum of the embeddings, normalized and projected to ``[t, hidden]``."""
        graph, weights = self._graph, self._weights
        x = graph.op("Gather", graph.table(weights["embeddings/word_embeddings"], "words"), "input_ids")
        if self._architecture.has_types:
            types = graph.table(weights["embeddings/token_type_embeddings"], "types")
            x = graph.op("Add", x, graph.op("Gather", types, "type_ids"))
        if self._architecture.has_positions and self._spec.use_position_embeddings:
            table = graph.table(weights["embeddings/position_embeddings"], "positions")
            x = graph.op("Add", x, graph.op("Gather", table, "positions"))
        is_projected = self._architecture.embedding_size > 0
        if is_projected and not self._architecture.norm_before_projection:
            return self._norm("embeddings/LayerNorm", self._linear(x, "embeddings/projection", dense_fp32))
        x = self._norm("embeddings/LayerNorm", x)
        return self._linear(x, "embeddings/projection", dense_fp32) if is_projected else x

    def layer(self, layer: int, x: str, selected: str | None) -> str:
        """Adds one layer: ``[t, hidden]`` to the same, or to ``[n, hidden]`` for a selected token per sequence."""
        graph, pre_norm = self._graph, self._architecture.pre_norm
        scope = f"encoder/layer_{self._architecture.weights_of(layer)}"
        normed = x
        if pre_norm and (layer > 0 or self._architecture.first_norm):
            normed = self._norm(f"{scope}/attention/LayerNorm", x)
        if selected and self._one_query:
            attention = self._attention.add_selected(layer, scope, normed, selected, self._has_tokens)
        else:
            attention = self._attention.add(layer, scope, normed, selected)
        rows = "t"
        if selected:
            x, rows = graph.op("Gather", x, selected), "n"
        x = graph.op("Add", self._linear(attention, f"{scope}/attention/output/dense", self._dense, rows), x)
        if not pre_norm:
            x = self._norm(f"{scope}/attention/output/LayerNorm", x)
        normed = self._norm(f"{scope}/intermediate/LayerNorm", x) if pre_norm else x
        x = graph.op(
            "Add", self._linear(self._inner(scope, normed, rows), f"{scope}/output/dense", self._dense, rows), x
        )
        return x if pre_norm else self._norm(f"{scope}/output/LayerNorm", x)

    def final_norm(self, layer: int, x: str) -> str:
        """Adds the normalization of the last layer's output, if the model has one."""
        is_last = layer == self._model.num_hidden_layers - 1
        return self._norm("encoder/LayerNorm", x) if self._architecture.final_norm and is_last else x

    def convolution(self, embeddings: str, x: str, selected: str | None) -> str:
        """Adds the convolution of the embeddings to the output of the first layer, and normalizes the sum."""
        graph, convolution = self._graph, self._architecture.convolution
        assert convolution is not None
        grid = self._grid.unpack(embeddings)
        if self._grid.has_padding:
            last = graph.tensor(np.array([-1]))
            grid = graph.op("Mul", grid, graph.op("Unsqueeze", graph.op("Cast", "attend", to=TensorProto.FLOAT), last))
        kernel = self._weights["encoder/convolution/kernel"].transpose(2, 1, 0)
        found = graph.op(
            "Conv",
            graph.op("Transpose", grid, perm=[0, 2, 1]),
            graph.tensor(kernel, "encoder/convolution/kernel"),
            graph.tensor(self._weights["encoder/convolution/bias"], "encoder/convolution/bias"),
            group=convolution.groups,
            pads=[convolution.width // 2] * 2,
        )
        flat = graph.op("Transpose", found, perm=[0, 2, 1])
        flat = graph.op("Reshape", flat, graph.tensor(np.array([-1, self._model.hidden_size])))
        found = self._grid.pack(flat, selected)
        total = graph.op("Add", x, activate(graph, convolution.act, found))
        return self._norm("encoder/convolution/LayerNorm", total)

    def _inner(self, scope: str, x: str, rows: str) -> str:
        """Adds the inner layer of the feed-forward with its activation."""
        act, name = self._model.hidden_act, f"{scope}/intermediate/dense"
        given = (self._graph, self._weights, self._dense, x, name)
        if not self._architecture.gated:
            return activate(self._graph, act, *product(*given, rows=rows))
        total = linear(*given, (name, f"{scope}/intermediate/up"), rows)
        inner, up = self._graph.op("Split", total, outputs=2, axis=-1, num_outputs=2)
        return str(self._graph.op("Mul", activate(self._graph, act, inner), up))

    def _linear(self, x: str, scope: str, dense: Dense, rows: str = "t") -> str:
        return linear(self._graph, self._weights, dense, x, scope, rows=rows)

    def _norm(self, scope: str, x: str) -> str:
        """Adds a layer normalization."""
        names = [f"{scope}/{name}" for name in ("gamma", "beta") if f"{scope}/{name}" in self._weights]
        tensors = [self._graph.tensor(self._weights[name], name) for name in names]
        return str(self._graph.op("LayerNormalization", x, *tensors, axis=-1, epsilon=self._model.layer_norm_eps))


def _pool(graph: Graph, strategy: PoolingStrategy, weights: Mapping[str, np.ndarray], x: str) -> str:
    """Adds pooling of ``[t, d]``, or of ``[n, d]`` with one selected token per sequence; 0 if all tokens are masked."""
    if strategy is PoolingStrategy.CLS_POOLED:
        kernel, bias = (graph.tensor(weights[name], name) for name in ("pooler/dense/kernel", "pooler/dense/bias"))
        return str(graph.op("Tanh", graph.op("Gemm", x, kernel, bias)))
    if strategy in _ONE_TOKEN:
        return x
    last = graph.tensor(np.array([-1]))
    if strategy is PoolingStrategy.NONE:
        of_token = graph.op("Gather", graph.op("Reshape", "mask", last), "pack")
        return str(graph.op("Mul", x, graph.op("Unsqueeze", of_token, last)))
    # The time is the first axis, so that the reduction adds the tokens of each sequence one after the other. With time
    # in the middle, ONNX Runtime has several orders, and the number of sequences selects one.
    time = graph.tensor(np.array([0]))
    grid = graph.op("Gather", x, graph.op("Transpose", "unpack", perm=[1, 0]))
    mask = graph.op("Unsqueeze", graph.op("Transpose", "mask", perm=[1, 0]), last)
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
