"""Batches on their way: which worker holds which, and what happens when one does not come back.

Dispatch is by credit. A worker may hold two batches, one that it computes and one that waits, so it never idles
between them; the second is sent only when waiting could not improve it. Before an idle worker begins with a few
sequences, it may wait a moment for more, see ``batch_delay``. A batch stays here until the sink has its rows. If its
engine fails, it goes out again, in halves, until the one sequence that does the harm is alone; that sequence's request
gets an error and nobody else's. If its worker dies, it goes out again in eighths: each death costs the start of a
worker, so there should be few of them.

A lost batch gives its credit back. A worker's results arrive in the order of its batches, so the result of a later
batch shows that an earlier one is lost. So does an idle worker while its batches count as in flight.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from ..errors import EncodingFailed, RequestError
from ..ipc.messages import BatchMessage, Command, encode_commands, is_large
from ..monitoring.histogram import SEQUENCES, Histogram
from .batch_delay import AdaptiveBatchDelay
from .jobs import Job, Part, pack
from .scheduler import BatchLimits, BatchSlice, Scheduler, split

CREDITS = 2
#: A sequence that was alone in a batch when so many workers died is given up.
MAX_DEATHS = 2
#: Into so many batches one is split when its worker died.
DEATH_SPLIT = 8
#: A worker that failed so many times in a row does not suffer from one bad sequence: the halves without it succeed.
FAILING = 20
_MIN_TOKENS = 64
#: Seconds that a batch takes to reach its worker at most. Later, an idle worker does not hold it: the batch is lost.
MAX_DELIVERY_SECONDS = 5.0
#: Seconds that a job waits for a worker before the sink is told of it.
TELL_AFTER = 1.0


@dataclass(slots=True)
class InFlightBatch:
    """A batch in a worker's hands.

    Attributes:
        padding: tokens that it takes to make all its sequences as long as the longest.
        words: of the jobs that the sink hears of by this batch alone.
    """

    worker: bytes
    pieces: list[BatchSlice[Part]]
    sent_at: float
    tokens: int
    sequences: int
    padding: int
    words: dict[Job, Command]


@dataclass(slots=True)
class WorkerState:
    """What the ventilator knows of a worker.

    Attributes:
        in_flight: ids of its batches, oldest first.
        is_retiring: it is about to be replaced and gets no more work.
        failures: batches in a row that its engine refused.
        batch_delay: whether it should begin with few sequences, when it is idle.
    """

    name: bytes
    facts: dict[str, Any]
    limits: BatchLimits
    full_tokens: int
    in_flight: OrderedDict[int, None] = field(default_factory=OrderedDict)
    is_retiring: bool = False
    num_batches: int = 0
    num_sequences: int = 0
    num_tokens: int = 0
    last_seconds: float = 0.0
    failures: int = 0
    batch_delay: AdaptiveBatchDelay = field(default_factory=AdaptiveBatchDelay)


class Dispatcher:
    """Scheduler, workers and batches in flight.

    Args:
        router: socket to the workers.
        fail: called with a job and the error that ends it.
        tell: called with a word for the sink.
        clock: monotonic seconds.
        first_batch: number of the first batch. A worker or a sink may still speak of batches of a ventilator before
            this one, so no two of them use the same numbers.
    """

    def __init__(
        self,
        config: ServerConfig,
        router: zmq.Socket[bytes],
        fail: Callable[[Job, RequestError], None],
        tell: Callable[[Command], None],
        log: logging.Logger,
        clock: Callable[[], float],
        first_batch: int = 1,
    ) -> None:
        self.config, self.router, self.fail, self.tell, self.log = config, router, fail, tell, log
        self.clock = clock
        self.scheduler: Scheduler[Part] = Scheduler(config.priority_batch_size)
        self.workers: dict[bytes, WorkerState] = {}
        self.flights: dict[int, InFlightBatch] = {}
        self._untold: dict[Job, Command] = {}  # jobs of one part that the sink has not heard of, oldest first
        self.next_id = first_batch
        self._epoch = first_batch >> 40
        self._deaths: dict[tuple[int, int], int] = {}  # (job, row) -> workers that died with it alone
        #: When `dispatch` should be called again though nothing has happened.
        self.again_at: float | None = None
        self.batch_sizes = Histogram(SEQUENCES)
        self.num_tokens = self.num_padding = 0  # of batches that are done; padding to the longest sequence of each

    # ---------------------------------------------------------------- workers come and go

    def hello(self, name: bytes, facts: dict[str, Any]) -> None:
        """A worker is there, new or as before."""
        state = self.workers.get(name)
        if state is None:
            tokens = self.config.max_batch_tokens or int(facts["max_tokens"])
            limits = BatchLimits(min(self.config.max_batch_size, int(facts.get("max_sequences", 2**31))), tokens)
            self.workers[name] = WorkerState(name, facts, limits, tokens)
            self.log.info("%s joined: %s, %d tokens a batch", name.decode(), facts.get("device", "?"), tokens)
        else:
            state.facts = facts

    def lost(self, name: bytes) -> None:
        """A worker is gone: what it held goes to others. Only the batch that it computed may be to blame."""
        state = self.workers.pop(name, None)
        if state is None:
            return
        held = [self.flights.pop(batch_id) for batch_id in state.in_flight]
        for flight in held:
            self._take_words_back(flight)
        for flight in held[1:]:  # it had not begun with these
            self.scheduler.requeue(self._alive(flight.pieces))
        if held:
            self._retry(held[0], f"{MAX_DEATHS} workers died while they encoded it", deaths=1)
            self.log.warning("%s is gone; its %d batches go to others", name.decode(), len(held))

    def retire(self, name: bytes) -> bool:
        """Gives a worker no more work. True if it has none in hand, or is not there."""
        state = self.workers.get(name)
        if state is not None:
            state.is_retiring = True
        return state is None or not state.in_flight

    def start_over(self) -> None:
        """Forgets all that waits and flies: the caller adds every unfinished job again."""
        self.scheduler = Scheduler(self.config.priority_batch_size)
        self.flights.clear()
        self._untold.clear()
        self._deaths.clear()
        for state in self.workers.values():
            state.in_flight.clear()

    @property
    def is_failing(self) -> bool:
        """Whether no worker can encode anything any more, as far as is known."""
        return bool(self.workers) and all(state.failures >= FAILING for state in self.workers.values())

    # ---------------------------------------------------------------- batches go out and come back

    def add(self, part: Part, word: Command) -> None:
        """Queues the sequences of a part. ``word`` tells the sink of it.

        Who comes alone should not wait for the sink to be told first, and telling it costs as much as the rest of a
        short request. So the word of a job that fits in one batch travels with that.
        """
        job = part.job
        if job.sealed and len(job.parts) == 1:
            self._untold[job] = word
        else:
            self.tell(word)
        self.scheduler.add(part, job.identity, part.tokenized.lengths, job.size)

    def drop(self, job: Job) -> None:
        """Forgets what waits of a job."""
        self._untold.pop(job, None)
        self.scheduler.drop(job.identity, set(job.parts))

    def tell_of_old(self) -> None:
        """Tells the sink of the jobs that have waited long, so that it sees whether their clients are still there."""
        latest = self.clock() - TELL_AFTER
        while self._untold and (job := next(iter(self._untold))).received_at < latest:
            self.tell(self._untold.pop(job))

    def dispatch(self) -> None:
        """Sends batches while there is work, and a worker with credit for it."""
        self.again_at = None
        while self.scheduler.num_sequences:
            free = [
                state for state in self.workers.values() if len(state.in_flight) < CREDITS and not state.is_retiring
            ]
            if not free:
                return
            state = min(free, key=lambda s: (len(s.in_flight), sum(self.flights[b].tokens for b in s.in_flight)))
            if state.in_flight and not self.scheduler.has_full_batch(state.limits):
                return  # it is busy anyway: let the next batch grow meanwhile
            if self._gathers(state, free):
                self.again_at = state.batch_delay.deadline
                return
            pieces = self.scheduler.next_batch(state.limits)
            self._send(state, pieces)

    def _gathers(self, state: WorkerState, free: list[WorkerState]) -> bool:
        """Whether a worker should wait for more to come. If others are idle, they can begin with that."""
        waiting = self.scheduler
        return (
            not state.in_flight
            and all(other.in_flight for other in free if other is not state)
            and not waiting.has_full_batch(state.limits)
            and state.batch_delay.should_wait(waiting.num_sequences, waiting.num_tokens, self.clock())
        )

    def _send(self, state: WorkerState, pieces: list[BatchSlice[Part]]) -> None:
        packed = pack(pieces)
        batch_id = self.next_id
        self.next_id += 1
        words = self._words_of(pieces)
        with_it = encode_commands(list(words.values())) if words else b""
        message = BatchMessage(batch_id, packed.batch, packed.manifest, with_it, packed.has_types, packed.has_mask)
        frames = message.frames()
        try:
            self.router.send_multipart([state.name, *frames], zmq.NOBLOCK, copy=not is_large(frames))
        except zmq.ZMQError as error:  # its connection is gone; the supervisor will say so too
            self.log.warning("cannot reach %s (%s)", state.name.decode(), error)
            self._untold.update(words)
            self.scheduler.requeue(pieces)
            self.lost(state.name)
            return
        tokens, sequences = packed.batch.num_tokens, packed.batch.num_sequences
        padding = int(packed.batch.lengths.max()) * sequences - tokens
        self.flights[batch_id] = InFlightBatch(state.name, pieces, self.clock(), tokens, sequences, padding, words)
        state.in_flight[batch_id] = None

    def _words_of(self, pieces: list[BatchSlice[Part]]) -> dict[Job, Command]:
        """The words that travel with a batch: of jobs that are whole in it. Of the others the sink is told now."""
        words: dict[Job, Command] = {}
        for piece in pieces:
            job: Job = piece.key.job
            word = self._untold.pop(job, None)
            if word is None:
                continue
            if len(piece.rows) == job.size:
                words[job] = word
            else:
                self.tell(word)
        return words

    def _take_words_back(self, flight: InFlightBatch) -> None:
        """A batch will not arrive, nor the words that went with it."""
        self._untold.update({job: word for job, word in flight.words.items() if not job.failed})

    def done(self, batch_id: int, began: float) -> list[BatchSlice[Part]]:
        """The sink has the rows of this batch, with which its worker began at that time.

        Returns its pieces, none if it was given up meanwhile.
        """
        flight = self._land(batch_id)
        if flight is None:
            return []
        self.batch_sizes.observe(flight.sequences)
        self.num_tokens += flight.tokens
        self.num_padding += flight.padding
        state = self.workers.get(flight.worker)
        if state is not None:
            self._requeue_lost(state, [earlier for earlier in state.in_flight if earlier < batch_id])
            state.num_batches += 1
            state.failures = 0
            state.num_sequences += flight.sequences
            state.num_tokens += flight.tokens
            now = self.clock()
            state.last_seconds = now - began
            if not state.in_flight:
                sizes = [(len(piece.rows), piece.key.job.size) for piece in flight.pieces]
                answered = sum(rows for rows, size in sizes if rows == size)
                state.batch_delay.on_batch_done(answered, self.scheduler.num_sequences, state.last_seconds, now)
            # After running out of memory the budget grows back slowly, by a sixteenth a batch.
            if state.limits.max_tokens < state.full_tokens:
                tokens = min(state.full_tokens, state.limits.max_tokens + max(1, state.limits.max_tokens // 16))
                state.limits = BatchLimits(state.limits.max_sequences, tokens)
        if self._deaths and flight.sequences == 1:
            self._deaths.pop(self._row(flight.pieces), None)
        return flight.pieces

    def failed(self, worker: bytes, batch_id: int, kind: str, message: str) -> None:
        """The engine refused a batch: ``kind`` is ``oom``, ``nonfinite`` or ``error``."""
        flight = self._land(batch_id)
        if flight is None:
            return
        self.log.warning("%s failed on %d sequences: %s", worker.decode(), flight.sequences, message)
        state = self.workers.get(worker)
        if state is not None:
            state.failures += 1
        if kind == "oom" and state is not None:
            tokens = max(_MIN_TOKENS, min(state.limits.max_tokens, flight.tokens) // 2)
            state.limits = BatchLimits(state.limits.max_sequences, tokens)
            self.log.warning("%s is out of memory; %d tokens a batch from now on", worker.decode(), tokens)
        self._take_words_back(flight)
        self._retry(flight, message)

    def worker_idle(self, name: bytes, last_batch: int, idle_at: float) -> None:
        """Requeues batches that count as in flight though their worker held none at ``idle_at`` (seconds).

        The results of all batches up to ``last_batch`` have reached the sink before this report, or are lost.
        """
        state = self.workers.get(name)
        if state is None:
            return
        is_known = last_batch >> 40 == self._epoch
        lost = [
            batch_id
            for batch_id in state.in_flight
            if (is_known and batch_id <= last_batch) or self.flights[batch_id].sent_at < idle_at - MAX_DELIVERY_SECONDS
        ]
        self._requeue_lost(state, lost)

    def _requeue_lost(self, state: WorkerState, batch_ids: list[int]) -> None:
        if not batch_ids:
            return
        for batch_id in batch_ids:
            del state.in_flight[batch_id]
            flight = self.flights.pop(batch_id)
            self._take_words_back(flight)
            self.scheduler.requeue(self._alive(flight.pieces))
        self.log.warning("%d batches of %s are lost; they are computed again", len(batch_ids), state.name.decode())

    def _land(self, batch_id: int) -> InFlightBatch | None:
        flight = self.flights.pop(batch_id, None)
        if flight is not None and flight.worker in self.workers:
            self.workers[flight.worker].in_flight.pop(batch_id, None)
        return flight

    def _retry(self, flight: InFlightBatch, reason: str, deaths: int = 0) -> None:
        pieces = self._alive(flight.pieces)
        count = sum(len(piece.rows) for piece in pieces)
        if count > 1:
            share = -(-count // (DEATH_SPLIT if deaths else 2))
            while pieces:
                head, pieces = split(pieces, share)
                self.scheduler.requeue(head)
        elif count == 1:
            row = self._row(pieces)
            if deaths:
                self._deaths[row] = self._deaths.get(row, 0) + deaths
                if self._deaths[row] < MAX_DEATHS:
                    self.scheduler.requeue(pieces)
                    return
                del self._deaths[row]
            part: Part = pieces[0].key
            self.fail(part.job, EncodingFailed(f"text {row[1]} could not be encoded: {reason}"))

    @staticmethod
    def _alive(pieces: list[BatchSlice[Part]]) -> list[BatchSlice[Part]]:
        return [piece for piece in pieces if not piece.key.job.failed]

    @staticmethod
    def _row(pieces: list[BatchSlice[Part]]) -> tuple[int, int]:
        part: Part = pieces[0].key
        return part.job.id, part.first_row + int(pieces[0].rows[0])
