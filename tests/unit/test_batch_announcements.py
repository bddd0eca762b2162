"""Tests announcements of jobs: a short request is announced with its batch, and published exactly once.

The tests replace workers and sink for the dispatcher, and all other processes for the sink.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np
import pytest
import zmq
from msgspec import structs

from bert_serving.client.protocol import parse_reply
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import Command, Result, decode_commands, encode_commands
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.scheduling.dispatcher import ANNOUNCE_AFTER
from bert_serving.server.sink.sink import Sink
from bert_serving.server.sink.sync_barrier import MAX_EXPIRIES, SyncBarrier
from dispatcher_harness import EPOCH, SMALL_BATCHES, DispatcherHarness, announcement
from process_harness import ProcessHarness
from servers import wait_until

# ---------------------------------------------------------------- the dispatcher


def test_the_announcement_of_a_short_request_travels_with_its_batch(harness: DispatcherHarness) -> None:
    _, first = harness.ask()
    _, second = harness.ask(2)
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [first, second]
    assert harness.told == []


def test_a_request_in_several_batches_is_announced_first(harness: DispatcherHarness) -> None:
    _, command = harness.ask(6)
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == []
    assert harness.told == [command]


def test_an_incomplete_request_is_announced_at_once(harness: DispatcherHarness) -> None:
    _, command = harness.ask(1, is_last=False)
    assert harness.told == [command]


def test_the_announcement_is_sent_again_when_a_worker_dies(harness: DispatcherHarness) -> None:
    _, command = harness.ask()
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [command]
    harness.dispatcher.worker_lost(b"a")
    harness.add_worker(b"b")
    message, announced = harness.batch(b"b")
    assert announced == [command]
    assert len(harness.dispatcher.batch_done(message.id, 0.0)) == 1
    harness.now += 2 * ANNOUNCE_AFTER
    harness.dispatcher.announce_waiting()
    assert harness.told == []  # its batch is done


def test_a_request_that_is_split_after_a_failure_is_announced(harness: DispatcherHarness) -> None:
    _, command = harness.ask(2)
    harness.add_worker(b"a")
    message, announced = harness.batch(b"a")
    assert announced == [command]
    harness.dispatcher.batch_failed(message.id, "error", "it does not work")
    assert harness.batch(b"a")[1] == []
    assert harness.told == [command]


def test_a_failed_request_is_not_announced(harness: DispatcherHarness) -> None:
    job, command = harness.ask()
    harness.add_worker(b"a")
    message, announced = harness.batch(b"a")
    assert announced == [command]
    harness.dispatcher.batch_failed(message.id, "error", "it does not work")
    assert [failed for failed, _ in harness.failures] == [job]
    harness.now += 2 * ANNOUNCE_AFTER
    harness.dispatcher.announce_waiting()
    assert harness.told == []


def test_a_request_that_waits_long_is_announced(harness: DispatcherHarness) -> None:
    _, old = harness.ask()
    harness.now += ANNOUNCE_AFTER + 0.1
    _, new = harness.ask()
    harness.dispatcher.announce_waiting()
    assert harness.told == [old]
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [new]


#: Dimensions of the vectors of the tiny model, and nanoseconds that a batch takes.
WIDTH, DURATION = 32, 5_000_000

# ---------------------------------------------------------------- the sink


ONE, MANIFEST = np.ones(1, np.int32), np.zeros((1, 2), np.int64)


class SinkHarness(ProcessHarness):
    """A sink in a thread, the peers of its sockets, and a client."""

    def __init__(self) -> None:
        super().__init__("sink", *SMALL_BATCHES)
        self.sink = Sink(self.process)
        self.ventilator = make_socket(self.context, zmq.DEALER)
        self.ventilator.connect(self.addresses.channel)
        self.worker = make_socket(self.context, zmq.PUSH)
        self.worker.connect(self.addresses.results)
        self.client = self.context.socket(zmq.SUB)
        self.client.subscribe(b"me")
        self.client.connect(f"tcp://127.0.0.1:{self.config.port_out}")
        self.start(self.sink)
        [request] = self.receive()
        assert request[0] == commands.SYNC_REQUEST
        self.nonce = request[1]
        wait_until(lambda: self.sink.publisher.is_subscribed(b"me"))

    def sync(self, epoch: int = EPOCH, first_batch: int = 0) -> None:
        """Answers the sink's SYNC_REQUEST."""
        self.tell([commands.SYNC, u64(epoch), u64((epoch << 40) + first_batch), self.nonce])
        wait_until(lambda: self.sink.barrier.is_synced)

    def receive(self) -> list[Command]:
        """The next commands of the sink for the ventilator, except reports of memory."""
        while True:
            received = [c for c in decode_commands(self.ventilator.recv()) if c[0] != commands.RESULT_MEMORY]
            if received:
                return received

    def tell(self, *announced: Command) -> None:
        self.ventilator.send(encode_commands(announced))

    def send_result(
        self, batch: int, jobs: list[int], announced: list[Command], value: float = 1.0, epoch: int = EPOCH
    ) -> None:
        """Sends the rows of a batch, one for each job."""
        manifest = np.array([[job, 0] for job in jobs], np.int64)
        array = np.full((len(jobs), WIDTH), value, np.float32)
        result = Result(
            job(batch, epoch),
            array,
            np.ones(len(jobs), np.int32),
            manifest,
            False,
            DURATION,
            encode_commands(announced),
        )
        self.worker.send_multipart(result.frames())

    def give(self, batch: int, jobs: list[int], announced: list[Command], value: float = 1.0) -> None:
        """Sends the rows of a batch, one of each job, and waits until the sink has them."""
        self.send_result(batch, jobs, announced, value)
        [done] = self.receive()
        assert done[:2] == [commands.BATCH_DONE, u64(job(batch))]

    def send_idle(self, batch: int) -> list[bytes]:
        """Sends the report of an idle worker behind its results."""
        idle = [commands.WORKER_IDLE, b"worker-0.1", u64(job(batch))]
        self.worker.send_multipart([b"", encode_commands([idle])])
        return idle

    def answers(self) -> list[float]:
        """The first value of each answer so far."""
        self.tell([commands.PUBLISH, b"me", b"{}", b"0"])
        found = []
        while True:
            reply = parse_reply(self.client.recv_multipart())
            if reply.request_id == 0:
                return found
            found.append(float(reply.array()[0, 0]))


@pytest.fixture
def unsynced() -> Iterator[SinkHarness]:
    sink_harness = SinkHarness()
    try:
        yield sink_harness
    finally:
        sink_harness.close()


@pytest.fixture
def sink_harness(unsynced: SinkHarness) -> SinkHarness:
    unsynced.sync()
    return unsynced


def job(number: int, epoch: int = EPOCH) -> int:
    return (epoch << 40) + number


def test_rows_with_their_announcement_are_published(sink_harness: SinkHarness) -> None:
    sink_harness.give(1, [job(1), job(2)], [announcement(job(1)), announcement(job(2))])
    assert sink_harness.answers() == [1.0, 1.0]


def test_a_batch_that_was_computed_twice_is_published_once(sink_harness: SinkHarness) -> None:
    sink_harness.give(1, [job(1)], [announcement(job(1))])
    sink_harness.give(2, [job(1)], [announcement(job(1))], value=2.0)
    sink_harness.tell(announcement(job(1)))  # after a split, the announcement arrives without a batch
    sink_harness.give(3, [job(1)], [], value=3.0)
    assert sink_harness.answers() == [1.0]
    assert not sink_harness.sink.models[0].assembler.jobs


WRONG_RESULTS = {
    r"shape \(1, 31\), not \(1, 32\)": Result(0, np.ones((1, 31), np.float32), ONE, MANIFEST, False),
    r"shape \(2, 32\), not \(1, 32\)": Result(0, np.ones((2, 32), np.float32), ONE, MANIFEST, False),
    "dtype float64, not float32": Result(0, np.ones((1, 32)), ONE, MANIFEST, False),
    "2 lengths for 1 texts": Result(0, np.ones((1, 32), np.float32), np.ones(2, np.int32), MANIFEST, False),
    "vectors of tokens, this server has texts": Result(0, np.ones((1, 32), np.float32), ONE, MANIFEST, True),
}


@pytest.mark.parametrize("reason", WRONG_RESULTS)
def test_a_wrong_result_fails_its_batch_only(sink_harness: SinkHarness, reason: str) -> None:
    manifest = np.array([[job(1), 0]], np.int64)
    wrong = structs.replace(WRONG_RESULTS[reason], batch_id=job(1), manifest=manifest)
    sink_harness.worker.send_multipart(wrong.frames())
    [failed] = sink_harness.receive()
    assert failed[:3] == [commands.BATCH_FAILED, u64(job(1)), b"error"]
    assert re.search(reason, failed[3].decode())
    sink_harness.give(2, [job(1)], [announcement(job(1))])
    assert sink_harness.answers() == [1.0]


@pytest.mark.parametrize(
    "frames", [[b"no MessagePack"], [b"\x93\x01\x02\x03"], [b"\xc1", b"1", b"2", b"3"], [b""], [b"", b"?"]]
)
def test_a_result_that_cannot_be_read_is_dropped(sink_harness: SinkHarness, frames: list[bytes]) -> None:
    sink_harness.worker.send_multipart(frames)
    sink_harness.give(1, [job(1)], [announcement(job(1))])
    assert sink_harness.answers() == [1.0]


def test_the_duration_of_a_batch_reaches_the_ventilator(sink_harness: SinkHarness) -> None:
    sink_harness.send_result(1, [job(1)], [announcement(job(1))])
    assert sink_harness.receive() == [[commands.BATCH_DONE, u64(job(1)), u64(DURATION)]]


def test_later_jobs_do_not_make_earlier_ones_finished(sink_harness: SinkHarness) -> None:
    """Rows that overtake the announcement of their job wait for it, also after a later job was published."""
    sink_harness.give(1, [job(1)], [], value=1.0)
    sink_harness.give(2, [job(2)], [announcement(job(2))], value=2.0)
    sink_harness.tell(announcement(job(1)))
    wait_until(
        lambda: (
            not sink_harness.sink.models[0].assembler.jobs
            and not sink_harness.sink.models[0].assembler.unannounced_rows
        )
    )
    assert sink_harness.answers() == [2.0, 1.0]


def test_rows_may_overtake_their_announcement_although_later_jobs_are_announced(sink_harness: SinkHarness) -> None:
    """A waiting job is announced when its first batch is sent, after later jobs that were announced at once."""
    sink_harness.tell(announcement(job(2), size=2))
    sink_harness.give(1, [job(1)], [], value=1.0)
    assert sink_harness.answers() == []
    sink_harness.tell(announcement(job(1)))
    wait_until(lambda: not sink_harness.sink.models[0].assembler.unannounced_rows)
    assert sink_harness.answers() == [1.0]


def test_rows_of_a_failed_job_are_dropped(sink_harness: SinkHarness) -> None:
    sink_harness.tell([commands.CANCEL_JOB, u64(job(1))])
    sink_harness.answers()  # so it has been read
    sink_harness.give(1, [job(1)], [announcement(job(1))])
    assert sink_harness.answers() == []
    assert not sink_harness.sink.models[0].assembler.unannounced_rows


def test_announcements_of_another_ventilator_are_ignored(sink_harness: SinkHarness) -> None:
    sink_harness.give(1, [job(1, EPOCH + 1)], [announcement(job(1, EPOCH + 1))])
    assert sink_harness.answers() == []


def test_tokens_and_metadata_are_part_of_the_announcement(sink_harness: SinkHarness) -> None:
    command = announcement(job(1), metadata=json.dumps({"num_tokens": 9}).encode())
    command[6] = b'[["[CLS]", "[SEP]"]]'
    sink_harness.give(1, [job(1)], [command])
    reply = parse_reply(sink_harness.client.recv_multipart())
    assert (reply.info["tokens"], reply.info["num_tokens"]) == ([["[CLS]", "[SEP]"]], 9)


# ---------------------------------------------------------------- restarts


def test_results_that_overtake_the_sync_are_held(unsynced: SinkHarness) -> None:
    """Regression: a new sink dropped them, and the ventilator counted their batches as in flight indefinitely."""
    unsynced.send_result(1, [job(1)], [announcement(job(1))], value=1.0)
    unsynced.send_result(2, [job(2)], [announcement(job(2))], value=2.0)
    wait_until(lambda: unsynced.sink.barrier.num_held == 2)
    unsynced.sync()
    done = unsynced.receive()
    assert [command[:2] for command in done] == [[commands.BATCH_DONE, u64(job(number))] for number in (1, 2)]
    assert unsynced.answers() == [1.0, 2.0]


def test_held_results_of_batches_before_the_sync_are_stale(unsynced: SinkHarness) -> None:
    unsynced.send_result(1, [job(1)], [announcement(job(1))], value=1.0)
    unsynced.send_result(1, [job(1, EPOCH - 1)], [announcement(job(1, EPOCH - 1))], epoch=EPOCH - 1)
    wait_until(lambda: unsynced.sink.barrier.num_held == 2)
    unsynced.sync(first_batch=2)
    unsynced.give(2, [job(1)], [announcement(job(1))], value=2.0)
    assert unsynced.answers() == [2.0]


def test_results_that_overtake_the_sync_of_a_new_ventilator_are_held(sink_harness: SinkHarness) -> None:
    new = EPOCH + 1
    sink_harness.send_result(1, [job(1, new)], [announcement(job(1, new))], epoch=new)
    wait_until(lambda: sink_harness.sink.barrier.num_held == 1)
    sink_harness.tell([commands.SYNC, u64(new), u64(job(0, new))])
    [done] = sink_harness.receive()
    assert done[:2] == [commands.BATCH_DONE, u64(job(1, new))]
    assert sink_harness.answers() == [1.0]


def test_results_of_a_previous_ventilator_are_dropped(sink_harness: SinkHarness) -> None:
    new = EPOCH + 1
    sink_harness.tell([commands.SYNC, u64(new), u64(job(0, new))])
    wait_until(lambda: sink_harness.sink.barrier.epoch == new)
    sink_harness.send_result(1, [job(1)], [announcement(job(1))])
    sink_harness.send_result(1, [job(1, new)], [announcement(job(1, new))], value=2.0, epoch=new)
    [done] = sink_harness.receive()
    assert done[:2] == [commands.BATCH_DONE, u64(job(1, new))]
    assert sink_harness.answers() == [2.0]
    assert not sink_harness.sink.barrier.num_held


def test_the_report_of_an_idle_worker_follows_its_results(sink_harness: SinkHarness) -> None:
    sink_harness.send_result(1, [job(1)], [announcement(job(1))])
    idle = sink_harness.send_idle(1)
    received = sink_harness.receive()
    while len(received) < 2:
        received += sink_harness.receive()
    assert received[0][:2] == [commands.BATCH_DONE, u64(job(1))]
    assert received[1] == idle


def test_the_report_of_an_idle_worker_does_not_overtake_held_results(unsynced: SinkHarness) -> None:
    unsynced.send_result(1, [job(1)], [announcement(job(1))])
    unsynced.send_idle(1)
    unsynced.send_result(2, [job(2)], [announcement(job(2))])
    wait_until(lambda: unsynced.sink.barrier.num_held == 2)
    unsynced.sync()
    assert {command[0] for command in unsynced.receive()} == {commands.BATCH_DONE}


def test_held_results_are_bounded_in_bytes() -> None:
    barrier = SyncBarrier(max_bytes=10_000)
    results = [
        Result(job(number), np.zeros((1, 1000), np.float32), np.ones(1, np.int32), np.zeros((1, 2), np.int64), False)
        for number in range(5)
    ]
    assert not any(barrier.admit(result) for result in results)
    assert barrier.sync(EPOCH, job(0)) == results[-2:]


def test_results_of_a_ventilator_that_never_sends_a_sync_are_dropped() -> None:
    barrier = SyncBarrier()
    barrier.sync(EPOCH, job(0))
    array = np.zeros((1, 1000), np.float32)
    barrier.admit(Result(job(0, EPOCH + 1), array, np.ones(1, np.int32), np.zeros((1, 2), np.int64), False))
    for _ in range(MAX_EXPIRIES):
        barrier.expire()
    assert barrier.num_held == 1
    barrier.expire()
    assert barrier.num_held == 0
