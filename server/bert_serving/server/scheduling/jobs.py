"""A job is a request under way: whose it is, its tokens, and how many of its rows are still to come."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np

from ..engines.batch import Batch
from ..monitoring.timing import Timing
from ..tokenization.tokenizer import Tokenized
from .scheduler import BatchSlice

_NONE = np.zeros(0, np.int32)


@dataclass(eq=False, slots=True)
class Job:
    """One request from its arrival until the sink holds all its rows.

    Attributes:
        ticket: its number in the ventilator.
        id: its number in batches and in the sink, given when the sink is first told of it, 0 before. Unique for the
            life of the server, across restarts of the ventilator too; who is told later has the higher one.
        asked_at: when it was received last; a client repeats what may have been lost.
        is_asked: the sink was asked whether the answer went out before the request came again, and has not replied.
        asks_again: it came once more since then.
        is_computed_again: it had been answered before.
        size: number of texts.
        missing: rows that the sink does not hold yet.
        sealed: all texts are tokenized, since ``tokenized_at``.
        began_at: when a worker began with its first batch, of those that are done.
        wants_timing, wants_num_tokens: the reply is to tell how long it took, and how many tokens its texts have.
        fingerprint: identity, request id and content; a repeated request has the same.
    """

    ticket: int
    identity: bytes
    request_id: bytes
    size: int
    received_at: float
    asked_at: float = 0.0
    is_asked: bool = False
    asks_again: bool = False
    is_computed_again: bool = False
    wants_timing: bool = False
    wants_num_tokens: bool = False
    tokenized_at: float = 0.0
    began_at: float = inf
    id: int = 0
    fingerprint: tuple[bytes, bytes, bytes] = (b"", b"", b"")
    parts: list[Part] = field(default_factory=list)
    missing: int = 0
    sealed: bool = False
    failed: bool = False
    truncated: list[int] = field(default_factory=list)
    num_truncated: int = 0

    def __post_init__(self) -> None:
        self.missing = self.size
        self.asked_at = self.received_at

    def timing(self, done_at: float) -> Timing:
        """How long it took, once its last row is there. Times are monotonic seconds."""
        return Timing.of(self.received_at, self.tokenized_at, self.began_at, done_at)


@dataclass(eq=False, slots=True)
class Part:
    """Consecutive texts of a job, tokenized together. ``first_row`` is the job's row of the first."""

    job: Job
    first_row: int
    tokenized: Tokenized
    tokens_json: bytes = b""
    offsets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        lengths = self.tokenized.lengths
        self.offsets = np.zeros(len(lengths), np.int64)
        if len(lengths) > 1:
            np.cumsum(lengths[:-1], out=self.offsets[1:])


def token_width(parts: list[Part], max_positions: int) -> int:
    """Tokens per sequence in token-level output when ``max_seq_len`` is NONE, as 1.10.0 counts them.

    The most words of a sequence (both texts of a pair together), and room for [CLS] and [SEP], or for three of them as
    soon as one sequence of the request is a pair.
    """
    words, has_pair = 0, False
    for part in parts:
        lengths, type_ids = part.tokenized.lengths, part.tokenized.type_ids
        is_pair = np.zeros(len(lengths), bool) if type_ids is None else np.add.reduceat(type_ids, part.offsets) > 0
        words = max(words, int((lengths - 2 - is_pair).max()))
        has_pair = has_pair or bool(is_pair.any())
    return min(words + 2 + has_pair, max_positions)


@dataclass(slots=True)
class PackedBatch:
    """Arrays of a batch, and for whom they are: ``manifest`` int64 ``[n, 2]``, job id and row."""

    batch: Batch
    has_types: bool
    has_mask: bool
    manifest: np.ndarray


def pack(pieces: list[BatchSlice[Part]]) -> PackedBatch:
    """Gathers the tokens of a batch's sequences, in the order of its pieces."""
    parts: list[Part] = [piece.key for piece in pieces]
    if len(parts) == 1 and len(parts[0].tokenized.lengths) == 1:
        return _pack_one(parts[0])
    ids, types, masks, manifests = [], [], [], []
    has_types = any(part.tokenized.type_ids is not None for part in parts)
    has_mask = any(part.tokenized.mask is not None for part in parts)
    for piece, part in zip(pieces, parts, strict=True):
        tokenized = part.tokenized
        if len(piece.rows) == 1:
            start = int(part.offsets[piece.rows[0]])
            where: slice | np.ndarray = slice(start, start + int(piece.lengths[0]))
        else:
            where = _ranges(part.offsets[piece.rows], piece.lengths)
        count = int(piece.lengths.sum())
        ids.append(tokenized.input_ids[where])
        if has_types:
            types.append(np.zeros(count, np.int32) if tokenized.type_ids is None else tokenized.type_ids[where])
        if has_mask:
            masks.append(np.ones(count, np.int32) if tokenized.mask is None else tokenized.mask[where])
        manifest = np.empty((len(piece.rows), 2), np.int64)
        manifest[:, 0] = part.job.id
        manifest[:, 1] = piece.rows + part.first_row
        manifests.append(manifest)
    lengths = _join([piece.lengths for piece in pieces]).astype(np.int32, copy=False)
    batch = Batch(_join(ids), _join(types) if has_types else _NONE, _join(masks) if has_mask else _NONE, lengths)
    return PackedBatch(batch, has_types, has_mask, _join(manifests))


def _pack_one(part: Part) -> PackedBatch:
    """``pack`` of one text that came alone: there is nothing to gather, and nobody waits for it."""
    tokenized = part.tokenized
    has_types, has_mask = tokenized.type_ids is not None, tokenized.mask is not None
    types, mask = (_NONE if array is None else array for array in (tokenized.type_ids, tokenized.mask))
    batch = Batch(tokenized.input_ids, types, mask, tokenized.lengths)
    return PackedBatch(batch, has_types, has_mask, np.array([[part.job.id, part.first_row]], np.int64))


def _join(arrays: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indexes ``start .. start + length - 1`` of each pair, one after the other, int64."""
    ends = np.cumsum(lengths, dtype=np.int64)
    indexes: np.ndarray = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return indexes
