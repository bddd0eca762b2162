"""The word of a short request travels to the sink with its batch: nothing is lost or published twice on the way.

The dispatcher with the test in place of workers and sink, and the sink with the test in place of all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from bert_serving.client.protocol import parse_reply
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import Command, Result, decode_commands, encode_commands
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.scheduling.dispatcher import ANNOUNCE_AFTER
from bert_serving.server.sink.sink import Sink
from bert_serving.server.sink.sync_barrier import MAX_SWEEPS, SyncBarrier
from dispatcher_harness import EPOCH, SMALL_BATCHES, DispatcherHarness, announcement
from process_harness import ProcessHarness
from servers import wait_until

# ---------------------------------------------------------------- the dispatcher


def test_the_word_of_a_short_request_travels_with_its_batch(harness: DispatcherHarness) -> None:
    _, first = harness.ask()
    _, second = harness.ask(2)
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [first, second]
    assert harness.told == []


def test_of_a_request_in_several_batches_the_sink_is_told_first(harness: DispatcherHarness) -> None:
    _, word = harness.ask(6)
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == []
    assert harness.told == [word]


def test_of_a_request_that_is_not_all_here_the_sink_is_told_at_once(harness: DispatcherHarness) -> None:
    _, word = harness.ask(1, is_last=False)
    assert harness.told == [word]


def test_the_word_goes_again_when_a_worker_dies(harness: DispatcherHarness) -> None:
    _, word = harness.ask()
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [word]
    harness.dispatcher.worker_lost(b"a")
    harness.add_worker(b"b")
    message, words = harness.batch(b"b")
    assert words == [word]
    assert len(harness.dispatcher.batch_done(message.id, 0.0)) == 1
    harness.now += 2 * ANNOUNCE_AFTER
    harness.dispatcher.announce_waiting()
    assert harness.told == []  # nothing is left of it


def test_the_sink_is_told_of_a_request_that_is_split_after_a_failure(harness: DispatcherHarness) -> None:
    _, word = harness.ask(2)
    harness.add_worker(b"a")
    message, words = harness.batch(b"a")
    assert words == [word]
    harness.dispatcher.batch_failed(b"a", message.id, "error", "it does not work")
    assert harness.batch(b"a")[1] == []
    assert harness.told == [word]


def test_nothing_is_said_of_a_request_that_failed(harness: DispatcherHarness) -> None:
    job, word = harness.ask()
    harness.add_worker(b"a")
    message, words = harness.batch(b"a")
    assert words == [word]
    harness.dispatcher.batch_failed(b"a", message.id, "error", "it does not work")
    assert [failed for failed, _ in harness.failures] == [job]
    harness.now += 2 * ANNOUNCE_AFTER
    harness.dispatcher.announce_waiting()
    assert harness.told == []


def test_the_sink_hears_of_requests_that_wait_long(harness: DispatcherHarness) -> None:
    _, old = harness.ask()
    harness.now += ANNOUNCE_AFTER + 0.1
    _, new = harness.ask()
    harness.dispatcher.announce_waiting()
    assert harness.told == [old]
    harness.add_worker(b"a")
    assert harness.batch(b"a")[1] == [new]


# ---------------------------------------------------------------- the sink


class Around(ProcessHarness):
    """A sink in a thread, the ends of its sockets, and a client that reads."""

    def __init__(self) -> None:
        super().__init__("sink", *SMALL_BATCHES)
        self.sink = Sink(self.process, 64)
        self.ventilator = make_socket(self.context, zmq.DEALER)
        self.ventilator.connect(self.addresses.link)
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
        """The next commands of the sink for the ventilator."""
        return decode_commands(self.ventilator.recv())

    def tell(self, *words: Command) -> None:
        self.ventilator.send(encode_commands(words))

    def send_result(
        self, batch: int, jobs: list[int], words: list[Command], value: float = 1.0, epoch: int = EPOCH
    ) -> None:
        """Sends the rows of a batch, one of each job."""
        manifest = np.array([[job, 0] for job in jobs], np.int64)
        array = np.full((len(jobs), 2), value, np.float32)
        result = Result(
            job(batch, epoch), array, np.ones(len(jobs), np.int32), manifest, False, 0, encode_commands(words)
        )
        self.worker.send_multipart(result.frames())

    def give(self, batch: int, jobs: list[int], words: list[Command], value: float = 1.0) -> None:
        """Sends the rows of a batch, one of each job, and waits until the sink has them."""
        self.send_result(batch, jobs, words, value)
        [done] = self.receive()
        assert done[:2] == [commands.BATCH_DONE, u64(job(batch))]

    def send_idle(self, batch: int) -> list[bytes]:
        """Sends the report of an idle worker behind its results."""
        idle = [commands.WORKER_IDLE, b"worker-0.1", u64(job(batch)), u64(0)]
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
def unsynced() -> Iterator[Around]:
    around = Around()
    try:
        yield around
    finally:
        around.close()


@pytest.fixture
def around(unsynced: Around) -> Around:
    unsynced.sync()
    return unsynced


def job(number: int, epoch: int = EPOCH) -> int:
    return (epoch << 40) + number


def test_rows_that_bring_their_word_are_published(around: Around) -> None:
    around.give(1, [job(1), job(2)], [announcement(job(1)), announcement(job(2))])
    assert around.answers() == [1.0, 1.0]


def test_a_batch_that_was_computed_twice_is_published_once(around: Around) -> None:
    around.give(1, [job(1)], [announcement(job(1))])
    around.give(2, [job(1)], [announcement(job(1))], value=2.0)
    around.tell(announcement(job(1)))  # and if half of a larger batch comes again, the word comes alone
    around.give(3, [job(1)], [], value=3.0)
    assert around.answers() == [1.0]
    assert not around.sink.assembler.jobs


def test_later_jobs_do_not_make_earlier_ones_finished(around: Around) -> None:
    """Rows that overtake the word of their job wait for it, also when a later job was published meanwhile."""
    around.give(1, [job(1)], [], value=1.0)
    around.give(2, [job(2)], [announcement(job(2))], value=2.0)
    around.tell(announcement(job(1)))
    wait_until(lambda: not around.sink.assembler.jobs and not around.sink.assembler.unannounced_rows)
    assert around.answers() == [2.0, 1.0]


def test_rows_may_come_before_the_word_of_their_job_though_later_jobs_are_known(around: Around) -> None:
    """A job that waits is told of when its first batch leaves, after jobs that came later and were told at once."""
    around.tell(announcement(job(2), size=2))
    around.give(1, [job(1)], [], value=1.0)
    assert around.answers() == []
    around.tell(announcement(job(1)))
    wait_until(lambda: not around.sink.assembler.unannounced_rows)
    assert around.answers() == [1.0]


def test_rows_of_a_job_that_has_failed_are_passed_over(around: Around) -> None:
    around.tell([commands.CANCEL_JOB, u64(job(1))])
    around.answers()  # so it has been read
    around.give(1, [job(1)], [announcement(job(1))])
    assert around.answers() == []
    assert not around.sink.assembler.unannounced_rows


def test_words_of_another_ventilator_are_passed_over(around: Around) -> None:
    around.give(1, [job(1, EPOCH + 1)], [announcement(job(1, EPOCH + 1))])
    assert around.answers() == []


def test_tokens_and_notes_travel_too(around: Around) -> None:
    word = announcement(job(1), metadata=json.dumps({"num_tokens": 9}).encode())
    word[6] = b'[["[CLS]", "[SEP]"]]'
    around.give(1, [job(1)], [word])
    reply = parse_reply(around.client.recv_multipart())
    assert (reply.info["tokens"], reply.info["num_tokens"]) == ([["[CLS]", "[SEP]"]], 9)


# ---------------------------------------------------------------- restarts


def test_results_that_overtake_the_sync_are_held(unsynced: Around) -> None:
    """Regression: a new sink dropped them, and the ventilator counted their batches as in flight for good."""
    unsynced.send_result(1, [job(1)], [announcement(job(1))], value=1.0)
    unsynced.send_result(2, [job(2)], [announcement(job(2))], value=2.0)
    wait_until(lambda: unsynced.sink.barrier.num_held == 2)
    unsynced.sync()
    done = unsynced.receive()
    assert [command[:2] for command in done] == [[commands.BATCH_DONE, u64(job(number))] for number in (1, 2)]
    assert unsynced.answers() == [1.0, 2.0]


def test_held_results_of_batches_before_the_sync_are_stale(unsynced: Around) -> None:
    unsynced.send_result(1, [job(1)], [announcement(job(1))], value=1.0)
    unsynced.send_result(1, [job(1, EPOCH - 1)], [announcement(job(1, EPOCH - 1))], epoch=EPOCH - 1)
    wait_until(lambda: unsynced.sink.barrier.num_held == 2)
    unsynced.sync(first_batch=2)
    unsynced.give(2, [job(1)], [announcement(job(1))], value=2.0)
    assert unsynced.answers() == [2.0]


def test_results_that_overtake_the_sync_of_a_new_ventilator_are_held(around: Around) -> None:
    new = EPOCH + 1
    around.send_result(1, [job(1, new)], [announcement(job(1, new))], epoch=new)
    wait_until(lambda: around.sink.barrier.num_held == 1)
    around.tell([commands.SYNC, u64(new), u64(job(0, new))])
    [done] = around.receive()
    assert done[:2] == [commands.BATCH_DONE, u64(job(1, new))]
    assert around.answers() == [1.0]


def test_results_of_a_previous_ventilator_are_dropped(around: Around) -> None:
    new = EPOCH + 1
    around.tell([commands.SYNC, u64(new), u64(job(0, new))])
    wait_until(lambda: around.sink.barrier.epoch == new)
    around.send_result(1, [job(1)], [announcement(job(1))])
    around.send_result(1, [job(1, new)], [announcement(job(1, new))], value=2.0, epoch=new)
    [done] = around.receive()
    assert done[:2] == [commands.BATCH_DONE, u64(job(1, new))]
    assert around.answers() == [2.0]
    assert not around.sink.barrier.num_held


def test_the_report_of_an_idle_worker_follows_its_results(around: Around) -> None:
    around.send_result(1, [job(1)], [announcement(job(1))])
    idle = around.send_idle(1)
    received = around.receive()
    while len(received) < 2:
        received += around.receive()
    assert received[0][:2] == [commands.BATCH_DONE, u64(job(1))]
    assert received[1] == idle


def test_the_report_of_an_idle_worker_does_not_overtake_held_results(unsynced: Around) -> None:
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
    for _ in range(MAX_SWEEPS):
        barrier.sweep()
    assert barrier.num_held == 1
    barrier.sweep()
    assert barrier.num_held == 0
