"""Pools packed token vectors, for the modes that no engine computes itself.

``model/pooling.py`` lists all strategies; a new one starts there.
"""

from __future__ import annotations

import numpy as np

from ..engines.batch import Batch


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
