"""Reads and writes the ranges of vectors, which the embedding types ``int8`` and ``uint8`` need."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..option_file import read_option_file

FORMAT = "bert-serving quantization ranges 1"
#: Name of the file in a model folder.
FILE_NAME = "quantization_ranges.json"
#: The difference of two smaller numbers is one of float32.
_LARGEST = 1e38


class RangeSample:
    """Collects the least and the greatest number of each dimension of the vectors of one space."""

    def __init__(self) -> None:
        self._ends: np.ndarray | None = None

    def add(self, vectors: np.ndarray) -> None:
        """Adds vectors ``[n, d]``."""
        ends = np.stack([vectors.min(0), vectors.max(0)])
        if self._ends is not None:
            ends = np.stack([np.minimum(self._ends[0], ends[0]), np.maximum(self._ends[1], ends[1])])
        self._ends = ends

    @property
    def ranges(self) -> list[list[float]]:
        """The least numbers and the greatest numbers, ``[2, d]``."""
        assert self._ends is not None
        ends: list[list[float]] = self._ends.astype(np.float64).tolist()
        return ends


def to_json(samples: Mapping[str, RangeSample], num_texts: int) -> str:
    """Returns the content of a file with the samples of vector spaces."""
    spaces = {
        space: {"texts": num_texts, "minimum": sample.ranges[0], "maximum": sample.ranges[1]}
        for space, sample in samples.items()
    }
    return json.dumps({"format": FORMAT, "spaces": spaces})


def read_ranges(path: str) -> dict[str, list[list[float]]]:
    """Reads a file.

    Returns:
        Least and greatest numbers ``[2, d]`` by vector space.

    Raises:
        ConfigError: the file cannot be read, or has no ranges.
    """
    remedy = "create the file with bert-serving-calibrate"
    return read_option_file("-quantization_ranges", path, _from_dict, "has no ranges", remedy)


def _from_dict(values: dict[str, Any]) -> dict[str, list[list[float]]]:
    if values["format"] != FORMAT:
        raise ValueError(f"the format is {values['format']!r}, not {FORMAT!r}")
    return {str(space): _ends(space, entry) for space, entry in values["spaces"].items()}


def _ends(space: str, entry: dict[str, Any]) -> list[list[float]]:
    ends = [[float(value) for value in entry[name]] for name in ("minimum", "maximum")]
    array = np.array(ends)  # raises ValueError if the lengths differ
    if not array.size or not (np.abs(array) < _LARGEST).all() or (array[0] > array[1]).any():
        raise ValueError(f"a range of the space {space} is not finite, or its minimum exceeds its maximum")
    return ends
