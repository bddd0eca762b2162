"""What travels between ventilator, workers and sink, as frames and back. For who says what, see ``internal``.

Each frame costs some microseconds at both ends, as much as all the rest of what a short sentence passes through. So a
small message is one frame, and all that one process has to say to another at a time is one message. Large arrays have
frames of their own, which are not copied on the way. The format is MessagePack, of which nothing is ever executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
import numpy as np

from ..engines.batch import Batch

#: Arrays of so many bytes together travel in the frame of their message's head.
SMALL_BYTES = 32768
#: Arrays in frames of their own are sent without a copy from so many bytes on.
NO_COPY_BYTES = 65536

Command = list[bytes]

_encode = msgspec.msgpack.Encoder().encode
_decode_words = msgspec.msgpack.Decoder(list[Command]).decode


def encode_commands(words: Sequence[Command]) -> bytes:
    """One frame of all that is to be said. A word is its kind, and what belongs to it."""
    return _encode(words)


def decode_commands(frame: Any) -> list[Command]:
    """What `pack_words` packed."""
    return _decode_words(frame)


class _BatchHead(msgspec.Struct, array_like=True):
    """``small`` holds the arrays, unless they have frames of their own."""

    id: int
    announcements: bytes
    small: list[bytes] | None = None


class _ResultHead(msgspec.Struct, array_like=True):
    id: int
    announcements: bytes
    began: int
    dtype: str
    rows: int
    dims: int
    is_token_level: bool
    small: list[bytes] | None = None


_decode_batch_head = msgspec.msgpack.Decoder(_BatchHead).decode
_decode_result_head = msgspec.msgpack.Decoder(_ResultHead).decode


def _frames(head: _BatchHead | _ResultHead, arrays: list[Any]) -> list[Any]:
    if sum(array.nbytes for array in arrays) > SMALL_BYTES:
        return [_encode(head), *arrays]
    head.small = [array.tobytes() for array in arrays]
    return [_encode(head)]


def is_large(frames: list[Any]) -> bool:
    """Whether these frames, as they are about to be sent, should not be copied."""
    return len(frames) > 1 and any(frame.nbytes >= NO_COPY_BYTES for frame in frames[1:])


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """A batch on its way to a worker.

    Attributes:
        manifest: whose rows they are: int64 ``[n, 2]``, the job and the row in it; a worker passes it on unread.
        words: packed words for the sink, which travel with the batch and its result.
        has_types, has_mask: whether they are sent. Type ids that are all 0, and masks that are all 1, are not.
    """

    id: int
    batch: Batch
    manifest: Any
    announcements: bytes = b""
    has_types: bool = True
    has_mask: bool = True

    def frames(self) -> list[Any]:
        none = memoryview(b"")
        batch = self.batch
        types, mask = batch.type_ids if self.has_types else none, batch.mask if self.has_mask else none
        return _frames(
            _BatchHead(self.id, self.announcements), [batch.lengths, batch.input_ids, types, mask, self.manifest]
        )

    @classmethod
    def from_frames(cls, frames: Sequence[Any]) -> BatchMessage:
        head = _decode_batch_head(frames[0].buffer)
        arrays: Any = [frame.buffer for frame in frames[1:]] if head.small is None else head.small
        lengths, input_ids, type_ids, mask, manifest = arrays
        ids = np.frombuffer(input_ids, np.int32)
        has_types, has_mask = len(type_ids) > 0, len(mask) > 0
        types = np.frombuffer(type_ids, np.int32) if has_types else np.zeros(len(ids), np.int32)
        attend = np.frombuffer(mask, np.int32) if has_mask else np.ones(len(ids), np.int32)
        batch = Batch(ids, types, attend, np.frombuffer(lengths, np.int32))
        return cls(head.id, batch, memoryview(manifest), head.announcements, has_types, has_mask)


@lru_cache(maxsize=16)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Numpy's own name of a dtype, which numpy puts together anew each time."""
    return str(dtype.name)


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker hands to the sink for one batch.

    Attributes:
        array: ``[n, d]``, or ``[t, d]`` packed if ``token_level``.
        lengths: int32 ``[n]``.
        manifest, words: those of the batch; the manifest is int64 ``[n, 2]``.
        began: when the worker began to compute.
    """

    batch_id: int
    array: np.ndarray
    lengths: np.ndarray
    manifest: Any
    token_level: bool
    began: int = 0
    announcements: bytes = b""

    def frames(self) -> list[Any]:
        array = self.array
        (rows, dims), name = array.shape, dtype_name(array.dtype)
        head = _ResultHead(self.batch_id, self.announcements, self.began, name, rows, dims, self.token_level)
        return _frames(head, [array, self.lengths, self.manifest])

    @classmethod
    def from_frames(cls, frames: Sequence[Any]) -> Result:
        head = _decode_result_head(frames[0].buffer)
        arrays: Any = [frame.buffer for frame in frames[1:]] if head.small is None else head.small
        array, lengths, manifest = arrays
        return cls(
            head.id,
            np.frombuffer(array, head.dtype).reshape(head.rows, head.dims),
            np.frombuffer(lengths, np.int32),
            np.frombuffer(manifest, np.int64).reshape(-1, 2),
            head.is_token_level,
            head.began,
            head.announcements,
        )
