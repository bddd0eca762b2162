"""The sink: puts the rows of many batches where they belong, and publishes each finished request once.

Jobs are known by the ventilator's own number, not by identity and request id: clones share those.

A new sink, the first one or one that replaces another, knows nothing. It says WHO to the ventilator, and the answer
tells it of every job under way; what comes before that answer was meant for its predecessor and is passed over.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from math import ceil, inf
from typing import Any

import numpy as np
import zmq

from bert_serving.client.protocol import EncodeInfo, error_info

from ..config.server_config import ServerConfig
from ..ipc import commands
from ..ipc.commands import DRAIN, DRAINED, READY, STOP, from_u64, u64
from ..ipc.messages import Command, Result, decode_commands, dtype_name, encode_commands
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import make_socket, recv_available
from ..ipc.tcp_guard import ConnectionMonitor
from ..monitoring.drift import Reference, VectorDrift
from ..monitoring.timing import Timing
from ..security.curve import CurveAuth
from .publisher import ResultPublisher
from .sync_barrier import SyncBarrier

#: Messages of one kind read before the others get their turn.
BURST = 64
#: Bytes that one connection may send to the port of results, where only subscriptions come in.
MAX_BYTES_OF_SUBSCRIPTIONS = 8 * 2**20
#: Seconds between two looks at who sends so much: one takes some milliseconds where there are many connections.
CUT_PAUSE = 0.1
#: Jobs that are known to be over: more than all workers together can have in hand.
MAX_FINISHED = 65536
#: When the server stops, results wait so long (s) for a reader who is not connected.
DRAIN_PATIENCE = 3.0
#: When the sink ends, so long may what is published already take to leave.
LAST_WORDS_MS = 2000


@dataclass(eq=False, slots=True)
class SinkJob:
    """A request whose rows come in.

    ``array`` is ``[size, d]``; for token-level output ``[size, T, d]``, or None while T is not known, and then the
    packed rows wait in ``pieces`` with their row numbers and lengths.
    """

    id: int
    size: int
    identity: bytes
    request_id: bytes
    missing: int
    filled: np.ndarray
    array: np.ndarray | None = None
    pieces: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    tokens: dict[int, bytes] = field(default_factory=dict)
    note: dict[str, Any] = field(default_factory=dict)
    sealed: bool = False
    began_at: float = inf


def scatter_tokens(out: np.ndarray, rows: np.ndarray, lengths: np.ndarray, packed: np.ndarray) -> None:
    """Writes packed token vectors ``[t, d]`` into ``out[row, position]``, ``out`` ``[n, T, d]``."""
    ends = np.cumsum(lengths, dtype=np.int64)
    positions = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    out[np.repeat(rows, lengths), positions] = packed


class Sink:
    """Jobs under way and the outbox."""

    def __init__(self, link: ProcessContext, max_positions: int) -> None:
        self.link, self.config, self.log = link, link.config, link.log
        self.width = output_width(self.config, max_positions)
        self.jobs: dict[int, SinkJob] = {}
        #: Jobs that are over, the latest of them: no rows are awaited, and none published again. Their numbers say
        #: nothing of which are, because the words of jobs come in any order. It gives up its oldest fast.
        self.finished: OrderedDict[int, None] = OrderedDict()
        self.nonce = secrets.token_bytes(8)
        self.has_asked = False
        self.barrier = SyncBarrier()
        self.absent: dict[bytes, float] = {}  # who has jobs here and does not listen -> since when
        #: What the ventilator shall hear, in this order: batches that are here, and answers to its questions.
        self.receipts: list[Command] = []
        self.early: dict[int, list[tuple[int, Result]]] = {}  # by job: rows that came before the word of it, and when
        self.num_sweeps = 0
        self.clock = time.monotonic
        self.draining = self.stopped = self._said_drained = False
        reference = link.options["drift"]
        self.connections = ConnectionMonitor(
            self.config.port_out, is_encrypted=self.config.auth_keys is not None, times=1
        )
        self.next_cut = 0.0
        self.drift = VectorDrift(Reference.from_dict(reference), self.config.drift_window) if reference else None

        context, addresses = link.context, link.addresses
        self.control = link.connect_control()
        self.results = make_socket(context, zmq.PULL)
        self.results.bind(addresses.results)
        self.ventilator = make_socket(context, zmq.DEALER)
        self.ventilator.bind(addresses.link)
        # The outbox has a context of its own, so that ending it can wait for what is still on the way.
        self.publisher_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.guard = CurveAuth(**link.options["access"])
        config = self.config
        self.publisher = ResultPublisher(
            self.publisher_context,
            config.host,
            config.port_out,
            self.log,
            config.result_memory,
            config.result_ttl,
            config.absent_ttl,
            self.guard,
        )

    def run(self) -> None:
        """Serves until told to stop."""
        poller = zmq.Poller()
        for sock in (self.control, self.ventilator, self.results, self.publisher.socket):
            poller.register(sock, zmq.POLLIN)
        self.control.send_multipart([READY, b"{}"])
        self.log.info("ready")
        next_sweep, retry = self.clock() + 1, 1
        while not self.stopped:
            self.link.mark_progress()
            if not self.has_asked:
                self._ask_who()
            is_waiting = self.receipts or self.draining or not self.has_asked
            is_waiting = is_waiting or self.publisher.has_greetings
            patience = retry if self.publisher.is_blocked else 20 if is_waiting else 1000
            events = dict(poller.poll(patience))
            if self.publisher.socket in events and not self.publisher.on_subscription(self.clock()):
                self._cut_flooders(self.clock())
            if self.publisher.has_greetings:
                self.publisher.deliver_greetings(self.clock())
            if self.control in events:
                self._on_control()
            # What the ventilator says of a job is read before the job's rows, as far as it is there.
            if self.ventilator in events:
                self._on_ventilator()
            if self.results in events:
                self._on_results()
            if self.receipts:
                self._send_receipts()
            if self.publisher.is_blocked:
                sent = self.publisher.num_sent
                self.publisher.flush()
                retry = 1 if self.publisher.num_sent > sent else min(2 * retry, 50)
            if self.clock() >= next_sweep:
                next_sweep = self.clock() + 1
                self._sweep()
            if self.draining and not self._said_drained and not self.publisher.owes(self.clock(), DRAIN_PATIENCE):
                self._said_drained = True
                self.control.send(DRAINED)
        self.publisher.socket.close(linger=LAST_WORDS_MS)
        self.guard.close()
        self.publisher_context.term()

    # ---------------------------------------------------------------- from the ventilator

    def _on_ventilator(self) -> None:
        for frames in recv_available(self.ventilator, BURST):
            for word in decode_commands(frames[0]):
                self._on_word(word)

    def _on_word(self, word: Command) -> None:
        kind = word[0]
        if kind == commands.JOB_CHUNK:
            if self.barrier.is_synced:
                self._on_part(word)
        elif kind == commands.PUBLISH:
            self.publisher.put(word[1], word[2:], self.clock())
        elif kind == commands.PUBLISH_ON_SUBSCRIBE:
            self.publisher.greet(word[1], word[2:], self.clock())
        elif kind == commands.SYNC:
            self._on_sync(from_u64(word[1]), from_u64(word[2]), word[3] if len(word) > 3 else b"")
        elif kind == commands.CANCEL_JOB:
            self._end(from_u64(word[1]))
        elif kind == commands.QUERY_JOB and self.barrier.is_synced:
            # Behind the receipts of the job's own batches: who hears PUBLISHED has heard of all rows that were here.
            is_held = from_u64(word[2]) in self.jobs
            self.receipts.append([commands.JOB_PENDING if is_held else commands.JOB_PUBLISHED, *word[1:]])

    def _on_part(self, word: Command) -> None:
        """Texts of a job are on their way; with the first of them the job is new here, the last one seals it.

        The word of a job that is whole in a batch comes with its rows. A batch that was computed twice, because its
        worker died when it had just sent it, brings it twice.
        """
        _, job_number, size, identity, request_id, first_row, tokens, *note = word
        job_id = from_u64(job_number)
        if job_id >> 40 != self.barrier.epoch or job_id in self.finished:
            return
        job = self._open(job_id, from_u64(size), identity, request_id)
        if tokens:
            job.tokens[from_u64(first_row)] = tokens
        if note:
            job.note, job.sealed = json.loads(note[0]), True
            try:
                self._finish_if_complete(job)
            except MemoryError:
                self._give_up(job)

    def _open(self, job_id: int, size: int, identity: bytes, request_id: bytes) -> SinkJob:
        job = self.jobs.get(job_id)
        if job is not None:
            return job
        job = self.jobs[job_id] = SinkJob(job_id, size, identity, request_id, size, np.zeros(size, bool))
        self.log.debug("job register\tsize: %d\tjob id: %r#%s", size, identity, request_id.decode())
        for _, result in self.early.pop(job_id, ()):
            self._place(result)
        return job

    def _ask_who(self) -> None:
        try:
            self.ventilator.send(encode_commands([[commands.SYNC_REQUEST, self.nonce]]), zmq.NOBLOCK)
        except zmq.Again:
            return  # not connected yet
        self.has_asked = True

    def _on_sync(self, epoch: int, first_batch: int, nonce: bytes) -> None:
        if nonce == self.nonce or (self.barrier.is_synced and not nonce):
            if self.barrier.is_synced and epoch != self.barrier.epoch:
                self._on_new_ventilator(epoch)
            for result in self.barrier.sync(epoch, first_batch):
                self._on_result(result)
        elif not self.barrier.is_synced:
            self.has_asked = False  # the ventilator that received the request is gone, or it answered another sink

    def _on_new_ventilator(self, epoch: int) -> None:
        """A new ventilator knows nothing of its predecessor's jobs: their clients send them again."""
        foreign = [job_id for job_id in self.jobs if job_id >> 40 != epoch]
        if foreign:
            self.log.warning("the ventilator was restarted; %d unfinished requests are forgotten", len(foreign))
        for job_id in foreign:
            del self.jobs[job_id]
        self.early.clear()
        self.receipts.clear()

    # ---------------------------------------------------------------- from the workers

    def _on_results(self) -> None:
        for frames in recv_available(self.results, BURST, copy=False):
            if len(frames[0]) == 0:
                # Before SYNC the report would overtake held results; there is another one a second later.
                if self.barrier.is_synced:
                    self.receipts += decode_commands(frames[1])
                continue
            result = Result.from_frames(frames)
            if self.barrier.admit(result):
                self._on_result(result)

    def _on_result(self, result: Result) -> None:
        if self.drift is not None:
            self.drift.add(result.array, result.lengths)
        if result.announcements:
            for word in decode_commands(result.announcements):
                self._on_part(word)
        self._place(result)
        self.receipts.append([commands.BATCH_DONE, u64(result.batch_id), u64(result.began)])

    def _send_receipts(self) -> None:
        """Tells the ventilator what it shall hear; it may not be connected yet, after one of us was restarted."""
        with contextlib.suppress(zmq.Again):
            self.ventilator.send(encode_commands(self.receipts), zmq.NOBLOCK)
            self.receipts.clear()

    def _place(self, result: Result) -> None:
        """Puts each job's rows of a batch in its array. The rows of a job stand together in a batch."""
        job_ids, rows = result.manifest[:, 0], result.manifest[:, 1]
        changes = (np.flatnonzero(np.diff(job_ids)) + 1).tolist() if len(job_ids) > 1 else []
        cuts = [0, *changes, len(job_ids)]
        ends = np.cumsum(result.lengths, dtype=np.int64) if result.token_level else None
        for start, stop in itertools.pairwise(cuts):
            job_id = int(job_ids[start])
            job = self.jobs.get(job_id)
            if job is None:
                if job_id >> 40 == self.barrier.epoch and job_id not in self.finished:
                    self._keep_early(result, start, stop, ends)
                continue  # finished, failed, computed twice, or of another ventilator
            where = slice(start, stop)
            if ends is not None:
                first = int(ends[start] - result.lengths[start])
                values = result.array[first : int(ends[stop - 1])]
            else:
                values = result.array[where]
            job.began_at = min(job.began_at, result.began / 1e9)
            try:
                self._fill(job, rows[where], result.lengths[where], values, result.token_level)
            except MemoryError:
                self._give_up(job)

    def _keep_early(self, result: Result, start: int, stop: int, ends: np.ndarray | None) -> None:
        where = slice(start, stop)
        values = slice(int(ends[start] - result.lengths[start]), int(ends[stop - 1])) if ends is not None else where
        part = Result(
            result.batch_id,
            result.array[values],
            result.lengths[where],
            result.manifest[where],
            result.token_level,
            result.began,
        )
        self.early.setdefault(int(part.manifest[0, 0]), []).append((self.num_sweeps, part))

    def _fill(self, job: SinkJob, rows: np.ndarray, lengths: np.ndarray, values: np.ndarray, token_level: bool) -> None:
        is_all = len(rows) == job.size == job.missing
        if is_all and not token_level and (job.size == 1 or (np.diff(rows) == 1).all()):
            job.missing = 0
            job.filled.fill(True)
            job.array = values  # the whole request, in order: the worker's buffer is sent on as it is
            self._finish_if_complete(job)
            return
        filled = job.filled[rows]
        if filled.any():  # some rows were computed twice, after a restart
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
            if job.array is not None:
                scatter_tokens(job.array, rows, lengths, values)
            else:
                job.pieces.append((rows, lengths, values))
        else:
            if job.array is None:
                job.array = np.empty((job.size, values.shape[1]), values.dtype)
            job.array[rows] = values
        self._finish_if_complete(job)

    # ---------------------------------------------------------------- to the clients

    def _end(self, job_id: int) -> None:
        """Nothing more is to come of a job."""
        self.jobs.pop(job_id, None)
        self.finished[job_id] = None
        if len(self.finished) > MAX_FINISHED:
            self.finished.popitem(last=False)

    def _give_up(self, job: SinkJob) -> None:
        """Answers a request whose vectors find no room. Its rows that are still to come are passed over."""
        self._end(job.id)
        job.array, job.pieces, job.missing = None, [], -1  # never complete
        self.log.error("no memory for the vectors of %d texts of client %r", job.size, job.identity)
        reason = f"the server has no memory for the vectors of {job.size} texts: send fewer texts at a time"
        self.publisher.put(job.identity, [error_info("too_large", reason), b"", job.request_id], self.clock())

    def _finish_if_complete(self, job: SinkJob) -> None:
        if job.missing or not job.sealed:
            return
        self._end(job.id)
        width = job.note.pop("width", 0)
        times = job.note.pop("times", None)
        if job.array is None:
            _, _, sample = job.pieces[0]
            job.array = np.zeros((job.size, width, sample.shape[1]), sample.dtype)
            for rows, lengths, values in job.pieces:
                scatter_tokens(job.array, rows, lengths, values)
        if times is not None:
            job.note["timing"] = Timing.of(times[0], times[1], job.began_at, self.clock()).to_dict()
        info = EncodeInfo(dtype_name(job.array.dtype), job.array.shape, "", **job.note).to_json()
        if job.tokens:
            # Each piece is a JSON list already: they are joined as text instead of being decoded and encoded again.
            lists = b", ".join(job.tokens[row][1:-1] for row in sorted(job.tokens))
            info = info.replace(b'"tokens": ""', b'"tokens": [' + lists + b"]", 1)
        array = np.ascontiguousarray(job.array)
        self.publisher.put(job.identity, [info, array, job.request_id], self.clock())
        self.log.debug("send back\tsize: %d\tjob id: %r#%s", job.size, job.identity, job.request_id.decode())

    def _sweep(self) -> None:
        now = self.clock()
        self.publisher.sweep(now)
        self._cut_flooders(now)
        self.num_sweeps += 1
        self.barrier.sweep()
        # The ventilator announces the job sooner, or is replaced. Sweeps, not seconds: the time in which this process
        # was suspended does not count.
        oldest = self.num_sweeps - 2 * ceil(self.config.heartbeat_timeout)
        for job_id in [job_id for job_id, rows in self.early.items() if rows[0][0] < oldest]:
            del self.early[job_id]
        self._let_go_of_absent(now)
        if self.drift is not None:
            with contextlib.suppress(zmq.Again):  # not connected; the next second will do
                word = [commands.DRIFT, json.dumps(self.drift.to_dict()).encode()]
                self.ventilator.send(encode_commands([word]), zmq.NOBLOCK)
        self.link.info["outbox"] = {
            "bytes": self.publisher.num_bytes,
            "sent": self.publisher.num_sent,
            "dropped": self.publisher.num_dropped,
            "readers": len(self.publisher.readers),
            "jobs": len(self.jobs),
            "renewals": self.publisher.num_renewals,
        }

    def _cut_flooders(self, now: float) -> None:
        """Ends connections that say much more than a client does. ZeroMQ takes much memory for all it hears here."""
        if now < self.next_cut:
            return
        self.next_cut = now + CUT_PAUSE
        for host, size in self.connections.close_abusive(MAX_BYTES_OF_SUBSCRIPTIONS, now):
            self.log.warning("someone at %s sent %d bytes to the port of results; the connection is cut", host, size)

    def _let_go_of_absent(self, now: float) -> None:
        """Requests of those who do not listen any more are dropped: nobody would read the answer."""
        absent = {job.identity for job in self.jobs.values() if not self.publisher.has_reader(job.identity)}
        self.absent = {identity: self.absent.get(identity, now) for identity in absent}
        for identity, since in self.absent.items():
            if now - since >= self.config.absent_ttl:
                with contextlib.suppress(zmq.Again):  # not connected; the next second will do
                    self.ventilator.send(encode_commands([[commands.CANCEL_CLIENT, identity]]), zmq.NOBLOCK)

    def _on_control(self) -> None:
        kind = self.control.recv_multipart()[0]
        if kind == DRAIN:
            self.draining = True
        elif kind == STOP:
            self.stopped = True


def output_width(config: ServerConfig, max_positions: int) -> int | None:
    """Tokens per sequence in token-level output; None: as many as the longest of a request has."""
    if config.fixed_embed_length and config.max_seq_len is None:
        return max_positions
    return config.max_seq_len


def run(link: ProcessContext) -> None:
    """The sink's process."""
    sink = Sink(link, int(link.options["max_position_embeddings"]))
    link.start_heartbeat()
    sink.run()
