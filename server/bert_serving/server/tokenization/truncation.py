"""Truncates sequences to the longest length of the server. Pure."""

from __future__ import annotations

import numpy as np

from .frame import Frame


def truncate(
    first: np.ndarray, second: np.ndarray, max_seq_len: int, frame: Frame, omit_special: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of tokens kept of each first and each second text.

    A single text keeps its first tokens. A pair loses the last tokens of its longer text. So each text keeps half of
    the room, or the shorter text stays whole. ``frame.favors_longer`` decides about an odd number.

    Args:
        first, second: tokens of each first and second text, int32 ``[n]``; 0 without a second text.
        omit_special: single texts have no special tokens.
    """
    room = max_seq_len - frame.num_of_pair
    of_single = np.minimum(first, max_seq_len if omit_special else max_seq_len - 2)
    half = np.where(second >= first, room // 2, room - room // 2) if frame.favors_longer else room - room // 2
    of_pair = np.minimum(first, np.maximum(room - second, half))
    first = np.where(second > 0, of_pair, of_single)
    return first, np.minimum(second, np.maximum(room - first, 0))


def positions(lengths: np.ndarray) -> np.ndarray:
    """Returns the position of each token in its sequence: ``0..lengths[0]-1, 0..lengths[1]-1, ...``"""
    ends = np.cumsum(lengths)
    positions: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    return positions
