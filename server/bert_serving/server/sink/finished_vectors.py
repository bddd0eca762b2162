"""Turns the rows of a complete job into the vectors of its reply. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..model.unit_vectors import normalize
from .text_parts import combine_parts

#: Returns vectors ``[n, d]`` as the embedding type in a code. The space names their ranges; empty for that of the code.
Quantize = Callable[[int, np.ndarray, str], np.ndarray]
#: Vectors that are normalized at once, which needs little memory.
_BLOCK = 1024


def finish_vectors(
    array: np.ndarray, parts: dict[int, bytes], metadata: dict[str, Any], quantize: Quantize
) -> tuple[np.ndarray, dict[str, Any]]:
    """Returns the array and the metadata of a reply.

    Args:
        array: rows as workers sent them, ``[n, d]``.
        parts: as those of ``SinkJob``.
        metadata: that of the announcement; what the steps need is removed.
    """
    metadata = dict(metadata)
    columns, dimensions = metadata.pop("columns", None), metadata.pop("dimensions", None)
    makes_unit, code = metadata.pop("makes_unit", False), metadata.pop("type_code", 0)
    range_space = metadata.pop("range_space", "")
    if columns:
        array = _select(array, columns)
    if dimensions is not None:
        array = array[:, :dimensions]
    if parts:
        array, metadata = combine_parts(array, parts, metadata)
    if makes_unit:
        array = unit_rows(array)
    if code:
        array = quantize(code, array, range_space)
    return array, metadata


def _select(array: np.ndarray, columns: Sequence[Sequence[int]]) -> np.ndarray:
    """Returns some columns of vectors, one range after the other."""
    ranges = [array[:, start:stop] for start, stop in columns]
    return ranges[0] if len(ranges) == 1 else np.concatenate(ranges, axis=1)


def unit_rows(array: np.ndarray) -> np.ndarray:
    """Returns vectors ``[n, d]`` divided by their length, of the same dtype."""
    result = np.empty_like(array)
    for start in range(0, len(result), _BLOCK):
        result[start : start + _BLOCK] = normalize(array[start : start + _BLOCK].astype(np.float32))
    return result
