"""Moves packed tokens to the padded grid of attention and back."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from ..batch import Batch
from ..layout import Layout
from .graph import Graph

#: Minimum number of tokens of a long sequence: its matrix products are as fast alone as beside others.
LONG_TOKENS = 192


def is_long(layout: Layout) -> bool:
    """Returns whether all sequences are long, of one length, and without masked tokens."""
    has_padding = layout.unpack.size != len(layout.pack)
    return layout.unpack.shape[1] >= LONG_TOKENS and not has_padding and bool(layout.mask.all())


def split_long(batch: Batch) -> tuple[list[np.ndarray], np.ndarray]:
    """Selects the long sequences without masked tokens. Whether a sequence is one depends on its own tokens alone.

    Returns:
        indexes of long sequences, in groups of equal length, and indexes of all others.
    """
    starts = np.cumsum(batch.lengths) - batch.lengths
    is_long = (batch.lengths >= LONG_TOKENS) & (np.minimum.reduceat(batch.mask, starts) != 0)
    found = np.flatnonzero(is_long)
    order = found[np.argsort(batch.lengths[found], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(batch.lengths[order])) + 1)
    return [group for group in groups if len(group)], np.flatnonzero(~is_long)


class Grid:
    """The grid ``[n, T]`` of one body. For long sequences of one length, it is the packed tokens, and none is copied.

    Attributes:
        attend: the input that masks the keys of attention; empty for none. Without mask and without added scores, ONNX
            Runtime has a kernel that keeps the scores in the cache of a core. It adds in another order.
    """

    def __init__(self, graph: Graph, is_long: bool) -> None:
        self._graph, self._shape = graph, ""
        self._parts: dict[int, list[str]] = {}
        self._heads: dict[int, list[str]] = {}
        self._packed_heads = ""
        self.has_padding = not is_long
        self.attend = "" if is_long else "attend"

    def unpack(self, x: str) -> str:
        """Adds the grid ``[n, T, d]`` of packed tokens ``[t, d]``."""
        graph = self._graph
        if self.has_padding:
            return str(graph.op("Gather", x, "unpack"))
        if not self._shape:
            rest = graph.tensor(np.array([-1]), f"numbers {(-1,)}")
            self._shape = graph.op("Concat", graph.op("Shape", "unpack"), rest, axis=0)
        return str(graph.op("Reshape", x, self._shape))

    def unpack_parts(self, x: str, hidden: int, count: int) -> list[str]:
        """Adds the grids ``[n, T, hidden]`` of parts that packed tokens ``[t, count hidden]`` have side by side.

        Each part is selected as a row of its own, so that none is copied twice.
        """
        graph = self._graph
        if not self.has_padding:
            return list(graph.op("Split", self.unpack(x), outputs=count, axis=-1, num_outputs=count))
        if count not in self._parts:
            first = graph.op("Mul", "unpack", graph.tensor(np.int32(count), f"int32 {count}"))
            others = [graph.tensor(np.int32(part), f"int32 {part}") for part in range(1, count)]
            self._parts[count] = [first, *(graph.op("Add", first, part) for part in others)]
        rows = graph.op("Reshape", x, graph.tensor(np.array([-1, hidden]), f"numbers {(-1, hidden)}"))
        return [graph.op("Gather", rows, part) for part in self._parts[count]]

    def pack(self, flat: str, selected: str | None = None) -> str:
        """Adds packed tokens ``[t, d]`` of the flat grid ``[n T, d]``, or ``[n, d]`` of the tokens ``selected``."""
        graph = self._graph
        if self.has_padding:
            return str(graph.op("Gather", flat, graph.op("Gather", "pack", selected) if selected else "pack"))
        return str(graph.op("Gather", flat, selected)) if selected else flat

    def unpack_heads(self, x: str, heads: int, size: int, count: int) -> list[str]:
        """Adds the grids ``[n, heads, T, size]`` of parts that packed tokens have side by side, with padding.

        Each part of a head is selected as a row of its own.
        """
        graph = self._graph
        if count not in self._heads:
            first = graph.op("Mul", "unpack", graph.tensor(np.int32(count * heads), f"int32 {count * heads}"))
            first = graph.op("Unsqueeze", first, graph.tensor(np.array([1]), f"numbers {(1,)}"))
            rows = np.arange(count * heads, dtype=np.int32).reshape(count, heads, 1)
            self._heads[count] = [graph.op("Add", first, graph.tensor(row)) for row in rows]
        found = graph.op("Reshape", x, graph.tensor(np.array([-1, size]), f"numbers {(-1, size)}"))
        return [graph.op("Gather", found, part) for part in self._heads[count]]

    def pack_heads(self, x: str, heads: int, size: int, selected: str | None) -> str:
        """Adds packed tokens of the grid ``[n, heads, T, size]``; see ``pack``."""
        graph = self._graph

        def number(value: int) -> str:
            return graph.tensor(np.int32(value), f"int32 {value}")

        if not self._packed_heads:
            # Before a sequence are ``pack - positions`` rows of one head.
            first = graph.op("Mul", "pack", number(heads))
            first = graph.op("Sub", first, graph.op("Mul", "positions", number(heads - 1)))
            shape = graph.op("Cast", graph.op("Shape", "unpack", start=1), to=TensorProto.INT32)
            steps = graph.op("Mul", shape, graph.tensor(np.arange(heads, dtype=np.int32)))
            last = graph.tensor(np.array([-1]), f"numbers {(-1,)}")
            self._packed_heads = graph.op("Add", graph.op("Unsqueeze", first, last), steps)
        rows = graph.op("Gather", self._packed_heads, selected) if selected else self._packed_heads
        flat = graph.op("Reshape", x, graph.tensor(np.array([-1, size]), f"numbers {(-1, size)}"))
        width = graph.tensor(np.array([-1, heads * size]), f"numbers {(-1, heads * size)}")
        return str(graph.op("Reshape", graph.op("Gather", flat, rows), width))
