"""Combines the vectors of the parts of long texts."""

from __future__ import annotations

from typing import Any

import numpy as np


def combine_parts(
    array: np.ndarray, parts: dict[int, bytes], metadata: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the array and the metadata of a reply.

    Args:
        array: vectors of all parts, ``[n, d]``.
        parts: as those of ``SinkJob``.
        metadata: ``long`` of the announcement is removed.
    """
    metadata = dict(metadata)
    long = metadata.pop("long")
    rows = np.frombuffer(b"".join(parts[row] for row in sorted(parts)), np.int32).reshape(-1, 4)
    if long == "mean":
        return average(array, rows), metadata
    return array, metadata | {"parts": rows[:, :3]}


def average(array: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Returns the mean of the vectors of each text, weighted by tokens, ``[m, d]`` of the same dtype.

    A text of one part keeps its vector. The sums run in the order of the parts, in float32, so equal vectors give equal
    means.

    Args:
        parts: row of the text, offsets and weight of each part, int32 ``[n, 4]``.
    """
    starts = np.flatnonzero(np.diff(parts[:, 0], prepend=-1))
    counts = np.diff(starts, append=len(parts))
    result = np.array(array[starts])
    for row in np.flatnonzero(counts > 1).tolist():
        own = slice(int(starts[row]), int(starts[row] + counts[row]))
        weights = parts[own, 3].astype(np.float32)[:, None]
        result[row] = (array[own] * weights).sum(0, dtype=np.float32) / weights.sum(dtype=np.float32)
    return result
