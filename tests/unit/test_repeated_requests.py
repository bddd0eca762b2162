"""A request that is sent again while it is under way, with the test in place of worker and sink.

The answer may have been published into a connection that was cut just before. What the real parts would have to do in
which order, no test from outside can force.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator

import pytest
import zmq

from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import from_u64, u64
from bert_serving.server.ipc.messages import BatchMessage, Command, decode_commands, encode_commands
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.tokenization.factory import make_tokenizer
from bert_serving.server.ventilator.ventilator import Ventilator
from process_harness import LIMIT, ProcessHarness
from servers import wait_until

REQUEST = [b"client", json.dumps(["hello world"]).encode(), b"1", b"1"]


class Inside(ProcessHarness):
    """A ventilator in a thread, and the ends of all its sockets."""

    def __init__(self) -> None:
        super().__init__("ventilator")
        model = self.config.read_model()
        self.sink = make_socket(self.context, zmq.DEALER)
        self.sink.bind(self.addresses.link)
        self.ventilator = Ventilator(self.process, make_tokenizer(self.config, model), model)
        self.worker = make_socket(self.context, zmq.DEALER, IDENTITY=b"worker-0")
        self.worker.connect(self.addresses.dispatch)
        self.worker.send_multipart([commands.REGISTER, json.dumps({"max_tokens": 4096, "device": "none"}).encode()])
        self.client = make_socket(self.context, zmq.PUSH)
        self.client.connect(f"tcp://127.0.0.1:{self.config.port}")
        self.words: deque[Command] = deque()  # that the sink has received and not looked at
        self.start(self.ventilator)

    def ask(self) -> None:
        self.client.send_multipart(REQUEST)

    def ask_again(self) -> tuple[int, list[bytes]]:
        """Asks twice; the number of the batch, and what the sink is asked: ticket and job."""
        self.ask()
        batch = self.batch()
        self.ask()
        return batch, self.word(commands.QUERY_JOB)[1:]

    def batch(self) -> int:
        """The number of the next batch that a worker is given."""
        return self.batch_with_words()[0]

    def batch_with_words(self) -> tuple[int, list[Command]]:
        """The next batch that a worker is given, and what it says to the sink."""
        assert self.worker.poll(LIMIT), "no batch"
        message = BatchMessage.from_frames(self.worker.recv_multipart(copy=False))
        return message.id, decode_commands(message.announcements) if message.announcements else []

    def word(self, kind: bytes) -> Command:
        """The next word of that kind to the sink."""
        while True:
            while not self.words:
                assert self.sink.poll(LIMIT), f"no word {kind!r}"
                self.words.extend(decode_commands(self.sink.recv()))
            word = self.words.popleft()
            if word[0] == kind:
                return word

    def tell(self, *word: bytes) -> None:
        self.sink.send(encode_commands([list(word)]))

    def num_jobs(self) -> int:
        """Requests under way."""
        self.client.send_multipart([b"client", b"SHOW_STATUS", b"2", b"0"])
        return int(json.loads(self.word(commands.PUBLISH)[2])["queue"]["requests"])


@pytest.fixture
def inside() -> Iterator[Inside]:
    inside = Inside()
    try:
        yield inside
    finally:
        inside.close()


def test_an_answer_that_went_out_before_the_question_is_made_again(inside: Inside) -> None:
    inside.ask()
    batch, [word] = inside.batch_with_words()
    first_job = word[1]
    inside.ask()
    _, ticket, job = inside.word(commands.QUERY_JOB)
    assert job == first_job
    # As the sink speaks: the batch came and the answer was published, and then the question was read.
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    inside.tell(commands.JOB_PUBLISHED, ticket, job)
    batch, [word] = inside.batch_with_words()
    second_job = word[1]
    assert from_u64(second_job) > from_u64(first_job)
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)


def test_an_answer_that_is_still_to_come_is_not_made_twice(inside: Inside) -> None:
    batch, (ticket, job) = inside.ask_again()
    inside.tell(commands.JOB_PENDING, ticket, job)
    assert inside.num_jobs() == 1
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)
    assert not inside.worker.poll(0), "it was encoded again"


def test_a_request_is_kept_until_the_sink_has_said_what_became_of_it(inside: Inside) -> None:
    inside.ask()
    batch = inside.batch()
    inside.ask()
    inside.ask()
    question = inside.word(commands.QUERY_JOB)
    assert inside.num_jobs() == 1  # so it has read all three
    inside.tell(commands.JOB_PENDING, *question[1:])
    assert inside.word(commands.QUERY_JOB) == question  # for the one that came in between
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    assert inside.num_jobs() == 1
    inside.tell(commands.JOB_PUBLISHED, *question[1:])
    batch = inside.batch()
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)


def test_a_sink_that_has_not_heard_of_a_job_is_asked_once_more(inside: Inside) -> None:
    """The word of a short request travels with its batch, so before that "published" can mean "never heard of"."""
    inside.ask()
    batch = inside.batch()
    inside.ask()
    inside.ask()
    question = inside.word(commands.QUERY_JOB)
    assert inside.num_jobs() == 1  # so it has read all three
    inside.tell(commands.JOB_PUBLISHED, *question[1:])
    assert inside.word(commands.QUERY_JOB) == question
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    inside.tell(commands.JOB_PUBLISHED, *question[1:])
    batch = inside.batch()
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)


def test_a_server_that_stops_makes_no_answer_again(inside: Inside) -> None:
    batch, (ticket, job) = inside.ask_again()
    inside.ventilator.requests.draining = True
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    inside.tell(commands.JOB_PUBLISHED, ticket, job)
    assert json.loads(inside.word(commands.PUBLISH)[2])["error"]["type"] == "draining"
    wait_until(lambda: inside.num_jobs() == 0)
    assert not inside.worker.poll(0), "it was encoded again"


def test_what_is_said_of_another_job_is_passed_over(inside: Inside) -> None:
    """Tickets begin with 1 in each ventilator, and an old sink's word may come to a new one."""
    inside.ask()
    batch = inside.batch()
    for word in (commands.JOB_PUBLISHED, commands.JOB_PENDING):
        inside.tell(word, u64(1), u64(7))
    assert inside.num_jobs() == 1
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)


def test_a_new_sink_is_not_asked_about_what_an_old_one_knew(inside: Inside) -> None:
    _, (ticket, job) = inside.ask_again()
    inside.tell(commands.SYNC_REQUEST, b"nonce")
    batch = inside.batch()
    inside.tell(commands.JOB_PUBLISHED, ticket, job)  # of the old sink, too late
    assert inside.num_jobs() == 1
    inside.tell(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: inside.num_jobs() == 0)
