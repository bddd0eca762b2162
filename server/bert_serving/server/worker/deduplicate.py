"""Removes repeated sequences from a batch, and expands the result again. Pure: no sockets, no clock, no engine.

Repetition is frequent: the same question of many clients, empty texts, boilerplate that is cut to ``max_seq_len``.
"""

from __future__ import annotations

import numpy as np

from ..engines.batch import Batch


def deduplicate(batch: Batch) -> tuple[Batch, np.ndarray | None]:
    """Returns the distinct sequences of a batch, in order of their first occurrence.

    Two sequences are equal if their ids, types and masks are.

    Returns:
        A batch of ``m`` <= ``n`` sequences, and the index of each of the ``n`` sequences in it, int64 ``[n]``. If no
        sequence repeats, the batch itself and None.
    """
    count = batch.num_sequences
    if count < 2:
        return batch, None
    columns = [batch.input_ids]
    if batch.type_ids.any():
        columns.append(batch.type_ids)
    if not batch.mask.all():
        columns.append(batch.mask)
    # One row per token: a sequence is one slice of bytes.
    content = (columns[0] if len(columns) == 1 else np.stack(columns, axis=1)).tobytes()
    size = 4 * len(columns)
    found: dict[bytes, int] = {}
    index, start = [], 0
    for stop in (np.cumsum(batch.lengths, dtype=np.int64) * size).tolist():
        index.append(found.setdefault(content[start:stop], len(found)))
        start = stop
    if len(found) == count:
        return batch, None
    where = np.array(index, np.int64)
    kept = np.zeros(count, bool)
    kept[np.unique(where, return_index=True)[1]] = True
    tokens = np.repeat(kept, batch.lengths)
    few = Batch(batch.input_ids[tokens], batch.type_ids[tokens], batch.mask[tokens], batch.lengths[kept])
    return few, where


def expand(array: np.ndarray, few: Batch, where: np.ndarray, token_level: bool) -> np.ndarray:
    """Returns the result of a whole batch from that of its distinct sequences.

    Args:
        array: ``[m, d]``, or ``[t, d]`` packed if ``token_level``.
        few, where: return values of :func:`deduplicate`.

    Returns:
        ``[n, d]``, or packed tokens of all ``n`` sequences, C-contiguous.
    """
    rows = where
    if token_level:
        lengths = few.lengths.astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        lengths, starts = lengths[where], starts[where]
        ends = np.cumsum(lengths)
        rows = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    result: np.ndarray = array[rows]
    return result
