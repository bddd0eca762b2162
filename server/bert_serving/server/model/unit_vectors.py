"""Divides vectors by their length."""

from __future__ import annotations

import numpy as np

_LEAST_NORM = 1e-12


def normalize(rows: np.ndarray) -> np.ndarray:
    """Returns unit vectors ``[n, d]``; a norm below 1e-12 counts as 1e-12."""
    # The sum of a row does not depend on its place, unlike that of einsum in rows of more than 8,192 numbers.
    norms = np.sqrt(np.add.reduce(rows * rows, axis=1, keepdims=True))
    return np.asarray(rows / np.maximum(norms, _LEAST_NORM))
