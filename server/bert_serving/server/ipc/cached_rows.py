"""Defines the entries of the cache of vectors, and the command that asks the sink for some of them.

The ventilator knows token ids, and the sink has vectors. An *entry* is the number of a vector that a worker computed.
It names the batch and the position in it. The ventilator remembers the entry of each sequence, and the sink the vector
of each entry. No entry is used twice, so the sink never takes one vector for another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import commands
from .commands import from_u64, u64
from .messages import Command

#: Largest number of sequences of a batch that have entries.
MAX_POSITIONS = 2**20
#: Bits of a batch id below the epoch of the ventilator. The sink forgets all entries when the epoch changes.
_EPOCH_SHIFT = 40


def first_entry(batch_id: int) -> int:
    """Returns the entry of the first sequence of a batch; those of the others follow."""
    return (batch_id & ((1 << _EPOCH_SHIFT) - 1)) * MAX_POSITIONS


@dataclass(frozen=True, slots=True)
class CachedRows:
    """Rows of one job whose vectors the sink has, and their entries.

    Attributes:
        batch_id: id of the rows in replies, from the same numbers as those of batches.
        entries: int64 ``[n]``.
        lengths: tokens of each sequence, int32 ``[n]``.
        manifest: job id and row of each sequence, int64 ``[n, 2]``.
        vector_code: ``VectorOptions.code`` of the job.
    """

    batch_id: int
    entries: np.ndarray
    lengths: np.ndarray
    manifest: np.ndarray
    vector_code: int

    def command(self) -> Command:
        arrays = [each.tobytes() for each in (self.entries, self.lengths, self.manifest)]
        return [commands.CACHED_ROWS, u64(self.batch_id), *arrays, u64(self.vector_code)]

    @classmethod
    def from_command(cls, command: Command) -> CachedRows:
        _, batch_id, entries, lengths, manifest, code = command
        return cls(
            from_u64(batch_id),
            np.frombuffer(entries, np.int64),
            np.frombuffer(lengths, np.int32),
            np.frombuffer(manifest, np.int64).reshape(-1, 2),
            from_u64(code),
        )
