"""Adds the attention of one token of each sequence to an ONNX graph, without keys and values of the other tokens.

The score of a query ``q`` and a token ``x`` is ``q · (x K)``, which is ``(q Kᵀ) · x``. The sum of the values by the
weights ``p`` is ``p (x V)``, which is ``(p x) V``. So the kernels ``K`` and ``V`` of a head multiply one row of each
sequence in place of one of each token. The bias of keys adds the same number to all scores of a query, so it has no
effect. That of values is added to their sum, because the weights of a query sum up to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...model.architecture import Architecture
from ...model.config import ModelConfig
from .graph import MICROSOFT, Graph, dense_fp32
from .layers import linear

#: ``(queries, keys, values, what is added to the scores)`` to the sums of values.
Attend = Callable[[str, str, str, str], str]


def has_one_query(architecture: Architecture) -> bool:
    """Returns whether the score of a token depends on its position by an added number alone."""
    return not (architecture.rope or architecture.disentangled)


class OneQuery:
    """The weights of the attention of one layer, in fp32.

    Attributes:
        query: queries of the selected tokens, ``[s, hidden]``.
    """

    def __init__(
        self, graph: Graph, model: ModelConfig, weights: Mapping[str, np.ndarray], scope: str, x: str, selected: str
    ) -> None:
        """
        Args:
            scope: prefix of the weights of the layer.
            x: ``[t, hidden]``.
            selected: indexes of tokens.
        """
        self._graph, self._model, scope = graph, model, f"{scope}/attention/self"
        shape = (model.hidden_size, model.num_attention_heads, model.head_size)
        self.query = linear(graph, weights, dense_fp32, graph.op("Gather", x, selected), f"{scope}/query")
        key, value = (weights[f"{scope}/{name}/kernel"].reshape(shape) for name in ("key", "value"))
        scaled = key.transpose(1, 2, 0) * np.float32(model.head_size**-0.5)
        self._key = graph.tensor(scaled, f"{scope}/key/heads")
        self._value = graph.tensor(value.transpose(1, 2, 0), f"{scope}/value/heads")
        bias = weights.get(f"{scope}/value/bias")
        self._bias = "" if bias is None else graph.tensor(bias, f"{scope}/value/bias")

    def add(self, attend: Attend, tokens: str, added: str) -> str:
        """Adds the sums of values of one query of each sequence, ``[n, hidden]``.

        Args:
            attend: adds attention with a single head.
            tokens: ``[n, T, hidden]``.
            added: what is added to the scores, ``[n, 1, heads, T]``; empty for nothing.
        """
        graph, heads, size = self._graph, self._model.num_attention_heads, self._model.head_size
        query = graph.op("Reshape", self.query, self._numbers(-1, heads, size))
        rows = graph.op("MatMul", graph.op("Transpose", query, perm=[1, 0, 2]), self._key)
        sums = attend(graph.op("Transpose", rows, perm=[1, 0, 2]), tokens, tokens, added)
        sums = graph.op("Transpose", sums, perm=[1, 0, 2])
        values = graph.op("FusedMatMul", sums, self._value, domain=MICROSOFT, transB=1)
        values = graph.op("Transpose", values, perm=[1, 0, 2])
        return str(graph.op("Reshape", values, self._numbers(-1, self._model.hidden_size)))

    def kernels(self) -> tuple[str, str]:
        """Adds the kernels of keys and values, ``[hidden, hidden]``; the scores of these keys need no scale."""
        graph, shape = self._graph, self._numbers(self._model.hidden_size, self._model.hidden_size)
        key = graph.op("Transpose", self._key, perm=[2, 0, 1])
        value = graph.op("Transpose", self._value, perm=[2, 0, 1])
        return graph.op("Reshape", key, shape), graph.op("Reshape", value, shape)

    def add_bias(self, values: str) -> str:
        """Adds the bias of values to their sums."""
        return str(self._graph.op("Add", values, self._bias)) if self._bias else values

    def _numbers(self, *numbers: int) -> str:
        return self._graph.tensor(np.array(numbers), f"numbers {numbers}")
