"""Adds self-attention to an ONNX graph: with relative biases, windows, rotary embeddings and disentangled scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from ...model.architecture import Disentangled, Rope
from ...model.config import ModelConfig
from ...model.relative_positions import (
    alibi_slopes,
    negative_distances,
    position_projections,
    position_rows,
    relative_bias,
    rotations,
)
from .blocks import Blocks, Table, relative_scores
from .graph import MICROSOFT, Dense, Graph
from .grid import Grid
from .layers import linear, product
from .one_query import OneQuery


class Attention:
    """Adds the attention of each layer. What layers have in common is added once."""

    def __init__(
        self,
        graph: Graph,
        model: ModelConfig,
        weights: Mapping[str, np.ndarray],
        dense: Dense,
        max_scores: int,
        grid: Grid,
    ) -> None:
        """
        Args:
            max_scores: maximum number of scores of one head, ``[n, T, T]``, that are computed at once.
        """
        self._graph, self._model, self._weights, self._dense = graph, model, weights, dense
        self._max_scores, self._grid = max_scores, grid
        self._common: dict[object, str] = {}

    def add(self, layer: int, scope: str, x: str, selected: str | None = None) -> str:
        """Adds attention, ``[t, hidden]`` to the same, or to ``[n, hidden]`` of the tokens ``selected``.

        Args:
            scope: prefix of the weights of the layer.
        """
        model, grid = self._model, self._grid
        rope, disentangled = model.architecture.rope_of(layer), model.architecture.disentangled
        names = tuple(f"{scope}/attention/self/{name}" for name in ("query", "key", "value"))
        given = (self._graph, self._weights, self._dense, x, f"{scope}/attention/self/qkv", names)
        if disentangled:
            query, key, value = grid.unpack_parts(linear(*given), model.hidden_size, 3)
            terms = 1 + disentangled.content_to_position + disentangled.position_to_content
            scale = (model.head_size * terms) ** -0.5
            added = self._disentangled(layer, query, key, disentangled, scale)
            return self._pack(self._attend(query, key, value, "", grid.attend, added, scale=scale), selected)
        if grid.has_padding:
            qkv = linear(*given)
            return self._attend_heads(layer, self._rotate(qkv, rope) if rope else (qkv,), selected)
        bias = ""
        if rope:
            rotated, value = self._rotate(linear(*given), rope)
            query, key = grid.unpack_parts(rotated, model.hidden_size, 2)
            value = grid.unpack(value)
        else:
            qkv, bias = product(*given)
            query, key, value = grid.unpack_parts(qkv, model.hidden_size, 3)
        return self._pack(self._attend_grid(layer, query, key, value, bias), selected)

    def _pack(self, attention: str, selected: str | None) -> str:
        """Adds packed tokens of the grid ``[n, T, hidden]``."""
        flat = self._graph.op("Reshape", attention, self._numbers(-1, self._model.hidden_size))
        return self._grid.pack(flat, selected)

    def _attend_heads(self, layer: int, parts: tuple[str, ...], selected: str | None) -> str:
        """Adds attention of the grids of all heads, which are selected and packed without another copy.

        Args:
            parts: packed tokens, which have queries, keys and values side by side.
        """
        graph, model, heads = self._graph, self._model, self._model.num_attention_heads
        query, key, value = (
            grid
            for part, count in zip(parts, (3,) if len(parts) == 1 else (2, 1), strict=True)
            for grid in self._grid.unpack_heads(part, heads, model.head_size, count)
        )
        added = self._once(("added", model.architecture.window_of(layer)), lambda: self._added(layer))

        def whole() -> str:
            scale = model.head_size**-0.5
            scores = graph.op("FusedMatMul", query, key, domain=MICROSOFT, transB=1, alpha=scale)
            weights = graph.op("Softmax", graph.op("Add", scores, added), axis=-1)
            return str(graph.op("MatMul", weights, value))

        def in_blocks() -> str:
            queries, keys, values = (
                graph.op("Reshape", graph.op("Transpose", each, perm=[0, 2, 1, 3]), self._numbers(0, 0, -1))
                for each in (query, key, value)
            )
            found = self._blocks(layer).add(self._attend, queries, keys, values, "")
            found = graph.op("Reshape", found, self._numbers(0, 0, heads, -1))
            return str(graph.op("Transpose", found, perm=[0, 2, 1, 3]))

        context = self._by_length(whole, in_blocks) if self._has_blocks else whole()
        return self._grid.pack_heads(context, heads, model.head_size, selected)

    def _added(self, layer: int) -> str:
        """Adds what is added to all scores of a layer, for masked keys and for relative positions."""
        masked, relative = self._graph.op("Unsqueeze", "bias", self._numbers(1, 2)), self._relative_bias(layer)
        return str(self._graph.op("Add", masked, relative)) if relative else str(masked)

    def add_selected(self, layer: int, scope: str, x: str, selected: str, any_selection: bool) -> str:
        """Adds attention of selected tokens, from ``[t, hidden]`` to ``[s, hidden]``.

        Args:
            scope: as that of ``add``.
            selected: the input with the indexes of one token of each sequence.
            any_selection: the input may also have the indexes of all tokens.
        """
        graph, grid = self._graph, self._grid
        one = OneQuery(graph, self._model, self._weights, scope, x, selected)
        tokens = grid.unpack(x)
        self._longest()  # both branches read it

        def attend(query: str, key: str, value: str, added: str) -> str:
            return self._attend(query, key, value, "", grid.attend, added, num_heads=1, scale=1.0)

        def add_one() -> str:
            return one.add(attend, tokens, self._selected_bias(layer, selected))

        def add_all() -> str:
            keys, values = (grid.unpack(graph.op("MatMul", x, kernel)) for kernel in one.kernels())
            found = self._attend_grid(layer, grid.unpack(one.query), keys, values, scale=1.0)
            return self._pack(found, None)

        if not any_selection:
            return one.add_bias(add_one())
        sequences = graph.op("Gather", graph.op("Shape", "unpack"), self._numbers(0))
        is_one = graph.op("Equal", graph.op("Shape", selected), sequences)
        branches = [graph.body(partial(_float, add)) for add in (add_one, add_all)]
        return one.add_bias(graph.op("If", is_one, then_branch=branches[0], else_branch=branches[1]))

    def _selected_bias(self, layer: int, selected: str) -> str:
        """Adds what is added to the scores of selected tokens, ``[n, 1, heads or 1, T]``; empty for nothing."""
        graph, table = self._graph, self._table(layer)
        if not table.values:
            return ""
        positions = graph.op("Cast", graph.op("Gather", "positions", selected), to=TensorProto.INT64)
        scores = relative_scores(graph, self._model, table, positions, self._range())
        return str(graph.op("Transpose", scores, perm=[2, 0, 1, 3]))

    def _attend_grid(self, layer: int, query: str, key: str, value: str, bias: str = "", **attributes: Any) -> str:
        """Adds attention of all queries, ``[n, T, hidden]``; the arguments are those of ``_attend``."""
        attend, added = partial(self._attend, **attributes), self._relative_bias(layer)

        def whole() -> str:
            return attend(query, key, value, bias, self._grid.attend, added)

        def in_blocks() -> str:
            return self._blocks(layer).add(attend, query, key, value, bias)

        return self._by_length(whole, in_blocks) if self._has_blocks else whole()

    def _attend(self, *inputs: str, **attributes: Any) -> str:
        """Adds the operator of attention.

        Args:
            inputs: queries, keys, values, their bias, the keys to use, and what is added to the scores; the last three
                may be empty.
        """
        count = max(number for number, name in enumerate(inputs, 1) if name)
        attributes = {"num_heads": self._model.num_attention_heads, **attributes}
        return str(
            self._graph.op(
                "MultiHeadAttention",
                *inputs[:count],
                domain=MICROSOFT,
                mask_filter_value=-10000.0,
                **attributes,
            )
        )

    @property
    def _has_blocks(self) -> bool:
        """Whether a sequence may have too many scores for all queries at once."""
        return self._model.max_tokens**2 > self._max_scores

    def _blocks(self, layer: int) -> Blocks:
        """Returns the attention of a layer in blocks of queries."""
        window, table = self._model.architecture.window_of(layer), self._table(layer)
        return Blocks(self._graph, self._model, self._max_scores, window, table, self._grid.attend)

    def _by_length(self, whole: Callable[[], str], in_blocks: Callable[[], str]) -> str:
        """Adds attention of all queries at once, or of blocks of queries if there are too many scores."""
        graph = self._graph
        is_short = self._is_short()
        branches = [graph.body(partial(_float, add)) for add in (whole, in_blocks)]
        return str(graph.op("If", is_short, then_branch=branches[0], else_branch=branches[1]))

    def _is_short(self) -> str:
        """Adds whether the scores of all queries may be computed at once, a bool."""
        graph = self._graph

        def add() -> str:
            size, longest = graph.op("Size", "unpack"), self._longest()
            limit = self._numbers(self._max_scores)
            return str(graph.op("LessOrEqual", graph.op("Mul", size, longest), limit))

        return self._once("is short", add)

    def _rotate(self, qkv: str, rope: Rope) -> tuple[str, str]:
        """Rotates queries and keys, ``[t, 3 hidden]`` to ``[t, 2 hidden]``, and gives the values, ``[t, hidden]``."""
        graph, hidden = self._graph, self._model.hidden_size
        both, value = graph.op("Split", qkv, self._numbers(2 * hidden, hidden), outputs=2, axis=-1)

        def positions() -> str:
            # Each token is a sequence of its own: the operator limits the length of a sequence, not their number.
            return str(graph.op("Unsqueeze", graph.op("Cast", "positions", to=TensorProto.INT64), self._numbers(1)))

        def table(number: int) -> Callable[[], str]:
            return lambda: graph.table(rotations(self._model, rope)[number], f"rotations {rope} {number}")

        rotated = graph.op(
            "RotaryEmbedding",
            graph.op("Unsqueeze", both, self._numbers(1)),
            self._once("positions", positions),
            self._once(("cosine", rope), table(0)),
            self._once(("sine", rope), table(1)),
            domain=MICROSOFT,
        )
        return graph.op("Squeeze", rotated, self._numbers(1)), value

    def _relative_bias(self, layer: int) -> str:
        """Adds what a layer adds to its scores, ``[1, heads, T, T]`` or ``[1, 1, T, T]``; empty for nothing.

        If blocks of queries are computed, it is a single zero.
        """
        table = self._table(layer)

        def add() -> str:
            if self._has_blocks:
                return self._blocks(layer).whole_bias(self._is_short())
            positions = self._range()
            return relative_scores(self._graph, self._model, table, positions, positions)

        return self._once(("bias", self._model.architecture.window_of(layer)), add) if table.values else ""

    def _table(self, layer: int) -> Table:
        """Adds the table of what a layer adds to its scores by relative position."""
        graph, architecture = self._graph, self._model.architecture
        window = architecture.window_of(layer)
        if architecture.alibi and not (window or architecture.relative_buckets):
            # The heads differ by a factor: selecting from one row is faster than from the rows of all heads.
            values = self._once("distances", lambda: graph.table(negative_distances(self._model), "distances", axis=1))
            slopes = np.array(alibi_slopes(self._model.num_attention_heads), np.float32)
            return Table(values, graph.tensor(slopes[None, :, None, None], "slopes"))

        def add() -> str:
            table = relative_bias(self._model, self._weights, layer)
            return "" if table is None else graph.table(table, f"relative bias {window}", axis=1)

        return Table(self._once(("table", window), add))

    def _longest(self) -> str:
        """Adds the length of the longest sequence, int64 ``[1]``."""
        return self._once(
            "longest", lambda: self._graph.op("Gather", self._graph.op("Shape", "unpack"), self._numbers(1))
        )

    def _range(self) -> str:
        """Adds the positions of the grid, int64 ``[T]``."""
        return str(self._graph.op("Range", self._numbers(0), self._longest(), self._numbers(1)))

    def _disentangled(self, layer: int, query: str, key: str, disentangled: Disentangled, scale: float) -> str:
        """Adds the scores between tokens and relative positions, ``[n, heads, T, T]``; empty for none."""
        keys, queries = position_projections(self._model, self._weights, layer)
        scope = f"encoder/layer_{self._model.architecture.weights_of(layer)}/positions"
        rows = position_rows(self._model, disentangled)
        found = []
        if keys is not None:
            found.append(self._position_scores(query, keys * np.float32(scale), rows, f"{scope}/key"))
        if queries is not None:
            scores = self._position_scores(key, queries * np.float32(scale), rows[::-1], f"{scope}/query")
            found.append(self._graph.op("Transpose", scores, perm=[0, 1, 3, 2]))
        if not found:
            return ""
        return found[0] if len(found) == 1 else str(self._graph.op("Add", *found))

    def _position_scores(self, x: str, projected: np.ndarray, rows: np.ndarray, scope: str) -> str:
        """Adds the scores of tokens with the positions of all other tokens relative to them.

        Args:
            x: queries or keys, ``[n, T, hidden]``.
            projected: keys or queries of the table of positions, ``[2 span, hidden]``.
            rows: row of the table by distance of the other token, int ``[2 M - 1]``.

        Returns:
            ``[n, heads, T, T]``: the token, the other token.
        """
        graph, heads, size = self._graph, self._model.num_attention_heads, self._model.head_size
        direction = scope.rpartition("/")[2]

        def nearest() -> str:
            # Rows of the distances from 1 - T to T - 1, int64 [2 T - 1].
            middle, longest = self._numbers(self._model.max_tokens), self._longest()
            start, end = graph.op("Sub", middle, longest), graph.op("Add", middle, self._last())
            return str(
                graph.op("Slice", graph.table(rows.astype(np.int64), f"rows {direction}"), start, end, self._numbers(0))
            )

        table = self._once(scope, lambda: graph.table(projected, scope))
        near = graph.op("Gather", table, self._once(("rows", direction), nearest))
        near = graph.op("Reshape", near, self._numbers(-1, heads, size))
        near = graph.op("Unsqueeze", graph.op("Transpose", near, perm=[1, 2, 0]), self._numbers(0))
        tokens = graph.op("Reshape", x, self._numbers(0, 0, heads, size))
        tokens = graph.op("Transpose", tokens, perm=[0, 2, 1, 3])
        return self._skew(graph.op("MatMul", tokens, near))

    def _last(self) -> str:
        """Adds ``T - 1``, int64 ``[1]``."""
        return self._once("last", lambda: self._graph.op("Sub", self._longest(), self._numbers(1)))

    def _skew(self, by_distance: str) -> str:
        """Moves scores from their distance to their token: ``out[i, j] = in[i, j - i + T - 1]``.

        With one more column, ``2 T``, element ``[i, j - i + T - 1]`` is number ``i (2 T - 1) + j + T - 1`` of the flat
        array: from ``T - 1`` on, the rows of the result are the first ``T`` elements of rows of width ``2 T - 1``.
        """
        graph, longest, last = self._graph, self._longest(), self._last()
        heads = self._numbers(0, self._model.num_attention_heads)

        def end() -> str:
            return str(graph.op("Add", graph.op("Mul", longest, self._once("width", width)), last))

        def width() -> str:
            return str(graph.op("Add", longest, last))

        def shape() -> str:
            return str(graph.op("Concat", heads, longest, self._once("width", width), axis=0))

        padded = graph.op("Pad", by_distance, self._numbers(0, 0, 0, 0, 0, 0, 0, 1))
        flat = graph.op("Reshape", padded, self._numbers(0, self._model.num_attention_heads, -1))
        cut = graph.op("Slice", flat, last, self._once("end", end), self._numbers(-1))
        rows = graph.op("Reshape", cut, self._once("shape", shape))
        return str(graph.op("Slice", rows, self._numbers(0), longest, self._numbers(-1)))

    def _numbers(self, *numbers: int) -> str:
        """Adds a constant, int64, once."""
        return self._graph.tensor(np.array(numbers), f"numbers {numbers}")

    def _once(self, key: object, add: Callable[[], str]) -> str:
        """Returns what ``add`` returned at the first call with this key."""
        if key not in self._common:
            self._common[key] = add()
        return self._common[key]


def _float(add: Callable[[], str]) -> list[tuple[str, int]]:
    """Returns the output of a body that adds a float."""
    return [(add(), TensorProto.FLOAT)]
