"""Pools packed token vectors: modes that no engine computes itself, and strategies that single requests ask for.

``model/pooling.py`` lists all strategies; a new one starts there.
"""

from __future__ import annotations

import numpy as np

from ..engines.batch import Batch
from ..model.pooling import PoolingStrategy

#: The mode of each strategy that is a mean of tokens.
_MEANS = {
    PoolingStrategy.REDUCE_MEAN: "mean",
    PoolingStrategy.WEIGHTED_MEAN: "weightedmean",
    PoolingStrategy.MEAN_SQRT_LEN: "mean_sqrt_len_tokens",
}


def pool_as(tokens: np.ndarray, batch: Batch, strategy: PoolingStrategy) -> np.ndarray:
    """Returns vectors of sequences from packed token vectors ``[t, d]``, as a server with this strategy does.

    A sequence whose mask is all 0 has mean and maximum 0. The first and the last token count with mask 0 too. The sums
    of a sequence do not depend on the others.

    Args:
        tokens: float32, also those with mask 0.
        strategy: any but NONE, CLS_POOLED and CONCATENATED.

    Returns:
        float32 ``[n, d]``, and ``[n, 2 d]`` for REDUCE_MEAN_MAX.
    """
    ends = np.cumsum(batch.lengths, dtype=np.int64)
    if strategy == PoolingStrategy.CLS_TOKEN:
        return np.asarray(tokens[ends - batch.lengths])
    if strategy == PoolingStrategy.SEP_TOKEN:
        return np.asarray(tokens[ends - 1])
    if strategy in _MEANS:
        return pool(tokens, batch, _MEANS[strategy])
    highest = pool(tokens, batch, "max")
    highest[np.isneginf(highest)] = 0
    if strategy == PoolingStrategy.REDUCE_MAX:
        return highest
    return np.concatenate([pool(tokens, batch, "mean"), highest], axis=1)


def pool(tokens: np.ndarray, batch: Batch, mode: str) -> np.ndarray:
    """Returns vectors of sequences from packed token vectors ``[t, d]``: float32 ``[n, d]``.

    ``mode`` is one of ``model.sentence_transformers.POOLING_MODES``; the formulas are those of the library of that
    name. Tokens with mask 0 do not count.
    """
    lengths = batch.lengths.astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    mask = batch.mask.astype(np.float32)[:, None]
    if mode in ("cls", "lasttoken"):
        position = np.arange(len(tokens))
        owner = np.repeat(np.arange(len(lengths)), lengths)
        seen = batch.mask.astype(bool)
        picked = starts.copy() if mode == "cls" else starts + lengths - 1
        order = position[seen] if mode == "lasttoken" else position[seen][::-1]
        picked[owner[order]] = order  # the last assignment counts
        return np.asarray(tokens[picked])
    if mode == "max":
        return np.asarray(np.maximum.reduceat(np.where(mask > 0, tokens, -np.inf), starts, axis=0), np.float32)
    weights = mask
    if mode == "weightedmean":
        weights = mask * (np.arange(len(tokens)) - np.repeat(starts, lengths) + 1).astype(np.float32)[:, None]
    sums = np.add.reduceat(tokens * weights, starts, axis=0)
    total = np.maximum(np.add.reduceat(weights, starts, axis=0), 1e-9)
    return np.asarray(sums / (np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total), np.float32)
