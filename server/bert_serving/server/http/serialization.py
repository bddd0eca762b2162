"""Vectors on their way out: as JSON numbers, as base64, as raw bytes.

JSON numbers have the fewest digits that give the same float32 back, about nine instead of the seventeen of a Python
float, so a body is half as long.
"""

from __future__ import annotations

import binascii

import numpy as np
import orjson


def to_json(array: np.ndarray) -> bytes:
    """Nested JSON lists of any float array; a reader that rounds to the array's dtype has the same values."""
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def to_bytes(array: np.ndarray) -> bytes:
    """The values in C order, little-endian whatever this machine is."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_base64(array: np.ndarray) -> list[bytes]:
    """Each row of :func:`to_bytes`, in base64: ASCII that JSON takes as it is, between quotes."""
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return [binascii.b2a_base64(row, newline=False) for row in plain]


def cut(array: np.ndarray, dimensions: int) -> np.ndarray:
    """The first ``dimensions`` of each vector, scaled to unit length, as OpenAI shortens embeddings.

    Args:
        array: ``[n, d]`` with ``d >= dimensions``.

    Returns:
        float32 ``[n, dimensions]``; a vector that is all zeros stays so.
    """
    vectors = array[:, :dimensions].astype(np.float32)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1.0)).astype(np.float32)
