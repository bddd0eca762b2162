"""Truncates sequences to the longest length of the server. Pure."""

from __future__ import annotations

import numpy as np

from .frame import Frame


def truncate(
    first: np.ndarray,
    second: np.ndarray,
    max_seq_len: int,
    frame: Frame,
    omit_special: bool,
    has_longer_first: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the number of tokens kept of each first and each second text.

    A single text keeps its first tokens. A pair loses the last tokens of its longer text. So each text keeps half of
    the room, or the shorter text stays whole. ``frame.favors_longer`` decides about an odd number.

    Args:
        first, second: tokens of each first and second text, int32 ``[n]``; 0 without a second text.
        omit_special: single texts have no special tokens.
        has_longer_first: all items are pairs, and their first text is the longer one, bool ``[n]``; an odd token is
            then of the longer text, as ``longest_first`` of the library `tokenizers` has it.
    """
    room = max_seq_len - frame.num_of_pair
    of_single = np.minimum(first, max_seq_len if omit_special else max_seq_len - 2)
    half = room - room // 2
    of_first: np.ndarray | int = half
    if has_longer_first is not None:
        of_first = np.where(has_longer_first, half, room // 2)
    elif frame.favors_longer:
        of_first = np.where(first > second, half, room // 2)
    of_pair = np.minimum(first, np.maximum(room - second, of_first))
    is_pair = second > 0 if has_longer_first is None else True
    first = np.where(is_pair, of_pair, of_single)
    return first, np.minimum(second, np.maximum(room - first, 0))


def positions(lengths: np.ndarray) -> np.ndarray:
    """Returns the position of each token in its sequence: ``0..lengths[0]-1, 0..lengths[1]-1, ...``"""
    ends = np.cumsum(lengths)
    positions: np.ndarray = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
    return positions
