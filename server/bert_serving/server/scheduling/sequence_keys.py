"""Computes keys by which sequences with the same vector are recognized."""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Sequence

import numpy as np

from ..model.vector_options import TYPE_BITS
from .jobs import JobChunk

#: Bytes of a key.
KEY_SIZE = 16
_HEADER = struct.Struct("<q??")


class SequenceKeys:
    """Computes the keys of one process.

    Two sequences have equal keys if their token ids, types, masks and vector options are equal. A key is a digest with
    a secret of this process, so no client can construct two sequences with one key.

    Args:
        space: name of everything else that shapes a vector.
    """

    def __init__(self, space: str) -> None:
        self._start = hashlib.blake2b(space.encode() + b"\0", digest_size=KEY_SIZE, key=secrets.token_bytes(32))

    def of(self, chunk: JobChunk, rows: Sequence[int]) -> list[bytes]:
        """Returns the keys of some sequences of a chunk. ``rows`` counts from the first sequence of the chunk."""
        tokenized = chunk.tokenized
        code = chunk.job.options.vector_code & ~TYPE_BITS  # the sink converts vectors to their type afterwards
        ids = tokenized.input_ids.astype("<i4", copy=False).tobytes()
        types, mask = _as_bytes(tokenized.type_ids), _as_bytes(tokenized.mask)
        starts, lengths = chunk.offsets.tolist(), tokenized.lengths.tolist()
        plain = _HEADER.pack(code, False, False)
        keys = []
        for row in rows:
            start, length = starts[row], lengths[row]
            content = ids[4 * start : 4 * (start + length)]
            header = plain
            if types or mask:
                # Types that are all 0, and masks that are all 1, are absent if the rest of the request has none.
                kinds, attend = types[start : start + length], mask[start : start + length]
                has_types, has_mask = kinds.count(0) < len(kinds), 0 in attend
                header = _HEADER.pack(code, has_types, has_mask)
                content += (kinds if has_types else b"") + (attend if has_mask else b"")
            digest = self._start.copy()
            digest.update(header + content)
            keys.append(digest.digest())
        return keys


def _as_bytes(values: np.ndarray | None) -> bytes:
    """Returns one byte for each token; none if the array is absent."""
    return b"" if values is None else values.astype(np.uint8).tobytes()
