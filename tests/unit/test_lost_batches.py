"""Tests that a lost batch gives its credit back: the dispatcher notices it and requeues its sequences.

The dispatcher, the sink's barrier and its cache are real. Workers, queues and the rest of the sink are a model in which
processes die and messages are lost in any order. Every row must have the vector of its own text, whether a worker
computed it for this request, for another one, or the cache had it.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server.errors import RequestError
from bert_serving.server.ipc.cached_rows import CachedRows
from bert_serving.server.ipc.commands import CACHED_ROWS, from_u64
from bert_serving.server.ipc.messages import BatchMessage, Result, decode_commands
from bert_serving.server.ipc.model_numbers import BatchNumbers
from bert_serving.server.log import get_logger
from bert_serving.server.scheduling.dispatcher import Dispatcher
from bert_serving.server.scheduling.jobs import NO_OPTIONS, Job, JobChunk, RequestKey
from bert_serving.server.sink.sync_barrier import SyncBarrier
from bert_serving.server.sink.vector_cache import ENTRY_BYTES, VectorCache
from bert_serving.server.tokenization.tokenizer import Tokenized
from dispatcher_harness import EPOCH, SMALL_BATCHES, DispatcherHarness
from process_harness import LIMIT, tiny_config

CONFIGS = {cache_mb: tiny_config(*SMALL_BATCHES, "-cache_mb", str(cache_mb)) for cache_mb in (0, 1)}
#: Texts as token ids and types. Many begin like another one, or are equal to two others together.
TEXTS = [
    ([1], [0]), ([1, 2], [0, 0]), ([1, 2], [0, 1]), ([1, 2, 3], [0, 0, 0]), ([2, 3], [0, 0]), ([3], [0]),
    ([1, 1], [0, 0]), ([1, 1, 2], [0, 0, 1]), ([1, 1, 2], [0, 0, 0]), ([256], [0]), ([1, 0], [0, 0]),
]  # fmt: skip
#: Memory of a cache for three vectors.
FEW_BYTES = 3 * (ENTRY_BYTES + 60)
DIMS = 5


def vector(ids: Any, types: Any, code: int) -> list[float]:
    """The vector of a text: another one for each text and each code."""
    powers = 1000.0 ** np.arange(len(ids))
    return [len(ids), float(powers @ ids), float(powers @ types), code, 1]


def test_a_later_result_shows_that_an_earlier_batch_is_lost(harness: DispatcherHarness) -> None:
    harness.ask(8)
    harness.add_worker(b"a")
    first, _ = harness.batch(b"a")
    second, _ = harness.batch(b"a")
    harness.dispatcher.batch_done(second.id, 0.0)
    again, _ = harness.batch(b"a")
    np.testing.assert_array_equal(np.frombuffer(again.manifest, np.int64), np.frombuffer(first.manifest, np.int64))
    assert list(harness.dispatcher.workers[b"a"].in_flight) == [again.id]


def test_an_idle_worker_shows_that_its_batches_are_lost(harness: DispatcherHarness) -> None:
    _, command = harness.ask()
    harness.add_worker(b"a")
    lost, _ = harness.batch(b"a")
    harness.dispatcher.worker_idle(b"a", lost.id)
    message, commands = harness.batch(b"a")
    assert commands == [command]  # the announcement was lost with the batch
    assert len(harness.dispatcher.batch_done(message.id, 0.0)) == 1


def test_a_batch_is_lost_if_an_idle_worker_has_read_what_was_sent_later(harness: DispatcherHarness) -> None:
    harness.ask()
    harness.add_worker(b"a")
    lost, _ = harness.batch(b"a")
    harness.dispatcher.worker_idle(b"a", lost.id - 1)
    assert lost.id in harness.dispatcher.in_flight
    harness.dispatcher.probe()
    assert harness.workers[b"a"].poll(LIMIT)
    _, sent = harness.workers[b"a"].recv_multipart()
    ((_, last_batch),) = decode_commands(sent)
    harness.dispatcher.worker_idle(b"a", from_u64(last_batch))
    assert harness.batch(b"a")[0].id > lost.id


def test_an_idle_worker_that_has_worked_for_another_ventilator_loses_nothing(harness: DispatcherHarness) -> None:
    harness.ask()
    harness.add_worker(b"a")
    message, _ = harness.batch(b"a")
    harness.dispatcher.worker_idle(b"a", (EPOCH + 1) << 40)
    assert list(harness.dispatcher.in_flight) == [message.id]


def rows_of(message: BatchMessage) -> list[int]:
    """The rows of a batch in its only job."""
    return np.frombuffer(message.manifest, np.int64).reshape(-1, 2)[:, 1].tolist()  # type: ignore[no-any-return]


def test_a_worker_that_overlaps_batches_holds_one_more(harness: DispatcherHarness) -> None:
    harness.ask(17)
    harness.add_worker(b"a", overlaps=True)
    assert [rows_of(harness.batch(b"a")[0])[0] for _ in range(3)] == [0, 4, 8]
    harness.dispatcher.dispatch()
    assert not harness.workers[b"a"].poll(50)


@pytest.mark.parametrize("info", ["overlaps", "enqueues"])
def test_an_innocent_batch_is_not_blamed_for_the_one_that_overlaps_it(harness: DispatcherHarness, info: str) -> None:
    """After the death of a worker with several batches under way, each of them is computed alone."""
    harness.ask(8)
    harness.add_worker(b"a", **{info: True})
    batches = [harness.batch(b"a")[0] for _ in range(2)]
    harness.dispatcher.worker_lost(b"a")
    harness.add_worker(b"b", **{info: True})
    first, _ = harness.batch(b"b")
    harness.dispatcher.dispatch()
    assert not harness.workers[b"b"].poll(50)
    harness.dispatcher.batch_done(first.id, 0.0)
    second, _ = harness.batch(b"b")
    assert sorted(map(rows_of, [first, second])) == sorted(map(rows_of, batches))  # neither was split
    harness.dispatcher.worker_lost(b"b")
    harness.add_worker(b"c", **{info: True})
    assert len(rows_of(harness.batch(b"c")[0])) == 1  # the one that was alone is split
    assert not harness.failures


class Worker:
    def __init__(self) -> None:
        self.inbox: deque[BatchMessage | int] = deque()  # a number is the last batch of BATCHES_SENT
        self.results: deque[Result | int] = deque()  # a number is the last batch in the report of an idle worker
        self.last_batch = 0


class Model:
    """Ventilator, sink and workers with the queues between them; the test moves each message."""

    def __init__(self, cache_mb: int = 0) -> None:
        self.now, self.config = 100.0, CONFIGS[cache_mb]
        self.stale: deque[tuple[Any, ...]] = deque()  # to the sink, from ventilators that ended
        self.to_sink: deque[tuple[Any, ...]] = deque()
        self.epochs, self.names = itertools.count(EPOCH + 1000, -1), itertools.count()  # epochs are in no order
        self.workers: dict[bytes, Worker] = {}
        self.dead: list[bytes] = []
        self.closing: set[bytes] = set()  # connections of dead workers to which ZeroMQ still accepts messages
        self.jobs: dict[int, Job] = {}
        self.frames: list[bytes] = []  # of a message that is not complete
        self.num_jobs = 0
        self.start_sink()
        self.start_ventilator()
        for _ in range(2):
            self.start_worker()
        self.settle()

    # ------------------------------------------------------------ processes

    def start_ventilator(self) -> None:
        self.epoch = next(self.epochs)
        self.failures: deque[int] = deque()
        self.to_ventilator.clear()
        if self.is_sink_waiting:
            self.to_ventilator.append(("sync_request",))
        first = self.epoch << 40
        self.last_id = first
        self.stale += self.to_sink
        self.to_sink = deque([("sync", self.epoch, first, False)])
        self.dispatcher = Dispatcher(
            self.config,
            self,  # type: ignore[arg-type]
            self.fail,
            lambda command: self.to_sink.append(("command", command)),
            get_logger("D"),
            lambda: self.now,
            BatchNumbers(first),
        )
        self.dispatcher.log.disabled = True
        for name in self.workers:
            self.dispatcher.register_worker(name, {"max_tokens": 4096})
        unfinished, self.jobs = self.jobs, {}
        for job in unfinished.values():  # their clients send them again
            self.ask(job.size, job.local_id)

    def start_sink(self) -> None:
        self.barrier = SyncBarrier()
        self.cache = VectorCache(
            FEW_BYTES if self.config.cache_mb else 0, lambda _: DIMS, "float32", False, recent_bytes=4 * DIMS * 6
        )
        self.rows: set[tuple[int, int]] = set()
        self.is_sink_waiting = True
        self.to_ventilator: deque[tuple[Any, ...]] = deque([("sync_request",)])

    def start_worker(self) -> None:
        name = b"%d" % next(self.names)
        self.workers[name] = Worker()
        self.dispatcher.register_worker(name, {"max_tokens": 4096})

    def kill_worker(self, index: int, is_reported: bool = True) -> None:
        """Ends a worker and starts its successor; a ventilator that starts may miss the supervisor's report."""
        name = list(self.workers)[index % len(self.workers)]
        del self.workers[name]
        self.dead.append(name)
        self.closing.add(name)
        if is_reported:
            self.dispatcher.worker_lost(name)
        self.start_worker()

    def register_late(self) -> None:
        """Lets the ventilator read the registration of a dead worker after its death was reported."""
        if self.dead:
            self.dispatcher.register_worker(self.dead.pop(), {"max_tokens": 4096})

    # ------------------------------------------------------------ the ventilator

    def ask(self, size: int, seed: int) -> None:
        self.num_jobs += 1
        self.last_id += 1
        options = replace(NO_OPTIONS, vector_code=seed % 2)
        job = Job(self.num_jobs, RequestKey(b"client", b"1", b""), size, self.now, options, id=self.last_id)
        chosen = [TEXTS[(seed * (row + 1)) % len(TEXTS)] for row in range(size)]
        ids, types = (np.concatenate([text[kind] for text in chosen]).astype(np.int32) for kind in (0, 1))
        lengths = np.array([len(text[0]) for text in chosen], np.int32)
        tokenized = Tokenized(ids, types if types.any() else None, None, lengths, np.zeros(0, np.int32), 0)
        job.chunks.append(JobChunk(job, 0, tokenized))
        job.is_complete = True
        self.jobs[job.id] = job
        self.dispatcher.add(job.chunks[0], [b"job"])

    def fail(self, job: Job, error: RequestError) -> None:
        job.failed = True
        self.dispatcher.drop([job])
        del self.jobs[job.id]

    def send(self, frame: bytes, flags: int, copy: bool) -> None:
        """Collects the frames of a message."""
        self.frames.append(frame)
        if not flags & zmq.SNDMORE:
            frames, self.frames = self.frames, []
            self.send_multipart(frames)

    def send_multipart(self, frames: list[bytes], *_: Any, **__: Any) -> None:
        """The dispatcher's socket."""
        if frames[0] in self.closing:
            return
        if frames[0] not in self.workers:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        inbox = self.workers[frames[0]].inbox
        if frames[1] == b"":
            inbox.append(from_u64(decode_commands(frames[2])[0][1]))
        else:
            inbox.append(BatchMessage.from_frames([zmq.Frame(frame) for frame in frames[1:]]))

    def ventilator_reads(self) -> None:
        while self.failures:
            batch_id = self.failures.popleft()
            self.dispatcher.batch_failed(batch_id, "error", "refused")
        if not self.to_ventilator:
            return
        kind, *values = self.to_ventilator.popleft()
        if kind == "dropped":
            self.dispatcher.cache.on_update(*values)
        elif kind == "missed":
            self.dispatcher.cache_missed(*values)
        elif kind == "done":
            for piece in self.dispatcher.batch_done(values[0], 0.0):
                job: Job = piece.key.job  # type: ignore[attr-defined]
                job.missing -= len(piece.rows)
                if not job.missing and not job.failed:
                    assert {(job.id, row) for row in range(job.size)} <= self.rows, "done without its rows"
                    del self.jobs[job.id]
        elif kind == "idle":
            self.dispatcher.worker_idle(*values)
        else:
            self.to_sink.append(("sync", self.epoch, self.dispatcher.next_batch_id, True))
            self.dispatcher.reset()
            for job in self.jobs.values():
                job.missing = job.size
                self.dispatcher.add(job.chunks[0], [b"job"])

    # ------------------------------------------------------------ sink and workers

    def sink_reads(self) -> None:
        if not self.to_sink:
            return
        kind, *values = self.to_sink.popleft()
        if kind == "command":
            self.sink_obeys(*values)
            return
        epoch, first, is_answer = values
        if is_answer or self.barrier.is_synced:
            self.is_sink_waiting = False
            if epoch != self.barrier.epoch:
                self.rows.clear()
                self.cache.clear()
            for result in self.barrier.sync(epoch, first):
                self.place(result)

    def sink_reads_late(self) -> None:
        """Reads a command of a ventilator that ended: it came on another connection."""
        if self.stale:
            kind, *values = self.stale.popleft()
            if kind == "command":
                self.sink_obeys(*values)

    def sink_obeys(self, command: list[bytes]) -> None:
        if command[0] != CACHED_ROWS or not self.barrier.is_synced:
            return
        wanted = CachedRows.from_command(command)
        if wanted.batch_id >> 40 != self.barrier.epoch:
            return
        missing = self.cache.missing(wanted)
        if missing:
            self.to_ventilator.append(("missed", wanted.batch_id, np.array(missing, np.int64).tobytes()))
        else:
            self.add(self.cache.result(wanted))

    def sink_receives(self, name: bytes) -> None:
        if not self.workers[name].results:
            return
        result = self.workers[name].results.popleft()
        if isinstance(result, Result):
            if self.barrier.admit(result):
                self.place(result)
        elif self.barrier.is_synced:
            self.to_ventilator.append(("idle", name, result))

    def place(self, result: Result) -> None:
        self.add(result)
        dropped = self.cache.add(result)
        assert self.cache.num_bytes <= max(0, self.cache.max_bytes)
        if self.cache.max_bytes:
            self.to_ventilator.append(("dropped", self.cache.num_bytes, np.array(dropped, np.int64).tobytes()))

    def add(self, result: Result) -> None:
        for (job_id, row), found in zip(np.asarray(result.manifest).tolist(), result.array.tolist(), strict=True):
            job = self.jobs.get(job_id)
            if job is not None:
                tokenized, start = job.chunks[0].tokenized, job.chunks[0].offsets[row]
                text = slice(start, start + tokenized.lengths[row])
                ids = tokenized.input_ids[text]
                types = np.zeros_like(ids) if tokenized.type_ids is None else tokenized.type_ids[text]
                assert found == vector(ids, types, job.options.vector_code), "the vector of another text"
            self.rows.add((job_id, row))
        self.to_ventilator.append(("done", result.batch_id))

    def work(self, name: bytes, is_refused: bool = False) -> None:
        worker = self.workers[name]
        if not worker.inbox:
            worker.results.append(worker.last_batch)
            return
        message = worker.inbox.popleft()
        if isinstance(message, int):
            worker.last_batch = message
            return
        worker.last_batch = message.id
        if is_refused:
            self.failures.append(message.id)
            return
        manifest = np.frombuffer(message.manifest, np.int64).reshape(-1, 2)
        batch = message.batch
        ends = np.cumsum(batch.lengths)[:-1]
        codes = np.frombuffer(message.vector_codes or bytes(4 * len(manifest)), np.int32).tolist()
        texts = zip(np.split(batch.input_ids, ends), np.split(batch.type_ids, ends), codes, strict=True)
        array = np.array([vector(*text) for text in texts], np.float32)
        worker.results.append(Result(message.id, array, batch.lengths, manifest, False))

    # ------------------------------------------------------------ steps of the test

    def step(self, action: str, number: int) -> None:
        name = list(self.workers)[number % len(self.workers)]
        worker = self.workers[name]
        if action == "ask":
            self.ask(1 + number, self.num_jobs)
        elif action == "work":
            self.work(name)
        elif action == "refuse":
            self.work(name, is_refused=True)
        elif action == "sink receives":
            self.sink_receives(name)
        elif action == "sink reads":
            self.sink_reads()
        elif action == "sink reads late":
            self.sink_reads_late()
        elif action == "ventilator reads":
            self.ventilator_reads()
        elif action == "lose batch" and worker.inbox:
            worker.inbox.popleft()
        elif action == "lose result" and worker.results:
            worker.results.popleft()
        elif action == "probe":
            self.dispatcher.probe()
        elif action == "kill sink":
            self.start_sink()
        elif action == "kill ventilator":
            self.start_ventilator()
        elif action == "kill worker":
            self.kill_worker(number)
        elif action == "kill worker without report":
            self.kill_worker(number, is_reported=False)
        elif action == "register late":
            self.register_late()
        elif action == "close":
            self.closing.clear()
        self.now += 0.01
        self.dispatcher.dispatch()

    def settle(self) -> None:
        """Lets all processes run undisturbed for a bounded time."""
        self.closing.clear()
        for _ in range(100):
            self.now += 1.0
            for _ in range(len(self.to_sink)):
                self.sink_reads()
            self.dispatcher.probe()
            for name in self.workers:
                for _ in range(2):
                    self.work(name)
                    self.sink_receives(name)
            for _ in range(len(self.to_ventilator) + 1):
                self.ventilator_reads()
            self.dispatcher.dispatch()


ACTIONS = ["ask", "work", "sink receives", "ventilator reads"] * 3 + ["refuse", "sink reads", "sink reads"]
ACTIONS += ["sink reads late", "probe", "lose batch", "lose result", "kill sink", "kill ventilator", "kill worker"]
ACTIONS += ["kill worker without report", "register late", "close"]


@settings(max_examples=300)
@given(
    st.sampled_from([0, 1]), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 11)), min_size=20, max_size=80)
)
def test_no_lost_batch_costs_a_credit_or_a_request(cache_mb: int, steps: list[tuple[str, int]]) -> None:
    model = Model(cache_mb)
    for action, number in steps:
        model.step(action, number)
        assert all(len(state.in_flight) <= state.credits for state in model.dispatcher.workers.values())
    model.settle()
    assert not model.jobs
    assert not any(
        (model.dispatcher.cache._waiting, model.dispatcher.cache._fetches, model.dispatcher.cache._computing)
    )
    assert not model.dispatcher.in_flight
    assert not any(state.in_flight for state in model.dispatcher.workers.values())
    assert not model.dispatcher.scheduler.num_sequences
    assert set(model.dispatcher.workers) == set(model.workers)
