"""Computes the vectors of a sentence-transformers pipeline from what an engine returns.

An engine computes the encoder and the pooling modes that it knows. This module computes the others from token vectors,
and the modules after the pooling: Dense, LayerNorm, Normalize, and the cut to fewer dimensions. All of it is small
beside the encoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from ..engines.batch import Batch
from ..model.sentence_transformers import Dense, LayerNorm, Module, SentencePipeline, Truncate
from ..model.vector_options import VectorOptions, apply_options, split_tail
from .head_weights import HeadWeights
from .pooling import pool

_LEAST_NORM = 1e-12
_LAYER_NORM_EPS = 1e-5
_erf = np.vectorize(math.erf, otypes=[np.float32])

Step = Callable[[np.ndarray], np.ndarray]


class SentenceHead:
    """The pooling that the engine does not compute, and the modules after it.

    Args:
        pipeline: the modules.
        width: dimensions of a pooled vector.
        weights: the weights of these modules.
    """

    def __init__(self, pipeline: SentencePipeline, width: int, weights: HeadWeights) -> None:
        self._pooling = pipeline.pooling
        self._dimensions = pipeline.dimensions(width)
        body, self._tail = split_tail(pipeline.modules)
        self._body: list[Step] = []
        for index, module in enumerate(body):
            if isinstance(module, Dense):
                bias = weights[f"{index}/linear.bias"] if module.has_bias else None
                self._body.append(_dense(module.activation, weights[f"{index}/linear.weight"], bias))
            elif isinstance(module, LayerNorm):
                self._body.append(_layer_norm(weights[f"{index}/norm.weight"], weights[f"{index}/norm.bias"]))
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
        if where is not None:
            rows = rows[where]
        result = np.zeros((len(codes), self._dimensions), array.dtype)
        for code in np.unique(codes).tolist():
            chosen = codes == code
            vectors = rows[chosen]
            for module in apply_options(self._tail, VectorOptions.from_code(code)):
                vectors = _tail_step(module)(vectors)
            result[chosen, : vectors.shape[1]] = vectors
        return result

    def _compute(self, array: np.ndarray, batch: Batch) -> np.ndarray:
        """Pools, and applies all modules but the last ones, which normalize and cut."""
        rows = array.astype(np.float32, copy=False)
        if self._pooling:
            rows = np.concatenate([pool(rows, batch, mode) for mode in self._pooling], axis=1)
        for step in self._body:
            rows = step(rows)
        return rows


def normalize(rows: np.ndarray) -> np.ndarray:
    """Returns unit vectors ``[n, d]``; a norm below 1e-12 counts as 1e-12."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
    return np.asarray(rows / np.maximum(norms, _LEAST_NORM))


def _tail_step(module: Module) -> Step:
    return partial(_truncate, module.dimensions) if isinstance(module, Truncate) else normalize


def _truncate(dimensions: int, rows: np.ndarray) -> np.ndarray:
    return rows[:, :dimensions]


def _dense(activation: str, weight: np.ndarray, bias: np.ndarray | None) -> Step:
    kernel, activate = weight.T, _ACTIVATE[activation]

    def step(rows: np.ndarray) -> np.ndarray:
        product = rows @ kernel
        return activate(product if bias is None else product + bias)

    return step


def _layer_norm(gamma: np.ndarray, beta: np.ndarray) -> Step:
    def step(rows: np.ndarray) -> np.ndarray:
        centred = rows - rows.mean(1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(1, keepdims=True) + _LAYER_NORM_EPS)
        return np.asarray(centred / deviation * gamma + beta)

    return step


def _sigmoid(rows: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * rows)))  # without overflow


_ACTIVATE: dict[str, Step] = {
    "Identity": lambda rows: rows,
    "Tanh": np.tanh,
    "ReLU": lambda rows: np.maximum(rows, 0),
    "GELU": lambda rows: np.asarray(rows * 0.5 * (1 + _erf(rows / math.sqrt(2))), np.float32),
    "Sigmoid": _sigmoid,
    "SiLU": lambda rows: rows * _sigmoid(rows),
}
