"""Holds requests in progress: their tokens, and the rows that are still missing at the sink."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import msgspec
import numpy as np

from ..engines.batch import Batch
from ..model.token_heads import TextFrame
from ..monitoring.timing import Timing
from ..shares.job_usage import JobUsage
from ..shares.share import Share
from ..tokenization.tokenizer import Tokenized
from ..tokenization.windows import WHOLE
from .scheduler import BatchSlice

_NONE = np.zeros(0, np.int32)
#: Offsets of a single sequence, which are not written to.
_NO_OFFSET = np.zeros(1, np.int64)
_NO_OFFSET.flags.writeable = False


class RequestKey(NamedTuple):
    """Identifies a request. A repeated request has the same key; ``digest`` is that of its texts and options."""

    identity: bytes
    request_id: bytes
    digest: bytes


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How the texts of a request are computed, and what its reply includes.

    Attributes:
        wants_timing, wants_num_tokens: whether the reply includes the timing, and the number of tokens.
        prompt: text before each text; None for that of the server.
        truncate: whether a text that is too long is truncated; it is refused if not.
        vector_code: ``VectorOptions.code`` of normalization, dimensions and embedding type; 0 for those of the server.
        dimensions: number of leading dimensions in the reply; None for all.
        vector_space: space of the vectors, which the reply names; empty for a request without options.
        pairs: true: each item of the request is a list of two texts; false: no text is a pair; None: as in 1.10.
        long: ``mean``, ``chunks`` or ``late`` if texts that are too long become parts; else empty.
        makes_unit: the sink normalizes the vectors.
        row_bytes: size of a vector of an embedding type; 0 for that of the server.
        type_code: ``VectorOptions.code`` with the embedding type of vectors that the sink converts at the end; else 0.
        outputs: the kinds of vectors in the reply; empty for dense ones alone.
        frame: what the texts get beside their own tokens; None for nothing.
        columns: columns from and to of each part of a vector in the rows of workers; empty for the whole rows.
        sent_bytes: size of these rows if the request has a pooling of its own; else 0.
        range_space: space whose ranges the embedding type needs, if it is not that of ``type_code``.
    """

    wants_timing: bool = False
    wants_num_tokens: bool = False
    prompt: str | None = None
    truncate: bool = True
    vector_code: int = 0
    dimensions: int | None = None
    vector_space: str = ""
    pairs: bool | None = None
    long: str = ""
    makes_unit: bool = False
    row_bytes: int = 0
    type_code: int = 0
    outputs: tuple[str, ...] = ()
    frame: TextFrame | None = None
    columns: tuple[tuple[int, int], ...] = ()
    sent_bytes: int = 0
    range_space: str = ""


#: Options of a request without options.
NO_OPTIONS = JobOptions()


class Job(msgspec.Struct, eq=False):
    """Holds one request from its arrival until the sink has all its rows. Times are monotonic seconds.

    Attributes:
        local_id: number in the ventilator process.
        id: number in batches and at the sink, assigned with the first announcement, 0 before. Unique for the lifetime
            of the server, also across restarts of the ventilator; a later announcement has a higher number.
        last_received_at: time at which the request was last received; a client repeats it after a reconnect.
        query_outstanding: the sink has not answered ``QUERY_JOB`` yet.
        retry_requested: the request was received again after this query was sent.
        is_recomputed: the sink published the result before, and the job runs again.
        size: number of rows: of the texts, or of their parts.
        missing: number of sequences whose rows the sink does not have.
        is_complete: all texts are tokenized, since ``tokenized_at``.
        started_at: earliest start of a finished batch.
        held_bytes: memory of the job and its chunks.
        result_bytes: memory of its vectors.
        usage: counts it against the limits of its name; None without ``-http_keys``.
    """

    local_id: int
    key: RequestKey
    size: int
    received_at: float
    options: JobOptions = NO_OPTIONS
    last_received_at: float = 0.0
    query_outstanding: bool = False
    retry_requested: bool = False
    is_recomputed: bool = False
    tokenized_at: float = 0.0
    started_at: float = inf
    id: int = 0
    chunks: list[JobChunk] = []
    missing: int = 0
    held_bytes: int = 0
    result_bytes: int = 0
    is_complete: bool = False
    failed: bool = False
    truncated: list[int] = []
    usage: JobUsage | None = None

    def __post_init__(self) -> None:
        self.missing = self.size
        self.last_received_at = self.received_at

    @property
    def num_sequences(self) -> int:
        """Number of sequences of the texts that are tokenized; less than the rows if windows have several parts."""
        return sum(len(chunk.tokenized.lengths) for chunk in self.chunks)

    @property
    def identity(self) -> bytes:
        return self.key.identity

    @property
    def request_id(self) -> bytes:
        return self.key.request_id

    @property
    def num_truncated(self) -> int:
        """Number of texts that were truncated."""
        number = 0
        for chunk in self.chunks:
            number += len(chunk.tokenized.truncated_texts)
        return number

    @property
    def share(self) -> Share | None:
        return None if self.usage is None else self.usage.share

    @property
    def flow(self) -> bytes:
        """Identifies the client in the scheduler. The HTTP server is one client of each of its names."""
        return self.identity if self.usage is None else self.usage.name + b"\0" + self.identity

    @property
    def starts_complete(self) -> bool:
        """Whether the job starts when all its texts are tokenized."""
        return bool(self.options.long) or (self.usage is not None and self.usage.waits_for_end)

    def timing(self, done_at: float) -> Timing:
        """Returns the durations of the stages of a job whose last row arrived at ``done_at``."""
        return Timing.of(self.received_at, self.tokenized_at, self.started_at, done_at)


class JobChunk(msgspec.Struct, eq=False):
    """Holds consecutive tokenized sequences of a job.

    Attributes:
        first_row: row of the first sequence in the job.
        tokens_json: tokens of the sequences, for ``-show_tokens_to_client``.
        waits_for_equals: whether its sequences wait for equal ones that a worker computes.
        offsets: first token of each sequence, int64.
        key: key of a single sequence, once the cache index has computed it.
    """

    job: Job
    first_row: int
    tokenized: Tokenized
    tokens_json: bytes = b""
    waits_for_equals: bool = True
    offsets: np.ndarray = _NO_OFFSET
    key: bytes = b""

    def __post_init__(self) -> None:
        lengths = self.tokenized.lengths
        if len(lengths) > 1:
            self.offsets = np.zeros(len(lengths), np.int64)
            np.cumsum(lengths[:-1], out=self.offsets[1:])

    @property
    def parts_bytes(self) -> bytes:
        """The parts of texts that the sequences are, as the sink receives them; empty if they are whole texts."""
        parts = self.tokenized.parts
        return b"" if parts is None else parts.tobytes()

    @property
    def num_rows(self) -> int:
        """Number of rows of the sequences in the reply, or in the mean."""
        parts = self.tokenized.parts
        return len(self.tokenized.lengths) if parts is None else len(parts)

    def segments_of(self, sequences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the segments of some sequences, int32 ``[p, 3]``, and the rows of their parts, ``[p]``.

        The first column is the place of the sequence in ``sequences``.
        """
        segments = self.tokenized.segments
        if segments is None:
            whole = np.full((len(sequences), 3), (0, 0, WHOLE), np.int32)
            whole[:, 0] = np.arange(len(sequences))
            return whole, sequences
        first, last = np.searchsorted(segments[:, 0], sequences), np.searchsorted(segments[:, 0], sequences, "right")
        parts = _ranges(first, last - first)
        found = segments[parts]
        found[:, 0] = np.repeat(np.arange(len(sequences)), last - first)
        return found, parts

    def describe(self, index: int) -> str:
        """Names a sequence, for an error message."""
        parts = self.tokenized.parts
        if parts is None:
            return f"text {self.first_row + index}"
        own = self.segments_of(np.array([index]))[1]
        text, start, stop = int(parts[own[0], 0]), int(parts[own[0], 1]), int(parts[own[-1], 2])
        return f"the part of text {text} from character {start} to {stop}"


def token_width(chunks: list[JobChunk], max_positions: int) -> int:
    """Returns the tokens per sequence in token-level output if ``max_seq_len`` is NONE, as in 1.10.0.

    The width is the largest number of words in a sequence, with both texts of a pair, plus the special tokens. There
    are two special tokens, or three if any sequence of the request is a pair.
    """
    words, has_pair = 0, False
    for chunk in chunks:
        lengths, type_ids = chunk.tokenized.lengths, chunk.tokenized.type_ids
        is_pair = np.zeros(len(lengths), bool) if type_ids is None else np.add.reduceat(type_ids, chunk.offsets) > 0
        words = max(words, int((lengths - 2 - is_pair).max()))
        has_pair = has_pair or bool(is_pair.any())
    return min(words + 2 + has_pair, max_positions)


@dataclass(slots=True)
class PackedBatch:
    """Holds the arrays of a batch.

    ``manifest`` is int64 ``[n, 2]``: job id and row of each sequence. ``vector_codes`` and ``segments`` are those of
    ``BatchMessage``; with segments, manifest and codes have an item for each of them.
    """

    batch: Batch
    has_types: bool
    has_mask: bool
    manifest: np.ndarray
    vector_codes: bytes = b""
    segments: bytes = b""


def pack(slices: list[BatchSlice[JobChunk]]) -> PackedBatch:
    """Gathers the tokens of a batch in the order of its slices."""
    packed = _pack_sequences(slices)
    if any(each.key.tokenized.segments is not None for each in slices):
        _add_segments(packed, slices)
    return packed


def _add_segments(packed: PackedBatch, slices: list[BatchSlice[JobChunk]]) -> None:
    """Adds the parts of windows to a batch."""
    segments, manifests, codes, num_sequences = [], [], [], 0
    for each in slices:
        found, rows = each.key.segments_of(each.rows)
        found[:, 0] += num_sequences
        num_sequences += len(each.rows)
        manifest = np.empty((len(rows), 2), np.int64)
        manifest[:, 0] = each.key.job.id
        manifest[:, 1] = rows + each.key.first_row
        segments.append(found)
        manifests.append(manifest)
        codes.append(np.full(len(rows), each.key.job.options.vector_code, np.int32))
    packed.segments = _concatenate(segments).tobytes()
    packed.manifest = _concatenate(manifests)
    packed.vector_codes = _concatenate(codes).tobytes()


def _pack_sequences(slices: list[BatchSlice[JobChunk]]) -> PackedBatch:
    chunks = [each.key for each in slices]
    if len(chunks) == 1 and len(chunks[0].tokenized.lengths) == 1:
        return _pack_one(chunks[0])
    if all(len(chunk.tokenized.lengths) == 1 for chunk in chunks):
        return _pack_singles(chunks)
    ids, types, masks, manifests = [], [], [], []
    has_types = any(chunk.tokenized.type_ids is not None for chunk in chunks)
    has_mask = any(chunk.tokenized.mask is not None for chunk in chunks)
    for each, chunk in zip(slices, chunks, strict=True):
        tokenized = chunk.tokenized
        if len(each.rows) == 1:
            start = int(chunk.offsets[each.rows[0]])
            tokens: slice | np.ndarray = slice(start, start + int(each.lengths[0]))
        else:
            tokens = _ranges(chunk.offsets[each.rows], each.lengths)
        count = int(each.lengths.sum())
        ids.append(tokenized.input_ids[tokens])
        if has_types:
            types.append(np.zeros(count, np.int32) if tokenized.type_ids is None else tokenized.type_ids[tokens])
        if has_mask:
            masks.append(np.ones(count, np.int32) if tokenized.mask is None else tokenized.mask[tokens])
        manifest = np.empty((len(each.rows), 2), np.int64)
        manifest[:, 0] = chunk.job.id
        manifest[:, 1] = each.rows + chunk.first_row
        manifests.append(manifest)
    lengths = _concatenate([each.lengths for each in slices]).astype(np.int32, copy=False)
    batch = Batch(
        _concatenate(ids),
        _concatenate(types) if has_types else _NONE,
        _concatenate(masks) if has_mask else _NONE,
        lengths,
    )
    codes = [chunk.job.options.vector_code for chunk in chunks]
    vector_codes = (
        np.repeat(codes, [len(each.rows) for each in slices]).astype(np.int32).tobytes() if any(codes) else b""
    )
    return PackedBatch(batch, has_types, has_mask, _concatenate(manifests), vector_codes)


def _pack_one(chunk: JobChunk) -> PackedBatch:
    """Packs a single text without copying: the fast path of ``pack``."""
    tokenized = chunk.tokenized
    has_types, has_mask = tokenized.type_ids is not None, tokenized.mask is not None
    types, mask = (_NONE if array is None else array for array in (tokenized.type_ids, tokenized.mask))
    batch = Batch(tokenized.input_ids, types, mask, tokenized.lengths)
    code = chunk.job.options.vector_code
    vector_codes = code.to_bytes(4, sys.byteorder) if code else b""
    manifest = np.array([[chunk.job.id, chunk.first_row]], np.int64)
    return PackedBatch(batch, has_types, has_mask, manifest, vector_codes)


def _pack_singles(chunks: list[JobChunk]) -> PackedBatch:
    """Packs chunks of one text each, those of many clients: ``pack`` without a step in numpy for each."""
    texts = [chunk.tokenized for chunk in chunks]
    has_types = any(text.type_ids is not None for text in texts)
    has_mask = any(text.mask is not None for text in texts)
    lengths = [len(text.input_ids) for text in texts]
    types, mask = _NONE, _NONE
    if has_types:
        types = _concatenate([np.zeros_like(t.input_ids) if t.type_ids is None else t.type_ids for t in texts])
    if has_mask:
        mask = _concatenate([np.ones_like(t.input_ids) if t.mask is None else t.mask for t in texts])
    batch = Batch(_concatenate([text.input_ids for text in texts]), types, mask, np.array(lengths, np.int32))
    manifest = np.array([(chunk.job.id, chunk.first_row) for chunk in chunks], np.int64)
    codes = [chunk.job.options.vector_code for chunk in chunks]
    vector_codes = np.array(codes, np.int32).tobytes() if any(codes) else b""
    return PackedBatch(batch, has_types, has_mask, manifest, vector_codes)


def _concatenate(arrays: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(arrays[0] if len(arrays) == 1 else np.concatenate(arrays))


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns the concatenated indexes ``start .. start + length - 1`` of all pairs, int64."""
    ends = np.cumsum(lengths, dtype=np.int64)
    indexes: np.ndarray = np.arange(ends[-1]) + np.repeat(starts - (ends - lengths), lengths)
    return indexes
