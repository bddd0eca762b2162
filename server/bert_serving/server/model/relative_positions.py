"""Computes tables by relative position: biases of attention scores, rotations, and buckets of distances.

A table of a model with at most ``M`` tokens has ``2 M - 1`` columns. Column ``key - query + M - 1`` is for a key and a
query at these positions of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .architecture import Disentangled, Rope
from .config import ModelConfig

RELATIVE_BIAS = "encoder/relative_attention_bias"
POSITIONS = "encoder/rel_embeddings"
#: Added to the scores of tokens outside the window, which makes their weights exactly 0.
OUTSIDE = -1e9


def relative_bias(config: ModelConfig, weights: Mapping[str, np.ndarray], layer: int) -> np.ndarray | None:
    """Returns what a layer adds to its scores: float32 ``[heads, 2 M - 1]`` or ``[1, 2 M - 1]``; None for nothing.

    Layers with the same ``Architecture.window_of`` have the same table.
    """
    architecture, heads = config.architecture, config.num_attention_heads
    offsets = _offsets(config.max_tokens)
    table: np.ndarray | None = None
    if architecture.relative_buckets:
        buckets = relative_buckets(offsets, architecture.relative_buckets, architecture.relative_max_distance)
        table = weights[RELATIVE_BIAS][buckets].T
    if architecture.alibi:
        slopes = np.array(alibi_slopes(heads), np.float32)
        table = (0 if table is None else table) + slopes[:, None] * negative_distances(config)
    if window := architecture.window_of(layer):
        outside = np.where(np.abs(offsets) > window, np.float32(OUTSIDE), np.float32(0))[None]
        table = outside if table is None else table + outside
    return None if table is None else np.ascontiguousarray(table, np.float32)


def relative_buckets(offsets: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """Returns T5's bucket of each ``key - query``, int64: half of the buckets for each direction.

    A quarter of the buckets is exact; the others grow logarithmically up to ``max_distance``.
    """
    half = buckets // 2
    exact = half // 2
    distance = np.abs(offsets)
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(exact))
    ratio = ratio / np.float32(math.log(max_distance / exact)) * np.float32(half - exact)
    logarithmic = np.minimum(exact + ratio.astype(np.int64), half - 1)
    result: np.ndarray = np.where(distance < exact, distance, logarithmic) + half * (offsets > 0)
    return result


def alibi_slopes(heads: int) -> list[float]:
    """Returns the slope of each head.

    ``n`` heads have the slopes ``2 ** (-8 i / n)`` for ``i`` from 1. If ``n`` is no power of two, those of the next
    lower power come first, then every other one of the next higher power (https://arxiv.org/abs/2108.12409).
    """
    lower = 1 << (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (index + 1) / lower) for index in range(lower)]
    between = [2 ** (-4 * (index + 1) / lower) for index in range(0, 2 * lower, 2)]
    return slopes + between[: heads - lower]


def negative_distances(config: ModelConfig) -> np.ndarray:
    """Returns what the slope of a head is multiplied by: float32 ``[1, 2 M - 1]``."""
    distances: np.ndarray = -np.abs(_offsets(config.max_tokens)).astype(np.float32)[None]
    return distances


def rotations(config: ModelConfig, rope: Rope) -> tuple[np.ndarray, np.ndarray]:
    """Returns cosine and sine by position and component, float32 ``[M, head_size / 2]`` each."""
    size = config.head_size
    exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequencies = np.float32(1) / np.float32(rope.theta) ** exponents / np.float32(rope.factor)
    angles = np.arange(config.max_tokens, dtype=np.float32)[:, None] * frequencies
    return np.cos(angles), np.sin(angles)


def position_rows(config: ModelConfig, disentangled: Disentangled) -> np.ndarray:
    """Returns the row of the table of positions of each column: int64 ``[2 M - 1]``, from 0 to ``2 span - 1``."""
    distance = -_offsets(config.max_tokens)
    bucket = distance
    if disentangled.buckets:
        middle = disentangled.buckets // 2
        far = np.where(np.abs(distance) < middle, middle - 1, np.abs(distance)).astype(np.float32)
        scale = np.log(np.float32((disentangled.max_distance - 1) / middle))
        steps = np.ceil(np.log(far / np.float32(middle)) / scale * np.float32(middle - 1)) + middle
        bucket = np.where(np.abs(distance) <= middle, distance, (steps * np.sign(distance)).astype(np.int64))
    span = disentangled.span
    rows: np.ndarray = np.clip(bucket + span, 0, 2 * span - 1)
    return rows


def position_projections(
    config: ModelConfig, weights: Mapping[str, np.ndarray], layer: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns keys and queries of the relative positions of a layer, float32 ``[2 span, hidden]``; None if unused."""
    disentangled = config.architecture.disentangled
    assert disentangled is not None
    table = weights[POSITIONS][: 2 * disentangled.span].astype(np.float64)
    if disentangled.has_norm:
        table = table - table.mean(axis=-1, keepdims=True)
        table /= np.sqrt((table**2).mean(axis=-1, keepdims=True) + config.layer_norm_eps)
        table = table * weights[f"{POSITIONS}/LayerNorm/gamma"] + weights[f"{POSITIONS}/LayerNorm/beta"]
    scope = f"encoder/layer_{config.architecture.weights_of(layer)}/attention/self"

    def project(name: str) -> np.ndarray:
        name = name if disentangled.shares_projection else f"position_{name}"
        found = table @ weights[f"{scope}/{name}/kernel"] + weights[f"{scope}/{name}/bias"]
        return np.ascontiguousarray(found, np.float32)

    return (
        project("key") if disentangled.content_to_position else None,
        project("query") if disentangled.position_to_content else None,
    )


def _offsets(longest: int) -> np.ndarray:
    """Returns ``key - query`` of each column."""
    return np.arange(1 - longest, longest)
