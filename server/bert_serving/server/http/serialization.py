"""Serializes vectors as JSON numbers, base64 or raw bytes.

JSON numbers have the fewest digits that round to the same float32: about nine instead of the seventeen of a Python
float. This halves the size of a response.
"""

from __future__ import annotations

import binascii

import numpy as np
import orjson


def to_json(array: np.ndarray) -> bytes:
    """Returns nested JSON lists. Parsing and rounding to the dtype of the array restores the exact values."""
    return orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)


def to_bytes(array: np.ndarray) -> bytes:
    """Returns the values in C order, little-endian on every machine."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def to_base64(array: np.ndarray) -> list[bytes]:
    """Returns each row of :func:`to_bytes` as base64, which needs no escaping in a JSON string."""
    little_endian = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return [binascii.b2a_base64(row, newline=False) for row in little_endian]
