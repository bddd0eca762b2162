"""Defines the batch that an engine encodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Batch:
    """``n`` sequences with ``t`` tokens in total, packed one after the other without padding.

    Attributes:
        input_ids: vocabulary indexes, int32 ``[t]``.
        type_ids: segment of each token, 0 or 1, int32 ``[t]``.
        mask: 1 for tokens that attention and pooling use, else 0, int32 ``[t]``. Only ``-mask_cls_sep`` sets zeros.
        lengths: number of tokens of each sequence, int32 ``[n]``, each >= 1; the sum is ``t``.
    """

    input_ids: np.ndarray
    type_ids: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        return len(self.input_ids)
