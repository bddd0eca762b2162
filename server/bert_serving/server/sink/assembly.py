"""Assembles the rows of many batches into one array for each job."""

from __future__ import annotations

import itertools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any

import msgspec
import numpy as np

from bert_serving.client.protocol import EncodeInfo, error_info

from ..errors import EncodingFailed, RequestError, TooManyTexts
from ..ipc.commands import from_u64
from ..ipc.messages import Command, Result, dtype_name
from ..ipc.token_outputs import TokenOutputs
from ..log import REQUEST
from ..model.token_heads import NO_DENSE_BIT, OUTPUT_BITS
from ..model.vector_options import TYPE_BITS
from ..monitoring.timing import Timing
from .finished_vectors import Quantize, finish_vectors
from .token_outputs import OutputWriter

#: Ids of ended jobs that are remembered. All workers together hold fewer jobs in flight.
MAX_FINISHED = 65536


class SinkJob(msgspec.Struct, eq=False):
    """A request whose rows arrive in any order.

    Attributes:
        missing: number of rows that have not arrived.
        filled: which rows have arrived, bool ``[size]``.
        array: ``[size, d]``, with an embedding type as that type; or ``[size, T, d]`` for token-level output; None
            while ``T`` is unknown.
        pieces: row numbers, lengths and packed rows that wait until ``T`` is known.
        outputs: row numbers, and their outputs beside dense vectors.
        tokens: JSON lists of tokens by their first row.
        parts: parts of texts that the rows are, by the first row; bytes of int32 ``[n, 4]``, see ``Tokenized``.
        metadata: fields of the reply; they arrive with the last chunk.
        is_complete: whether all chunks were announced.
        held_bytes: memory of ``array``, ``pieces`` and ``outputs``.
        began_at: monotonic seconds at which a worker began with the first batch.
    """

    id: int
    size: int
    identity: bytes
    request_id: bytes
    missing: int
    filled: np.ndarray
    array: np.ndarray | None = None
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    outputs: list[tuple[np.ndarray, TokenOutputs]] = []
    tokens: dict[int, bytes] = {}
    parts: dict[int, bytes] = {}
    metadata: dict[str, Any] = {}
    is_complete: bool = False
    began_at: float = inf
    held_bytes: int = 0


def scatter_tokens(out: np.ndarray, rows: np.ndarray, lengths: np.ndarray, packed: np.ndarray) -> None:
    """Writes packed token vectors ``[t, d]`` into ``out[row, position]``, ``out`` ``[n, T, d]``."""
    ends = np.cumsum(lengths, dtype=np.int64)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    out[np.repeat(rows, lengths), positions] = packed


def _size(result: Result) -> int:
    """Returns the bytes of the vectors of a result."""
    return result.array.nbytes + (0 if result.outputs is None else result.outputs.num_bytes)


@lru_cache(maxsize=256)
def _plain_info(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Returns the JSON frame of a reply without metadata: of most short requests it is the same."""
    return EncodeInfo(dtype, shape, "").to_json()


class ResultAssembler:
    """Holds the unfinished jobs of one ventilator. Pure: no sockets.

    Jobs are known by the ventilator's job id. Identity and request id are not unique: clones of a client share them.

    Args:
        width: tokens per sequence in token-level output; None if it is that of the longest sequence of a request.
        publish: called with an identity and the frames of its reply.
        clock: monotonic seconds.
        quantize: converts vectors to the embedding type of their request.
        sent_width: returns the dimensions of a row with a code.
        outputs: writes replies with other outputs than dense vectors.

    Attributes:
        epoch: the ventilator's, in the upper bits of its job ids.
        finished: ids of ended jobs; a later row of theirs is dropped. Ids of ended jobs are not consecutive, because
            announcements arrive in any order.
        num_bytes: memory of the jobs and of the unannounced rows.
        unannounced_rows: rows that overtook the announcement of their job, with the number of calls of
            ``expire`` before them.
    """

    def __init__(
        self,
        width: int | None,
        publish: Callable[[bytes, list[Any]], None],
        log: logging.Logger,
        clock: Callable[[], float],
        quantize: Quantize,
        sent_width: Callable[[int], int],
        outputs: OutputWriter | None = None,
    ) -> None:
        self._outputs = outputs or OutputWriter([])
        self.width, self._publish, self.log, self.clock = width, publish, log, clock
        self._quantize, self._sent_width = quantize, sent_width
        self.epoch = 0
        self.jobs: dict[int, SinkJob] = {}
        self.finished: OrderedDict[int, None] = OrderedDict()
        self.unannounced_rows: dict[int, list[tuple[int, Result]]] = {}
        self._num_expiries = self.num_bytes = 0

    def start_epoch(self, epoch: int) -> int:
        """Forgets the jobs of another ventilator, whose clients send them again. Returns their number."""
        foreign = [job_id for job_id in self.jobs if job_id >> 40 != epoch]
        for job_id in foreign:
            self._hold(self.jobs[job_id], -self.jobs.pop(job_id).held_bytes)
        if epoch != self.epoch:
            for job_id in list(self.unannounced_rows):
                self._pop_unannounced(job_id)
        self.epoch = epoch
        return len(foreign)

    def expire(self, max_calls: int) -> None:
        """Drops unannounced rows after ``max_calls`` calls.

        The age is counted in calls, not in seconds: while this process is suspended, the age does not grow.
        """
        self._num_expiries += 1
        oldest = self._num_expiries - max_calls
        for job_id in [job_id for job_id, rows in self.unannounced_rows.items() if rows[0][0] < oldest]:
            self._pop_unannounced(job_id)

    def _pop_unannounced(self, job_id: int) -> list[tuple[int, Result]]:
        rows = self.unannounced_rows.pop(job_id, [])
        self.num_bytes -= sum(_size(result) for _, result in rows)
        return rows

    def _hold(self, job: SinkJob, size: int) -> None:
        job.held_bytes += size
        self.num_bytes += size

    # ---------------------------------------------------------------- announcements

    def announce(self, command: Command) -> None:
        """Applies a JOB_CHUNK. The first one opens the job, the last one completes it.

        A batch that is computed twice announces its jobs twice.
        """
        _, job_number, size, identity, request_id, first_row, tokens, parts, *metadata = command
        job_id = from_u64(job_number)
        if job_id >> 40 != self.epoch or job_id in self.finished:
            return
        job = self._open(job_id, from_u64(size), identity, request_id)
        if tokens:
            job.tokens[from_u64(first_row)] = tokens
        if parts and (row := from_u64(first_row)) not in job.parts:
            job.parts[row] = parts
            self._hold(job, len(parts))
        if metadata:
            job.metadata = json.loads(metadata[0]) if metadata[0] != b"{}" else {}
            job.is_complete = True
            try:
                self._publish_if_complete(job)
            except (MemoryError, OverflowError) as error:
                self._fail(job, error)

    def _open(self, job_id: int, size: int, identity: bytes, request_id: bytes) -> SinkJob:
        job = self.jobs.get(job_id)
        if job is not None:
            return job
        job = self.jobs[job_id] = SinkJob(job_id, size, identity, request_id, size, np.zeros(size, bool))
        self.log.debug("job register\tsize: %d\tjob id: %r#%s", size, identity, request_id.decode())
        for _, result in self._pop_unannounced(job_id):
            self.add(result)
        return job

    # ---------------------------------------------------------------- rows

    def add(self, result: Result) -> None:
        """Copies the rows of a batch into the arrays of their jobs. The rows of one job are adjacent in a batch."""
        job_ids, rows = result.manifest[:, 0], result.manifest[:, 1]
        changes = (np.flatnonzero(np.diff(job_ids)) + 1).tolist() if len(job_ids) > 1 else []
        cuts = [0, *changes, len(job_ids)]
        ends = np.cumsum(result.lengths, dtype=np.int64) if result.token_level else None
        codes = np.frombuffer(result.vector_codes, np.int32) if result.vector_codes else None
        for start, stop in itertools.pairwise(cuts):
            job_id = int(job_ids[start])
            where = slice(start, stop)
            values = slice(int(ends[start] - result.lengths[start]), int(ends[stop - 1])) if ends is not None else where
            job = self.jobs.get(job_id)
            if job is None:
                if job_id >> 40 == self.epoch and job_id not in self.finished:
                    self._keep_unannounced(result, where, values)
                continue  # finished, cancelled, computed twice, or of another ventilator
            job.began_at = min(job.began_at, result.began_at)
            array = result.array[values]
            try:
                if codes is not None and codes[start] & OUTPUT_BITS:
                    self._add_outputs(job, result, where)
                    array = array[:, :0] if codes[start] & NO_DENSE_BIT else array
                if codes is not None:  # all rows of a job have one code
                    array = self._rows_of(int(codes[start]), array)
                self._fill(job, rows[where], result.lengths[where], array, result.token_level)
            except (MemoryError, OverflowError) as error:
                self._fail(job, error)

    def _add_outputs(self, job: SinkJob, result: Result, where: slice) -> None:
        """Adds the outputs of rows that have not arrived; after a restart, some are computed twice."""
        rows = result.manifest[where, 1]
        missing = np.flatnonzero(~job.filled[rows])
        if result.outputs is not None and len(missing):
            outputs = result.outputs.take(where.start + missing)
            job.outputs.append((rows[missing], outputs))
            self._hold(job, outputs.num_bytes)

    def _rows_of(self, code: int, array: np.ndarray) -> np.ndarray:
        """Returns rows without the zeros beside rows of more dimensions, as the embedding type of their request."""
        if array.shape[1] > (width := self._sent_width(code)):
            array = array[:, :width]
        return self._quantize(code, array, "") if code & TYPE_BITS else array

    def _keep_unannounced(self, result: Result, where: slice, values: slice) -> None:
        rows = Result(
            result.batch_id,
            result.array[values],
            result.lengths[where],
            result.manifest[where],
            result.token_level,
            vector_codes=result.vector_codes[4 * where.start : 4 * where.stop],
            began_at=result.began_at,
            outputs=result.outputs and result.outputs.take(np.arange(where.start, where.stop)),
        )
        self.num_bytes += _size(rows)
        self.unannounced_rows.setdefault(int(rows.manifest[0, 0]), []).append((self._num_expiries, rows))

    def _fill(self, job: SinkJob, rows: np.ndarray, lengths: np.ndarray, values: np.ndarray, token_level: bool) -> None:
        is_all = len(rows) == job.size == job.missing
        if is_all and not token_level and (job.size == 1 or (np.diff(rows) == 1).all()):
            job.missing = 0
            job.filled.fill(True)
            self._hold(job, values.nbytes)
            job.array = values  # the whole request, in order: the worker's buffer is published without a copy
            self._publish_if_complete(job)
            return
        filled = job.filled[rows]
        if filled.any():  # after a restart, some rows are computed twice
            keep = ~filled
            values = values[np.repeat(keep, lengths)] if token_level else values[keep]
            rows, lengths = rows[keep], lengths[keep]
            if not len(rows):
                return
        job.filled[rows] = True
        job.missing -= len(rows)
        if token_level:
            if job.array is None and self.width is not None:
                job.array = np.zeros((job.size, self.width, values.shape[1]), values.dtype)
                self._hold(job, job.array.nbytes)
            if job.array is not None:
                scatter_tokens(job.array, rows, lengths, values)
            else:
                job.pieces.append((rows, lengths, values))
                self._hold(job, values.nbytes)
        else:
            if job.array is None:
                job.array = np.empty((job.size, values.shape[1]), values.dtype)
                self._hold(job, job.array.nbytes)
            job.array[rows] = values
        self._publish_if_complete(job)

    # ---------------------------------------------------------------- replies

    def close(self, job_id: int) -> None:
        """Ends a job; its later rows are dropped."""
        job = self.jobs.pop(job_id, None)
        if job is not None:
            self._hold(job, -job.held_bytes)
        self.finished[job_id] = None
        if len(self.finished) > MAX_FINISHED:
            self.finished.popitem(last=False)

    def _fail(self, job: SinkJob, error: Exception) -> None:
        """Answers a job with an error: its array does not fit into memory, or its vectors into their type."""
        self.close(job.id)
        job.array, job.pieces, job.outputs, job.missing = None, [], [], -1  # never complete
        answer: RequestError = EncodingFailed(str(error))
        if isinstance(error, MemoryError):
            answer = TooManyTexts(
                f"the server has no memory for the vectors of {job.size} texts: send fewer texts at a time"
            )
        self.log.error("the request of %d texts of client %r fails: %s", job.size, job.identity, answer)
        self._publish(job.identity, [error_info(answer.kind, str(answer), answer.details), b"", job.request_id])

    def _publish_if_complete(self, job: SinkJob) -> None:
        if job.missing or not job.is_complete:
            return
        self.close(job.id)
        width = job.metadata.pop("width", 0)
        times = job.metadata.pop("times", None)
        if job.array is None:
            _, _, sample = job.pieces[0]
            job.array = np.zeros((job.size, width, sample.shape[1]), sample.dtype)
            while job.pieces:  # each is freed, so that pieces and array do not take the memory twice
                scatter_tokens(job.array, *job.pieces.pop())
        if job.metadata:
            job.array, job.metadata = finish_vectors(job.array, job.parts, job.metadata, self._quantize)
        if times is not None:
            job.metadata["timing"] = Timing.of(times[0], times[1], job.began_at, self.clock()).to_dict()
        if (names := job.metadata.pop("outputs", None)) is not None:
            job.array, job.metadata = self._outputs.write(names, job.array, job.outputs, job.metadata)
        dtype, shape = dtype_name(job.array.dtype), job.array.shape
        info = EncodeInfo(dtype, shape, "", **job.metadata).to_json() if job.metadata else _plain_info(dtype, shape)
        if job.tokens:
            # Each value is a JSON list; they are joined as text, which saves decoding and encoding them.
            lists = b", ".join(job.tokens[row][1:-1] for row in sorted(job.tokens))
            info = info.replace(b'"tokens": ""', b'"tokens": [' + lists + b"]", 1)
        self._publish(job.identity, [info, np.ascontiguousarray(job.array), job.request_id])
        self.log.log(REQUEST, "send back\tsize: %d\tjob id: %r#%s", job.size, job.identity, job.request_id.decode())
