"""Encodes and decodes the messages between ventilator, workers and sink. ``commands`` lists senders and receivers.

A frame costs some microseconds in both processes, as much as the rest of the path of a short sentence. So a small
message is one frame, and one message holds all commands that are ready. Large arrays have frames of their own, which
are not copied. The format is MessagePack, which cannot execute code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
import numpy as np

from ..engines.batch import Batch
from .token_outputs import TokenOutputs

#: Total bytes of arrays up to which they are sent in the frame of the message's head.
SMALL_BYTES = 32768
#: Bytes from which an array in a frame of its own is sent without a copy.
NO_COPY_BYTES = 65536

#: The mask of short batches, which is not written to.
_ONES = np.ones(1024, np.int32)
_ONES.flags.writeable = False

Command = list[bytes]
_Count = Annotated[int, msgspec.Meta(ge=0)]

_encode = msgspec.msgpack.Encoder().encode
_decode_commands = msgspec.msgpack.Decoder(list[Command]).decode


def encode_commands(commands: Sequence[Command]) -> bytes:
    """Encodes commands as one frame. A command is a list of its kind and its arguments."""
    return _encode(commands)


def decode_commands(frame: Any) -> list[Command]:
    """Decodes a frame of :func:`encode_commands`."""
    return _decode_commands(frame)


def _ones(count: int) -> np.ndarray:
    return _ONES[:count] if count <= len(_ONES) else np.ones(count, np.int32)


class _BatchHead(msgspec.Struct, array_like=True):
    """Head of a batch. ``small`` holds the arrays, unless they have frames of their own."""

    id: int
    announcements: bytes
    small: list[bytes] | None = None
    vector_codes: bytes = b""
    segments: bytes = b""


class _ResultHead(msgspec.Struct, array_like=True):
    id: _Count
    announcements: bytes
    duration: _Count
    dtype: str
    rows: _Count
    dims: _Count
    is_token_level: bool
    small: list[bytes] | None = None
    vector_codes: bytes = b""
    multi_dims: _Count | None = None


_decode_batch_head = msgspec.msgpack.Decoder(_BatchHead).decode
_decode_result_head = msgspec.msgpack.Decoder(_ResultHead).decode


def _frames(head: _BatchHead | _ResultHead, arrays: list[Any]) -> list[Any]:
    if sum(array.nbytes for array in arrays) > SMALL_BYTES:
        return [_encode(head), *arrays]
    head.small = [array.tobytes() for array in arrays]
    return [_encode(head)]


def is_large(frames: list[Any]) -> bool:
    """Returns whether frames should be sent without a copy."""
    return len(frames) > 1 and any(frame.nbytes >= NO_COPY_BYTES for frame in frames[1:])


class BatchMessage(msgspec.Struct, frozen=True):
    """A batch for a worker.

    Attributes:
        manifest: job id and row of each sequence, int64 ``[n, 2]``; the worker forwards it unread.
        announcements: encoded commands for the sink, which travel with the batch and its result.
        has_types, has_mask: whether they are sent. Type ids that are all 0 and masks that are all 1 are not.
        vector_codes: ``VectorOptions.code`` of each sequence, int32 ``[n]``; empty if all are 0.
        segments: of each row of the result, its sequence and its tokens from and to, int32 ``[p, 3]``, see
            ``Tokenized``; empty if each sequence is a row. Manifest and codes have then an item for each segment.
    """

    id: int
    batch: Batch
    manifest: Any
    announcements: bytes = b""
    has_types: bool = True
    has_mask: bool = True
    vector_codes: bytes = b""
    segments: bytes = b""

    def frames(self) -> list[Any]:
        none = memoryview(b"")
        batch = self.batch
        types, mask = batch.type_ids if self.has_types else none, batch.mask if self.has_mask else none
        return _frames(
            _BatchHead(self.id, self.announcements, None, self.vector_codes, self.segments),
            [batch.lengths, batch.input_ids, types, mask, self.manifest],
        )

    @classmethod
    def from_frames(cls, frames: Sequence[Any]) -> BatchMessage:
        head = _decode_batch_head(frames[0].buffer)
        arrays: Any = [frame.buffer for frame in frames[1:]] if head.small is None else head.small
        lengths, input_ids, type_ids, mask, manifest = arrays
        ids = np.frombuffer(input_ids, np.int32)
        has_types, has_mask = len(type_ids) > 0, len(mask) > 0
        types = np.frombuffer(type_ids, np.int32) if has_types else np.zeros(len(ids), np.int32)
        attend = np.frombuffer(mask, np.int32) if has_mask else _ones(len(ids))
        batch = Batch(ids, types, attend, np.frombuffer(lengths, np.int32))
        more = head.vector_codes, head.segments
        return cls(head.id, batch, memoryview(manifest), head.announcements, has_types, has_mask, *more)


@lru_cache(maxsize=16)
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Returns the name of a dtype; numpy does not cache it."""
    return str(dtype.name)


class Result(msgspec.Struct, frozen=True):
    """The result of one batch, from a worker to the sink.

    Attributes:
        array: ``[n, d]``, or ``[t, d]`` packed if ``token_level``.
        lengths: int32 ``[n]``.
        manifest, announcements, vector_codes: those of the batch; the manifest is int64 ``[n, 2]``.
        duration: nanoseconds that the worker took.
        began_at: monotonic seconds at which the worker began, by the receiver's clock; not sent.
        outputs: the outputs of the rows beside dense vectors; None without any. Their vectors of tokens have the dtype
            of ``array``.
    """

    batch_id: int
    array: np.ndarray
    lengths: np.ndarray
    manifest: Any
    token_level: bool
    duration: int = 0
    announcements: bytes = b""
    vector_codes: bytes = b""
    began_at: float = 0.0
    outputs: TokenOutputs | None = None

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays and of the announcements."""
        size: int = self.array.nbytes + self.lengths.nbytes + self.manifest.nbytes
        size += len(self.announcements) + len(self.vector_codes)
        return size if self.outputs is None else size + self.outputs.num_bytes

    def frames(self) -> list[Any]:
        array = self.array
        (rows, dims), name = array.shape, dtype_name(array.dtype)
        head = _ResultHead(
            self.batch_id,
            self.announcements,
            self.duration,
            name,
            rows,
            dims,
            self.token_level,
            None,
            self.vector_codes,
        )
        arrays = [array, self.lengths, self.manifest]
        if self.outputs is not None:
            head.multi_dims = self.outputs.multi.shape[1]
            arrays += self.outputs.arrays
        return _frames(head, arrays)

    @classmethod
    def from_frames(cls, frames: Sequence[Any], now: float) -> Result:
        """Decodes the frames of a result that arrived at ``now``, in monotonic seconds."""
        head = _decode_result_head(frames[0].buffer)
        arrays: Any = [frame.buffer for frame in frames[1:]] if head.small is None else head.small
        array, lengths, manifest, *others = arrays
        outputs = None
        if head.multi_dims is not None:
            sparse_counts, ids, weights, multi_counts, multi = others
            outputs = TokenOutputs(
                np.frombuffer(sparse_counts, np.int32),
                np.frombuffer(ids, np.int32),
                np.frombuffer(weights, np.float32),
                np.frombuffer(multi_counts, np.int32),
                np.frombuffer(multi, head.dtype).reshape(-1 if head.multi_dims else 0, head.multi_dims),
            )
        return cls(
            head.id,
            np.frombuffer(array, head.dtype).reshape(head.rows, head.dims),
            np.frombuffer(lengths, np.int32),
            np.frombuffer(manifest, np.int64).reshape(-1, 2),
            head.is_token_level,
            head.duration,
            head.announcements,
            head.vector_codes,
            now - head.duration / 1e9,
            outputs,
        )
