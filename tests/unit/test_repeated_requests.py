"""Tests of requests that a client repeats while they are in progress. The test plays the worker and the sink.

The result may have been published to a connection that had just closed. A test from outside cannot force this order of
events.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator

import pytest
import zmq

from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import from_u64, u64
from bert_serving.server.ipc.messages import BatchMessage, Command, decode_commands, encode_commands
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.shares.share import NO_NAME, Share
from bert_serving.server.tokenization.factory import make_tokenizer
from bert_serving.server.ventilator.requests import Request
from bert_serving.server.ventilator.share_table import ShareTable
from bert_serving.server.ventilator.ventilator import Ventilator
from process_harness import LIMIT, ProcessHarness
from servers import wait_until

REQUEST = [b"client", json.dumps(["hello world"]).encode(), b"1", b"1"]


class VentilatorHarness(ProcessHarness):
    """Runs a ventilator in a thread, and holds the other ends of its sockets."""

    def __init__(self) -> None:
        super().__init__("ventilator")
        model = self.config.read_model()
        self.sink = make_socket(self.context, zmq.DEALER)
        self.sink.bind(self.addresses.channel)
        self.ventilator = Ventilator(self.process, make_tokenizer(self.config, model), model)
        self.worker = make_socket(self.context, zmq.DEALER, IDENTITY=b"worker-0")
        self.worker.connect(self.addresses.dispatch)
        self.worker.send_multipart([commands.REGISTER, json.dumps({"max_tokens": 4096, "device": "none"}).encode()])
        self.client = make_socket(self.context, zmq.PUSH)
        self.client.connect(f"tcp://127.0.0.1:{self.config.port}")
        self.commands: deque[Command] = deque()  # received by the sink and not yet checked
        self.start(self.ventilator)

    def request(self) -> None:
        """Sends the request, or repeats it."""
        self.client.send_multipart(REQUEST)

    def request_twice(self) -> tuple[int, list[bytes]]:
        """Sends the request twice. Returns the id of its batch, and the query for the sink: local id and job id."""
        self.request()
        batch = self.batch()
        self.request()
        return batch, self.command(commands.QUERY_JOB)[1:]

    def batch(self) -> int:
        """Returns the id of the next batch for the worker."""
        return self.batch_with_announcements()[0]

    def batch_with_announcements(self) -> tuple[int, list[Command]]:
        """Returns the id of the next batch for the worker, and its announcements for the sink."""
        frames: list[zmq.Frame] = []
        while not frames or not len(frames[0]):  # commands follow an empty frame, such as BATCHES_SENT each second
            assert self.worker.poll(LIMIT), "no batch"
            frames = self.worker.recv_multipart(copy=False)
        message = BatchMessage.from_frames(frames)
        return message.id, decode_commands(message.announcements) if message.announcements else []

    def command(self, kind: bytes) -> Command:
        """Returns the next command of this kind for the sink."""
        while True:
            while not self.commands:
                assert self.sink.poll(LIMIT), f"no command {kind!r}"
                self.commands.extend(decode_commands(self.sink.recv()))
            command = self.commands.popleft()
            if command[0] == kind:
                return command

    def send_from_sink(self, *command: bytes) -> None:
        self.sink.send(encode_commands([list(command)]))

    def num_jobs(self) -> int:
        """Returns the number of requests in progress."""
        self.client.send_multipart([b"client", b"SHOW_STATUS", b"2", b"0"])
        return int(json.loads(self.command(commands.PUBLISH)[2])["queue"]["requests"])


@pytest.fixture
def harness() -> Iterator[VentilatorHarness]:
    harness = VentilatorHarness()
    try:
        yield harness
    finally:
        harness.close()


def test_a_result_published_before_the_query_is_computed_again(harness: VentilatorHarness) -> None:
    harness.request()
    batch, [announcement] = harness.batch_with_announcements()
    first_job = announcement[1]
    harness.request()
    _, local_id, job = harness.command(commands.QUERY_JOB)
    assert job == first_job
    # The order at the sink: it received the batch, published the result, and then read the query.
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    harness.send_from_sink(commands.JOB_PUBLISHED, local_id, job)
    batch, [announcement] = harness.batch_with_announcements()
    second_job = announcement[1]
    assert from_u64(second_job) > from_u64(first_job)
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)


def test_a_pending_result_is_not_computed_twice(harness: VentilatorHarness) -> None:
    batch, (local_id, job) = harness.request_twice()
    harness.send_from_sink(commands.JOB_PENDING, local_id, job)
    assert harness.num_jobs() == 1
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)
    assert not harness.worker.poll(0), "the request was encoded again"


def test_a_request_is_kept_until_the_sink_has_answered_the_query(harness: VentilatorHarness) -> None:
    harness.request()
    batch = harness.batch()
    harness.request()
    harness.request()
    query = harness.command(commands.QUERY_JOB)
    assert harness.num_jobs() == 1  # so the ventilator has read all three
    harness.send_from_sink(commands.JOB_PENDING, *query[1:])
    assert harness.command(commands.QUERY_JOB) == query  # for the repetition in between
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    assert harness.num_jobs() == 1
    harness.send_from_sink(commands.JOB_PUBLISHED, *query[1:])
    batch = harness.batch()
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)


def test_a_sink_without_the_announcement_is_queried_again(harness: VentilatorHarness) -> None:
    """The announcement of a short request travels with its batch, so JOB_PUBLISHED may mean that it has not arrived."""
    harness.request()
    batch = harness.batch()
    harness.request()
    harness.request()
    query = harness.command(commands.QUERY_JOB)
    assert harness.num_jobs() == 1  # so the ventilator has read all three
    harness.send_from_sink(commands.JOB_PUBLISHED, *query[1:])
    assert harness.command(commands.QUERY_JOB) == query
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    harness.send_from_sink(commands.JOB_PUBLISHED, *query[1:])
    batch = harness.batch()
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)


def test_a_draining_server_does_not_compute_a_result_again(harness: VentilatorHarness) -> None:
    batch, (local_id, job) = harness.request_twice()
    harness.ventilator.requests.draining = True
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    harness.send_from_sink(commands.JOB_PUBLISHED, local_id, job)
    assert json.loads(harness.command(commands.PUBLISH)[2])["error"]["type"] == "draining"
    wait_until(lambda: harness.num_jobs() == 0)
    assert not harness.worker.poll(0), "the request was encoded again"


def test_a_repeated_computation_counts_for_the_limits_of_its_name(harness: VentilatorHarness) -> None:
    """Else a client that repeats a request without an end is charged once."""
    names = ShareTable({NO_NAME: Share(NO_NAME, texts_per_minute=2)}, "", None, time.monotonic)
    harness.ventilator.requests.shares = names
    batch, query = harness.request_twice()
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    harness.send_from_sink(commands.JOB_PUBLISHED, *query)
    batch = harness.batch()
    harness.request()
    query = harness.command(commands.QUERY_JOB)[1:]
    assert names.to_dict()[NO_NAME]["texts"] == 2
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    harness.send_from_sink(commands.JOB_PUBLISHED, *query)
    error = json.loads(harness.command(commands.PUBLISH)[2])["error"]
    assert (error["type"], 1 <= error["retry_after"] <= 61) == ("rate_limited", True)
    wait_until(lambda: harness.num_jobs() == 0)
    assert not harness.worker.poll(0), "the request was encoded again"
    assert (names.to_dict()[NO_NAME]["waiting_tokens"], names.to_dict()[NO_NAME]["requests"]) == (0, 2)


def test_a_request_of_another_key_is_no_repetition() -> None:
    """Else it would be charged to the first key."""
    keys = {Request(b"client", b"[]", b"1", user_id=user).key_of(b"digest") for user in ("", "one", "other")}
    assert len(keys) == 3


def test_replies_about_other_jobs_are_ignored(harness: VentilatorHarness) -> None:
    """Local ids start at 1 in each ventilator, and a reply to an earlier one may arrive late."""
    harness.request()
    batch = harness.batch()
    for kind in (commands.JOB_PUBLISHED, commands.JOB_PENDING):
        harness.send_from_sink(kind, u64(1), u64(7))
    assert harness.num_jobs() == 1
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)


def test_a_new_sink_is_not_queried_about_earlier_jobs(harness: VentilatorHarness) -> None:
    _, (local_id, job) = harness.request_twice()
    harness.send_from_sink(commands.SYNC_REQUEST, b"nonce")
    batch = harness.batch()
    harness.send_from_sink(commands.JOB_PUBLISHED, local_id, job)  # late, from the old sink
    assert harness.num_jobs() == 1
    harness.send_from_sink(commands.BATCH_DONE, u64(batch), u64(0))
    wait_until(lambda: harness.num_jobs() == 0)
