"""Converts vectors to the embedding types, packed as by ``quantize_embeddings`` of sentence-transformers. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from .vector_options import VectorOptions
from .vector_space import RANGED_TYPES, VectorSpaces

#: Types with one bit for each dimension.
BINARY_TYPES = ("binary", "ubinary")
#: Least and greatest number of each dimension of the vectors of a model.
Ranges = Sequence[Sequence[float]]


def row_bytes(embedding_type: str, dimensions: int) -> int:
    """Returns the size of a vector of an embedding type."""
    if embedding_type in BINARY_TYPES:
        return -(-dimensions // 8)
    return dimensions * {"float": 4, "float16": 2}.get(embedding_type, 1)


def quantize(rows: np.ndarray, embedding_type: str, ranges: Ranges | np.ndarray | None = None) -> np.ndarray:
    """Returns vectors as an embedding type.

    Args:
        rows: float32 or float16 ``[n, d]``.
        embedding_type: one of ``EMBEDDING_TYPES`` of the protocol.
        ranges: ``[2, d]``, for ``int8`` and ``uint8``.

    Returns:
        float32, float16, int8 or uint8 ``[n, d]``. For ``binary`` int8 and for ``ubinary`` uint8 ``[n, (d + 7) // 8]``:
        a bit is set for a number above 0, and the first number is the highest bit. A number beyond its range becomes
        the nearest end.

    Raises:
        OverflowError: a number exceeds the range of float16.
    """
    if embedding_type == "float":
        return rows.astype(np.float32)
    if embedding_type == "float16":
        with np.errstate(over="ignore"):
            halves = rows.astype(np.float16)
        if not np.isfinite(halves).all():
            raise OverflowError("a number of the vectors exceeds 65,504, the largest of float16: omit embedding_type")
        return halves
    if embedding_type in BINARY_TYPES:
        bits: np.ndarray = np.packbits(rows > 0, axis=-1)
        return bits if embedding_type == "ubinary" else (bits - 128).astype(np.int8)
    assert ranges is not None
    starts, ends = np.asarray(ranges, np.float32)
    steps = (ends - starts) / 255
    steps = np.where(steps == 0, 1, steps)
    places: np.ndarray = np.clip(np.floor((rows - starts) / steps), 0, 255)
    return places.astype(np.uint8) if embedding_type == "uint8" else (places - 128).astype(np.int8)


def missing_ranges(spaces: VectorSpaces, options: VectorOptions, width: int) -> str:
    """Returns an error message if vectors with these options need ranges that the server lacks; else an empty text.

    Args:
        width: dimensions of a vector without options.
    """
    if options.embedding_type not in RANGED_TYPES or spaces.has_ranges(options):
        return ""
    dimensions = options.dimensions or width
    return (
        f"embedding type {options.embedding_type} needs the ranges of the model's numbers, and this server has none "
        f"for {dimensions} dimensions (vector space {spaces.of_floats(options)}): run bert-serving-calibrate "
        f"-dimensions {dimensions} with this server, and start the server with -quantization_ranges; or use float16, "
        "binary or ubinary"
    )


class Quantizer:
    """Converts vectors whose requests have an embedding type.

    Args:
        spaces: the spaces of the vectors.
        ranges: the ranges of the vectors of each space.
    """

    def __init__(self, spaces: VectorSpaces, ranges: Mapping[str, Ranges]) -> None:
        self._spaces, self._ranges = spaces, ranges
        self._read = lru_cache(maxsize=256)(self._read_code)

    def apply(self, code: int, rows: np.ndarray, space: str = "") -> np.ndarray:
        """Returns the vectors of a request: cut, then as its embedding type.

        Args:
            code: ``VectorOptions.code`` of the request, with an embedding type.
            rows: ``[n, d]``; behind the dimensions of the request, they are zeros.
            space: the space whose ranges count; empty for that of ``code``.
        """
        options, ranges = self._read(code, space)
        assert options.embedding_type is not None
        return quantize(rows[:, : options.dimensions], options.embedding_type, ranges)

    def _read_code(self, code: int, space: str) -> tuple[VectorOptions, np.ndarray | None]:
        options = VectorOptions.from_code(code)
        if options.embedding_type not in RANGED_TYPES:
            return options, None
        return options, np.array(self._ranges[space or self._spaces.of_floats(options)], np.float32)
