"""The word of a short request travels to the sink with its batch: nothing is lost or published twice on the way.

The dispatcher with the test in place of workers and sink, and the sink with the test in place of all others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from batches import EPOCH, SMALL_BATCHES, Batches, part_word
from bert_serving.client.protocol import parse_reply
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import Result, Word, decode_commands, encode_commands
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.scheduling.dispatcher import TELL_AFTER
from bert_serving.server.sink.sink import Sink
from inner_part import InnerPart
from servers import wait_until

# ---------------------------------------------------------------- the dispatcher


def test_the_word_of_a_short_request_travels_with_its_batch(batches: Batches) -> None:
    _, first = batches.ask()
    _, second = batches.ask(2)
    batches.hire(b"a")
    assert batches.batch(b"a")[1] == [first, second]
    assert batches.told == []


def test_of_a_request_in_several_batches_the_sink_is_told_first(batches: Batches) -> None:
    _, word = batches.ask(6)
    batches.hire(b"a")
    assert batches.batch(b"a")[1] == []
    assert batches.told == [word]


def test_of_a_request_that_is_not_all_here_the_sink_is_told_at_once(batches: Batches) -> None:
    _, word = batches.ask(1, is_last=False)
    assert batches.told == [word]


def test_the_word_goes_again_when_a_worker_dies(batches: Batches) -> None:
    _, word = batches.ask()
    batches.hire(b"a")
    assert batches.batch(b"a")[1] == [word]
    batches.dispatcher.lost(b"a")
    batches.hire(b"b")
    message, words = batches.batch(b"b")
    assert words == [word]
    assert len(batches.dispatcher.done(message.id, 0.0)) == 1
    batches.now += 2 * TELL_AFTER
    batches.dispatcher.tell_of_old()
    assert batches.told == []  # nothing is left of it


def test_the_sink_is_told_of_a_request_that_is_split_after_a_failure(batches: Batches) -> None:
    _, word = batches.ask(2)
    batches.hire(b"a")
    message, words = batches.batch(b"a")
    assert words == [word]
    batches.dispatcher.failed(b"a", message.id, "error", "it does not work")
    assert batches.batch(b"a")[1] == []
    assert batches.told == [word]


def test_nothing_is_said_of_a_request_that_failed(batches: Batches) -> None:
    job, word = batches.ask()
    batches.hire(b"a")
    message, words = batches.batch(b"a")
    assert words == [word]
    batches.dispatcher.failed(b"a", message.id, "error", "it does not work")
    assert [failed for failed, _ in batches.failures] == [job]
    batches.now += 2 * TELL_AFTER
    batches.dispatcher.tell_of_old()
    assert batches.told == []


def test_the_sink_hears_of_requests_that_wait_long(batches: Batches) -> None:
    _, old = batches.ask()
    batches.now += TELL_AFTER + 0.1
    _, new = batches.ask()
    batches.dispatcher.tell_of_old()
    assert batches.told == [old]
    batches.hire(b"a")
    assert batches.batch(b"a")[1] == [new]


# ---------------------------------------------------------------- the sink


class Around(InnerPart):
    """A sink in a thread, the ends of its sockets, and a client that reads."""

    def __init__(self) -> None:
        super().__init__("sink", *SMALL_BATCHES)
        self.sink = Sink(self.link, 64)
        self.ventilator = make_socket(self.context, zmq.DEALER)
        self.ventilator.connect(self.addresses.link)
        self.worker = make_socket(self.context, zmq.PUSH)
        self.worker.connect(self.addresses.results)
        self.client = self.context.socket(zmq.SUB)
        self.client.subscribe(b"me")
        self.client.connect(f"tcp://127.0.0.1:{self.config.port_out}")
        self.start(self.sink)
        self.introduce(EPOCH)
        wait_until(lambda: self.sink.outbox.has_reader(b"me"))

    def introduce(self, epoch: int) -> None:
        """Answers the sink's question who it is that speaks."""
        [who] = decode_commands(self.ventilator.recv())
        assert who[0] == commands.SYNC_REQUEST
        self.tell([commands.SYNC, u64(epoch), who[1]])
        wait_until(lambda: self.sink.is_introduced)

    def tell(self, *words: Word) -> None:
        self.ventilator.send(encode_commands(words))

    def give(self, batch: int, jobs: list[int], words: list[Word], value: float = 1.0) -> None:
        """The rows of a batch, one of each job, and wait until they are there."""
        manifest = np.array([[job, 0] for job in jobs], np.int64)
        array = np.full((len(jobs), 2), value, np.float32)
        result = Result(batch, array, np.ones(len(jobs), np.int32), manifest, False, 0, encode_commands(words))
        self.worker.send_multipart(result.frames())
        [done] = decode_commands(self.ventilator.recv())
        assert done[:2] == [commands.BATCH_DONE, u64(batch)]

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
def around() -> Iterator[Around]:
    around = Around()
    try:
        yield around
    finally:
        around.close()


def job(number: int, epoch: int = EPOCH) -> int:
    return (epoch << 40) + number


def test_rows_that_bring_their_word_are_published(around: Around) -> None:
    around.give(1, [job(1), job(2)], [part_word(job(1)), part_word(job(2))])
    assert around.answers() == [1.0, 1.0]


def test_a_batch_that_was_computed_twice_is_published_once(around: Around) -> None:
    around.give(1, [job(1)], [part_word(job(1))])
    around.give(2, [job(1)], [part_word(job(1))], value=2.0)
    around.tell(part_word(job(1)))  # and if half of a larger batch comes again, the word comes alone
    around.give(3, [job(1)], [], value=3.0)
    assert around.answers() == [1.0]
    assert not around.sink.jobs


def test_later_jobs_do_not_make_earlier_ones_finished(around: Around) -> None:
    """Rows that overtake the word of their job wait for it, also when a later job was published meanwhile."""
    around.give(1, [job(1)], [], value=1.0)
    around.give(2, [job(2)], [part_word(job(2))], value=2.0)
    around.tell(part_word(job(1)))
    wait_until(lambda: not around.sink.jobs and not around.sink.early)
    assert around.answers() == [2.0, 1.0]


def test_rows_may_come_before_the_word_of_their_job_though_later_jobs_are_known(around: Around) -> None:
    """A job that waits is told of when its first batch leaves, after jobs that came later and were told at once."""
    around.tell(part_word(job(2), size=2))
    around.give(1, [job(1)], [], value=1.0)
    assert around.answers() == []
    around.tell(part_word(job(1)))
    wait_until(lambda: not around.sink.early)
    assert around.answers() == [1.0]


def test_rows_of_a_job_that_has_failed_are_passed_over(around: Around) -> None:
    around.tell([commands.CANCEL_JOB, u64(job(1))])
    around.answers()  # so it has been read
    around.give(1, [job(1)], [part_word(job(1))])
    assert around.answers() == []
    assert not around.sink.early


def test_words_of_another_ventilator_are_passed_over(around: Around) -> None:
    around.give(1, [job(1, EPOCH + 1)], [part_word(job(1, EPOCH + 1))])
    assert around.answers() == []


def test_tokens_and_notes_travel_too(around: Around) -> None:
    word = part_word(job(1), note=json.dumps({"num_tokens": 9}).encode())
    word[6] = b'[["[CLS]", "[SEP]"]]'
    around.give(1, [job(1)], [word])
    reply = parse_reply(around.client.recv_multipart())
    assert (reply.info["tokens"], reply.info["num_tokens"]) == ([["[CLS]", "[SEP]"]], 9)
