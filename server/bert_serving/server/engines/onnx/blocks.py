"""Adds attention in blocks of queries to an ONNX graph, for sequences whose scores do not fit at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from ...model.config import ModelConfig
from .graph import Graph


class Table(NamedTuple):
    """Names of constants: what is added to the scores of queries and keys, by relative position.

    Attributes:
        values: ``[heads or 1, 2 M - 1]``, see ``model.relative_positions``; empty for nothing.
        slopes: factor of each head, ``[1, heads, 1, 1]``; empty for none.
    """

    values: str
    slopes: str = ""


def relative_scores(graph: Graph, model: ModelConfig, table: Table, queries: str, keys: str) -> str:
    """Adds what is added to the scores of queries and keys, ``[1, heads or 1, q, k]``.

    Args:
        queries, keys: their positions, int64 ``[q]`` and ``[k]``.
    """
    zero, one = (graph.tensor(np.array([axis]), f"numbers {(axis,)}") for axis in (0, 1))
    middle = graph.tensor(np.array([model.max_tokens - 1]), f"numbers {(model.max_tokens - 1,)}")
    distance = graph.op("Sub", graph.op("Unsqueeze", keys, zero), graph.op("Unsqueeze", queries, one))
    # Queries behind the longest sequence fill the last block.
    columns = graph.op("Max", graph.op("Add", distance, middle), zero)
    found = str(graph.op("Unsqueeze", graph.op("Gather", table.values, columns, axis=1), zero))
    return str(graph.op("Mul", found, table.slopes)) if table.slopes else found


class Blocks:
    """Attention of one layer in blocks of queries."""

    def __init__(
        self, graph: Graph, model: ModelConfig, max_scores: int, window: int, table: Table, attend: str
    ) -> None:
        """
        Args:
            max_scores: maximum number of scores of one head that are computed at once; at least one query is.
            window: greatest distance of queries and keys; 0 for any.
            table: what is added to the scores.
            attend: the keys to use, ``[n, T]``; empty for all.
        """
        self._graph, self._model, self._max_scores = graph, model, max_scores
        self._window, self._table, self._attend = window, table, attend

    def whole_bias(self, is_short: str) -> str:
        """Adds what is added to the scores of all queries, if they are computed at once; else a single zero."""
        graph = self._graph

        def whole() -> list[tuple[str, int]]:
            positions = graph.op("Range", self._numbers(0), self._size(1), self._numbers(1))
            return [(relative_scores(graph, self._model, self._table, positions, positions), TensorProto.FLOAT)]

        def none() -> list[tuple[str, int]]:
            zero = graph.tensor(np.zeros((1, 1, 1, 1), np.float32), "no scores")
            return [(graph.op("Identity", zero), TensorProto.FLOAT)]

        return str(graph.op("If", is_short, then_branch=graph.body(whole), else_branch=graph.body(none)))

    def add(self, attend: Callable[..., str], query: str, key: str, value: str, bias: str) -> str:
        """Adds the blocks, and returns the name of their result, ``[n, T, hidden]``.

        Args:
            attend: adds attention, see ``Attention``.
        """
        graph, zero, one = self._graph, self._numbers(0), self._numbers(1)
        sequences, longest = self._size(0), self._size(1)
        rows = graph.op("Mul", sequences, longest)
        size = graph.op("Max", graph.op("Div", self._numbers(self._max_scores), rows), one)
        count = graph.op("Div", graph.op("Sub", graph.op("Add", longest, size), one), size)
        # Every block has the same size, as a loop requires: zeros fill the last one.
        missing = graph.op("Sub", graph.op("Mul", count, size), longest)
        padding = graph.op("Concat", self._numbers(0, 0, 0, 0), missing, zero, axis=0)
        queries = graph.op("Pad", query, padding)

        def block(number: str, condition: str) -> list[tuple[str, int]]:
            start = graph.op("Mul", graph.op("Unsqueeze", number, zero), size)
            end = graph.op("Add", start, size)
            part = graph.op("Slice", queries, start, end, one)
            first, last, keys, values, used = zero, longest, key, value, self._attend
            if self._window:
                distance = self._numbers(self._window)
                first = graph.op("Max", graph.op("Sub", start, distance), zero)
                last = graph.op("Min", graph.op("Add", end, distance), longest)
                keys, values, used = (
                    graph.op("Slice", each, first, last, one) if each else "" for each in (key, value, self._attend)
                )
            added = ""
            if self._table.values:
                positions = [graph.op("Range", *bounds, one) for bounds in ((start, end), (first, last))]
                added = relative_scores(graph, self._model, self._table, *positions)
            found = attend(part, keys, values, bias, used, added)
            return [(graph.op("Identity", condition), TensorProto.BOOL), (found, TensorProto.FLOAT)]

        body = graph.body(block, number=TensorProto.INT64, condition=TensorProto.BOOL)
        found = graph.op("Loop", count, "", body=body)
        found = graph.op(
            "Reshape", graph.op("Transpose", found, perm=[1, 0, 2, 3]), self._numbers(0, -1, self._model.hidden_size)
        )
        return str(graph.op("Slice", found, zero, longest, one))

    def _size(self, axis: int) -> str:
        """Adds the number of sequences or the length of the longest one, int64 ``[1]``."""
        return str(self._graph.op("Gather", self._graph.op("Shape", "unpack"), self._numbers(axis)))

    def _numbers(self, *numbers: int) -> str:
        return self._graph.tensor(np.array(numbers), f"numbers {numbers}")
