"""Moves packed tokens to the padded grid of attention and back."""

from __future__ import annotations

import numpy as np

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
