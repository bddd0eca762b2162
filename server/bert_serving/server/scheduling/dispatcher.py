"""Dispatches batches to workers, tracks them in flight, and retries failed ones.

Dispatch is by credit. A worker holds up to two batches, a running and a queued one, so it does not idle between them. A
worker whose device computes while the worker prepares holds one more. All but the first are sent only when more
sequences could not improve them. An idle worker may delay a small batch, see
``batch_delay``. A batch stays in flight until the sink has its rows.

- If the engine fails or a worker dies, ``worker_failure`` splits the batch.
- If a batch is lost, it is requeued and its credit returns. The results of a worker arrive in the order of its batches.
  So the result of a later batch shows that an earlier one is lost, and so does an idle worker with batches in flight.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import zmq

from ..config.server_config import ServerConfig
from ..errors import RequestError
from ..ipc.commands import BATCHES_SENT, u64
from ..ipc.messages import BatchMessage, Command, encode_commands, is_large
from ..ipc.model_numbers import BatchNumbers
from ..ipc.sockets import send_at_once
from ..monitoring.histogram import SEQUENCES, Histogram
from .bulk_slices import BulkSlices
from .cache_index import CacheIndex, KnownRows, Slices
from .jobs import Job, JobChunk, pack
from .scheduler import BatchLimits, Scheduler, make_scheduler
from .unannounced import Unannounced
from .worker_failure import BatchRetry, live_slices
from .worker_state import InFlightBatch, WorkerState, without_early

#: Failures in a row after which a worker counts as failing: with one failing sequence, half of the retries succeed.
FAILURE_THRESHOLD = 20
_MIN_TOKENS = 64
#: Seconds in the queue after which a job is announced to the sink ahead of its batch.
ANNOUNCE_AFTER = 1.0


class Dispatcher:
    """Assigns batches to workers.

    Args:
        router: socket to the workers of this server.
        fail_job: called with a job and the error that ends it.
        send_to_sink: called with a command for the sink.
        clock: returns monotonic seconds.
        numbers: ids of batches, which the dispatchers of all models share. Ids are unique across restarts of the
            ventilator, because a worker or the sink may report batches of an earlier one.
        model: index of the model.

    Attributes:
        in_flight: batches by id.
        cache: finds sequences that need no worker.
        next_wakeup: time of the next call of ``dispatch`` if no event occurs before; None if there is none.
        num_tokens, num_padding: tokens, and padding tokens, of finished batches.
    """

    def __init__(
        self,
        config: ServerConfig,
        router: zmq.Socket[bytes],
        fail_job: Callable[[Job, RequestError], None],
        send_to_sink: Callable[[Command], None],
        log: logging.Logger,
        clock: Callable[[], float],
        numbers: BatchNumbers | None = None,
        model: int = 0,
    ) -> None:
        self.config, self.router, self.fail_job = config, router, fail_job
        self.send_to_sink, self.log, self.clock = send_to_sink, log, clock
        self.scheduler: Scheduler[JobChunk] = make_scheduler(config)
        self._retry = BatchRetry(self.scheduler, fail_job)
        self.workers: dict[bytes, WorkerState] = {}
        self.in_flight: dict[int, InFlightBatch] = {}
        self._unannounced = Unannounced(send_to_sink)
        self._numbers, self._model = numbers or BatchNumbers(1), model
        self.cache = CacheIndex(config, send_to_sink, self._new_batch_id)
        self._slices = None if config.http_keys is None else BulkSlices(clock)
        self._epoch = self.next_batch_id >> 40
        self.next_wakeup: float | None = None
        self.batch_sizes = Histogram(SEQUENCES)
        self.num_tokens = self.num_padding = 0

    # ---------------------------------------------------------------- workers

    def register_worker(
        self, name: bytes, info: dict[str, Any], router: zmq.Socket[bytes] | None = None, machine: str = ""
    ) -> None:
        """Adds a worker, or updates the info of a known one.

        Args:
            router: socket to the worker of a joined machine.
            machine: name of that machine.
        """
        state = self.workers.get(name)
        if state is None:
            tokens = self.config.max_batch_tokens or int(info["max_tokens"])
            limits = BatchLimits(min(self.config.max_batch_size, int(info.get("max_sequences", 2**31))), tokens)
            self.workers[name] = WorkerState(name, info, limits, tokens, router or self.router, machine)
            self.log.info("%s joined: %s, %d tokens per batch", name.decode(), info.get("device", "?"), tokens)
        else:
            state.info, state.disconnected_at = info, None

    @property
    def num_joined_workers(self) -> int:
        """Number of workers of joined machines that can compute."""
        return sum(bool(each.machine) and each.is_available for each in self.workers.values())

    def probe(self) -> None:
        """Tells workers which batches were sent to them. Call it once a second.

        A worker that has read this and holds no batch shows that those in flight are lost. A worker to which nothing
        can be sent has died; a joined one is lost after ``-join_timeout``.
        """
        sent = encode_commands([[BATCHES_SENT, u64(self.next_batch_id - 1)]])
        for state in list(self.workers.values()):
            try:
                state.router.send_multipart([state.name, b"", sent], zmq.NOBLOCK)
            except zmq.ZMQError:  # the connection is closed
                self._on_disconnected(state)

    def _on_disconnected(self, state: WorkerState) -> None:
        """Handles a send that failed, because the connection is closed.

        A worker of this server has died then. The report of the supervisor may be lost while the ventilator starts, or
        precede the registration of the dead worker. The connection of a joined worker may have been cut.
        """
        if not state.machine:
            self.worker_lost(state.name)
            return
        now = self.clock()
        state.disconnected_at = now if state.disconnected_at is None else state.disconnected_at
        if now - state.disconnected_at > self.config.join_timeout:
            self.worker_lost(state.name, is_death=False)

    def worker_lost(self, name: bytes, is_death: bool = True) -> None:
        """Removes a worker and requeues its batches. If it died, its running batch counts as a crash."""
        state = self.workers.pop(name, None)
        if state is None:
            return
        held = {batch_id: self.in_flight.pop(batch_id) for batch_id in state.in_flight}
        crashed = self._retry.blame(list(held), state.computes_several) if is_death else None
        for batch_id, batch in held.items():
            self._unannounced.restore(batch.announcements)
            if batch_id != crashed:
                self.scheduler.requeue(live_slices(batch.slices))
        reason = self._retry.worker_died(held[crashed].slices) if crashed is not None else ""
        for batch_id in held:
            self._queue_waiting(batch_id, reason if batch_id == crashed else "")
        if held:
            reason = "died" if is_death else "is lost"
            self.log.warning("%s %s; requeuing its %d batches", name.decode(), reason, len(held))

    def drain_worker(self, name: bytes) -> bool:
        """Sends no more batches to a worker. Returns true if it holds none, or is unknown."""
        state = self.workers.get(name)
        if state is not None:
            state.is_draining = True
        return state is None or not state.in_flight

    def reset(self) -> None:
        """Clears the queue and the batches in flight. The caller adds every unfinished job again."""
        self.scheduler = make_scheduler(self.config)
        self._retry = BatchRetry(self.scheduler, self.fail_job)
        self.cache.reset()
        self.in_flight.clear()
        self._unannounced.clear()
        for state in self.workers.values():
            state.in_flight.clear()

    @property
    def is_failing(self) -> bool:
        """Whether all workers fail on all batches."""
        return bool(self.workers) and all(state.failures >= FAILURE_THRESHOLD for state in self.workers.values())

    # ---------------------------------------------------------------- batches

    def add(self, chunk: JobChunk, announcement: Command) -> None:
        """Queues the sequences of a chunk. ``announcement`` is its command for the sink.

        A message to the sink costs as much as the rest of a short request. So the announcement of a job that fits in
        one batch travels with this batch.
        """
        job = chunk.job
        if job.is_complete and len(job.chunks) == 1:
            self._unannounced[job] = announcement
        else:
            self.send_to_sink(announcement)
        if self.cache.may_know(job):
            self._queue(chunk, np.arange(len(chunk.tokenized.lengths)))
        else:
            self.scheduler.add(chunk, job.flow, chunk.tokenized.lengths, job.size, share=job.share)

    def _queue(self, chunk: JobChunk, rows: np.ndarray) -> None:
        """Queues rows of a chunk, except those that need no worker."""
        known, others = self.cache.find(chunk, rows)
        self._serve(known)
        if len(others):
            job = chunk.job
            self.scheduler.add(chunk, job.flow, chunk.tokenized.lengths[others], job.size, others, job.share)

    def _serve(self, known: KnownRows) -> None:
        """Announces the jobs of rows that need no worker, and asks the sink for the rows."""
        if known:
            for job in known.jobs():
                self._unannounced.send(job)
            self.cache.serve(known)

    def _queue_waiting(self, batch_id: int, reason: str) -> None:
        """Queues the sequences that waited for a batch without vectors, or fails them if ``reason`` is not empty."""
        for chunk, row in self.cache.batch_failed(batch_id):
            if chunk.job.failed:  # by an earlier row
                continue
            if reason:
                self._retry.reject(chunk, row, reason)
            else:
                self._queue(chunk, np.array([row]))

    def cache_missed(self, batch_id: int, missing: bytes) -> None:
        """Queues the rows of CACHED_ROWS again: the sink has dropped the entries ``missing``, int64 ``[n]``."""
        for each in self.cache.fetch_missed(batch_id, missing):
            self._queue(each.key, each.rows)

    def drop(self, jobs: Sequence[Job]) -> None:
        """Removes the queued sequences of jobs."""
        for job in jobs:
            self._unannounced.pop(job, None)
        chunks = {chunk for job in jobs for chunk in job.chunks}
        if chunks:
            for flow in {job.flow for job in jobs}:
                self.scheduler.drop(flow, chunks)

    def announce_waiting(self) -> None:
        """Announces jobs that have been queued long, so that the sink checks whether their clients are connected."""
        self._unannounced.send_older(self.clock() - ANNOUNCE_AFTER)

    def dispatch(self) -> None:
        """Sends batches while sequences are queued and a worker has credit."""
        self.next_wakeup = None
        while self.scheduler.num_sequences:
            free = [state for state in self.workers.values() if state.has_credit(bool(self._retry.num_alone))]
            if free and self.scheduler.has_bulk_only:
                free, self.next_wakeup = without_early(free, self.clock())
            if not free:
                return
            state = min(free, key=lambda s: (len(s.in_flight), sum(self.in_flight[b].tokens for b in s.in_flight)))
            if self._slices is not None:
                picked = self._slices.pick(self.scheduler, state, self.workers.values(), free, self.in_flight)
                if picked is None:
                    self.next_wakeup = self._slices.ends_at
                    return
                state = picked
            if state.in_flight and not self.scheduler.has_full_batch(state.limits):
                return  # the worker is busy: let the next batch grow
            if self._should_delay(state, free):
                self.next_wakeup = state.batch_delay.deadline
                return
            batch_id = self._new_batch_id()
            known, slices = self.cache.take_known(self._next_batch(state), batch_id)
            self._serve(known)
            if slices:
                self._send(state, batch_id, slices)

    def _next_batch(self, state: WorkerState) -> Slices:
        if self._slices is None:
            mixed_tokens = state.late_bulk.mixed_tokens(state.limits.max_tokens)
            return self.scheduler.next_batch(state.limits, mixed_tokens=mixed_tokens)
        return self._slices.next_batch(self.scheduler, state, self.workers.values())

    def _should_delay(self, state: WorkerState, free: list[WorkerState]) -> bool:
        """Returns whether an idle worker waits for more sequences. It does not if another worker is idle too."""
        queue = self.scheduler
        return (
            not state.in_flight
            and all(other.in_flight for other in free if other is not state)
            and not queue.has_full_batch(state.limits)
            and state.batch_delay.should_wait(queue.num_sequences, queue.num_tokens, self.clock())
        )

    @property
    def next_batch_id(self) -> int:
        """Lower bound of the id of the next batch."""
        return self._numbers.next

    def _new_batch_id(self) -> int:
        return self._numbers.take(self._model)

    def _send(self, state: WorkerState, batch_id: int, slices: Slices) -> None:
        packed = pack(slices)
        announcements = self._unannounced.take(slices)
        encoded = encode_commands(list(announcements.values())) if announcements else b""
        options = packed.has_types, packed.has_mask, packed.vector_codes, packed.segments
        message = BatchMessage(batch_id, packed.batch, packed.manifest, encoded, *options)
        frames = message.frames()
        try:
            send_at_once(state.router, [state.name, *frames], copy=not is_large(frames))
        except zmq.ZMQError as error:
            self.log.warning("cannot send a batch to %s (%s); requeuing it", state.name.decode(), error)
            self._unannounced.update(announcements)
            self.scheduler.requeue(slices)
            self._queue_waiting(batch_id, "")
            self._on_disconnected(state)
            return
        tokens, sequences = packed.batch.num_tokens, packed.batch.num_sequences
        padding = 0 if sequences == 1 else int(packed.batch.lengths.max()) * sequences - tokens
        counts = tokens, sequences, padding
        self.in_flight[batch_id] = InFlightBatch(state.name, slices, *counts, announcements, self.scheduler.is_bulk)
        if not state.in_flight and not state.overlaps:
            state.late_bulk.on_start(tokens, self.clock())
        state.in_flight[batch_id] = None

    def batch_done(self, batch_id: int, started_at: float) -> Slices:
        """Records that the sink has the rows of a batch, which its worker started at ``started_at`` (seconds).

        Returns its slices, or those of CACHED_ROWS; an empty list if the batch is not in flight any more.
        """
        batch = self._pop_in_flight(batch_id)
        if batch is None:
            return self.cache.fetch_done(batch_id)
        self.cache.batch_done(batch_id)
        self.batch_sizes.observe(batch.sequences)
        self.num_tokens += batch.tokens
        self.num_padding += batch.padding
        state = self.workers.get(batch.worker)
        if state is not None:
            self._requeue_lost(state, [earlier for earlier in state.in_flight if earlier < batch_id])
            state.num_batches += 1
            state.failures = 0
            state.num_sequences += batch.sequences
            state.num_tokens += batch.tokens
            now = self.clock()
            state.last_seconds = now - started_at
            if not state.overlaps:
                state.late_bulk.on_done(batch.tokens, state.last_seconds)
                if state.in_flight:
                    state.late_bulk.on_start(self.in_flight[next(iter(state.in_flight))].tokens, now)
            if self._slices is not None:
                state.costs.add(batch.tokens, state.last_seconds, batch.is_bulk)
            if not state.in_flight:
                sizes = [(len(each.rows), each.key.job.size) for each in batch.slices]
                answered = sum(rows for rows, size in sizes if rows == size)
                state.batch_delay.on_batch_done(answered, self.scheduler.num_sequences, state.last_seconds, now)
            # After an out-of-memory error the token limit recovers by a sixteenth per batch.
            if state.limits.max_tokens < state.full_tokens:
                tokens = min(state.full_tokens, state.limits.max_tokens + max(1, state.limits.max_tokens // 16))
                state.limits = BatchLimits(state.limits.max_sequences, tokens)
        self._retry.succeeded(batch.slices)
        return batch.slices

    def batch_failed(self, batch_id: int, kind: str, message: str) -> None:
        """Records that the engine failed on a batch: ``kind`` is ``oom``, ``nonfinite`` or ``error``."""
        batch = self._pop_in_flight(batch_id)
        if batch is None:
            return
        name = batch.worker.decode()
        self.log.warning("%s failed on %d sequences: %s", name, batch.sequences, message)
        state = self.workers.get(batch.worker)
        if state is not None:
            state.failures += 1
        if kind == "oom" and state is not None:
            tokens = max(_MIN_TOKENS, min(state.limits.max_tokens, batch.tokens) // 2)
            state.limits = BatchLimits(state.limits.max_sequences, tokens)
            self.log.warning("%s is out of memory; reducing its batches to %d tokens", name, tokens)
        self._unannounced.restore(batch.announcements)
        self._queue_waiting(batch_id, self._retry.engine_failed(batch.slices, message))

    def worker_idle(self, name: bytes, last_batch: int) -> None:
        """Requeues batches in flight, up to ``last_batch``, of a worker that held none when it sent this report.

        Their results have reached the sink before the report, or are lost.
        """
        state = self.workers.get(name)
        if state is not None and last_batch >> 40 == self._epoch:
            self._requeue_lost(state, [batch_id for batch_id in state.in_flight if batch_id <= last_batch])

    def _requeue_lost(self, state: WorkerState, batch_ids: list[int]) -> None:
        if not batch_ids:
            return
        for batch_id in batch_ids:
            del state.in_flight[batch_id]
            batch = self.in_flight.pop(batch_id)
            self._unannounced.restore(batch.announcements)
            self.scheduler.requeue(live_slices(batch.slices))
            self._queue_waiting(batch_id, "")
        self.log.warning("%d batches of %s are lost; requeuing them", len(batch_ids), state.name.decode())

    def _pop_in_flight(self, batch_id: int) -> InFlightBatch | None:
        batch = self.in_flight.pop(batch_id, None)
        if batch is not None and batch.worker in self.workers:
            self._retry.num_alone = max(0, self._retry.num_alone - 1)
            self.workers[batch.worker].in_flight.pop(batch_id, None)
        return batch
