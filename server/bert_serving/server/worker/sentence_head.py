"""Computes the vectors of a sentence-transformers pipeline from what an engine returns.

An engine computes the encoder and the pooling modes that it knows. This module computes the others from token vectors,
and the modules after the pooling: Dense, LayerNorm, Normalize, the cut to fewer dimensions, and the activation of
scores. All of it is small beside the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..engines.batch import Batch
from ..model.pipeline import Dense, LayerNorm, Module, ScoreActivation, SentencePipeline, Truncate
from ..model.unit_vectors import normalize
from ..model.vector_options import VectorOptions, apply_options, split_tail
from .head_weights import HeadWeights
from .token_pooling import pool

#: Coefficients of the error function, from the highest power down (Abramowitz and Stegun, 7.1.26).
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)

Step = Callable[[np.ndarray], np.ndarray]


class SentenceHead:
    """The pooling that the engine does not compute, and the modules after it.

    Args:
        pipeline: the modules.
        width: dimensions of a pooled vector.
        weights: the weights of these modules.
        deterministic: the bits of a vector do not depend on the other vectors of its batch.
    """

    def __init__(
        self, pipeline: SentencePipeline, width: int, weights: HeadWeights, deterministic: bool = False
    ) -> None:
        self._pooling = pipeline.pooling
        self._dimensions = pipeline.dimensions(width)
        body, self._tail = split_tail(pipeline.modules)
        self._body: list[Step] = []
        for index, module in enumerate(body):
            if isinstance(module, Dense):
                given = weights[f"{index}/weight"], weights.get(f"{index}/bias")
                self._body.append(_dense(rows_alone if deterministic else rows_at_once, module.activation, *given))
            elif isinstance(module, LayerNorm):
                gamma, beta = weights[f"{index}/weight"], weights.get(f"{index}/bias")
                self._body.append(partial(layer_norm, gamma, beta, module.eps))
            else:
                self._body.append(_tail_step(module))
        self._last = [_tail_step(module) for module in self._tail]
        self._computes = pipeline.computes

    def apply(self, array: np.ndarray, batch: Batch) -> np.ndarray:
        """Vectors of a batch.

        Args:
            array: what the engine returned for ``batch``: ``[n, d]``, or packed token vectors ``[t, d]`` if the
                pipeline has pooling modes; float32 or float16.

        Returns:
            ``[n, dimensions]``, C-contiguous, of the same dtype; computed in float32.
        """
        if not self._computes:
            return array
        rows = self._compute(array, batch)
        for step in self._last:
            rows = step(rows)
        return np.ascontiguousarray(rows, dtype=array.dtype)

    def apply_with_options(
        self, array: np.ndarray, few: Batch, where: np.ndarray | None, codes: np.ndarray
    ) -> np.ndarray:
        """Vectors of a batch in which requests have normalization and dimensions of their own.

        Args:
            array: what the engine returned for ``few``, as for :meth:`apply`.
            few, where: return values of ``deduplicate``.
            codes: ``VectorOptions.code`` of each sequence of the batch, int32 ``[n]``.

        Returns:
            ``[n, dimensions]`` as :meth:`apply`. A row of a request with fewer dimensions ends in zeros, which the sink
            cuts off.
        """
        rows = self._compute(array, few)
        return self._with_options(rows if where is None else rows[where], codes, array.dtype)

    def apply_to_means(self, rows: np.ndarray, codes: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        """Vectors of means of token vectors, float32 ``[n, d]``, which take the place of pooled vectors.

        Returns:
            ``[n, dimensions]`` as :meth:`apply_with_options`.
        """
        for step in self._body:
            rows = step(rows)
        return self._with_options(rows, codes, dtype)

    def _with_options(self, rows: np.ndarray, codes: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
        result = np.zeros((len(codes), self._dimensions), dtype)
        for code in np.unique(codes).tolist():
            chosen = codes == code
            vectors = rows[chosen]
            for module in apply_options(self._tail, VectorOptions.from_code(code)):
                vectors = _tail_step(module)(vectors)
            result[chosen, : vectors.shape[1]] = vectors
        return result

    def _compute(self, array: np.ndarray, batch: Batch) -> np.ndarray:
        """Pools, and applies all modules but the last ones, which options change."""
        rows = array.astype(np.float32, copy=False)
        if self._pooling:
            rows = np.concatenate([pool(rows, batch, mode) for mode in self._pooling], axis=1)
        for step in self._body:
            rows = step(rows)
        return rows


def _tail_step(module: Module) -> Step:
    if isinstance(module, ScoreActivation):
        return ACTIVATE[module.function]
    return partial(_truncate, module.dimensions) if isinstance(module, Truncate) else normalize


def _truncate(dimensions: int, rows: np.ndarray) -> np.ndarray:
    return rows[:, :dimensions]


def _dense(
    multiply: Callable[[np.ndarray, np.ndarray], np.ndarray],
    activation: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
) -> Step:
    activate = ACTIVATE[activation]

    def step(rows: np.ndarray) -> np.ndarray:
        product = multiply(rows, weight)
        return activate(product if bias is None else product + bias)

    return step


def rows_at_once(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the products of rows ``[n, in]`` and a weight ``[out, in]``."""
    return np.asarray(rows @ weight.T)


def rows_alone(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns the same, with the same sums for each row: those of BLAS depend on the number of rows and of threads."""
    return np.stack([np.einsum("oi,i->o", weight, row) for row in rows])


def layer_norm(gamma: np.ndarray, beta: np.ndarray | None, eps: float, rows: np.ndarray) -> np.ndarray:
    """Returns normalized rows ``[n, d]``, scaled by ``gamma`` and shifted by ``beta``."""
    centred = rows - rows.mean(1, keepdims=True)
    deviation = np.sqrt((centred * centred).mean(1, keepdims=True) + np.float32(eps))
    scaled = centred / deviation * gamma
    return np.asarray(scaled if beta is None else scaled + beta)


def _gelu(rows: np.ndarray) -> np.ndarray:
    """Returns ``x * P(X <= x)`` for a normal X, with an absolute error below 1e-6.

    ``math.erf`` for each value would take 100 ms for a large batch, more than a GPU takes for the encoder.
    """
    size = np.minimum(np.abs(rows), 12) * np.float32(math.sqrt(0.5))
    inverse = 1 / (1 + np.float32(0.3275911) * size)
    sums = np.zeros_like(rows)
    for coefficient in _ERF:
        sums = (sums + np.float32(coefficient)) * inverse
    tail = sums * np.exp(-size * size) * np.float32(0.5)
    return np.asarray(rows * np.where(rows < 0, tail, 1 - tail))


def _sigmoid(rows: np.ndarray) -> np.ndarray:
    # Without overflow, and exact near 0 too, so that very unlikely scores keep their order.
    return np.asarray(np.exp(-np.logaddexp(np.float32(0), -rows)))


def _softmax(rows: np.ndarray) -> np.ndarray:
    powers = np.exp(rows - rows.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


#: Functions by their name in ``SCORE_ACTIVATIONS``.
ACTIVATE: dict[str, Step] = {
    "Identity": lambda rows: rows,
    "Tanh": np.tanh,
    "ReLU": lambda rows: np.maximum(rows, 0),
    "GELU": _gelu,
    "Sigmoid": _sigmoid,
    "SiLU": lambda rows: rows * _sigmoid(rows),
    "Softmax": _softmax,
}
