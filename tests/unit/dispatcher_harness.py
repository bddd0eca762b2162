"""Runs a dispatcher; the test plays the workers and the sink."""

from __future__ import annotations

import numpy as np
import zmq

from bert_serving.server.errors import RequestError
from bert_serving.server.ipc import commands
from bert_serving.server.ipc.commands import u64
from bert_serving.server.ipc.messages import BatchMessage, Command, decode_commands
from bert_serving.server.ipc.model_numbers import BatchNumbers
from bert_serving.server.ipc.sockets import make_socket
from bert_serving.server.log import get_logger
from bert_serving.server.scheduling.dispatcher import Dispatcher
from bert_serving.server.scheduling.jobs import Job, JobChunk, RequestKey
from bert_serving.server.shares.job_usage import JobUsage
from bert_serving.server.tokenization.tokenizer import Tokenized
from process_harness import LIMIT, tiny_config

SMALL_BATCHES = ("-max_batch_size", "4")
EPOCH = 5


def announcement(job: int, size: int = 1, metadata: bytes | None = b"{}", identity: bytes = b"me") -> Command:
    """Returns a JOB_CHUNK command; without metadata, further chunks follow."""
    return [
        commands.JOB_CHUNK,
        u64(job),
        u64(size),
        identity,
        b"7",
        u64(0),
        b"",
        b"",
        *([] if metadata is None else [metadata]),
    ]


class DispatcherHarness:
    """Holds a dispatcher, the sockets of its workers, and its commands for the sink."""

    def __init__(self, *options: str) -> None:
        self.now = 100.0
        self.told: list[Command] = []
        self.failures: list[tuple[Job, RequestError]] = []
        self.context = zmq.Context()
        router = make_socket(self.context, zmq.ROUTER, ROUTER_MANDATORY=1)
        router.bind("inproc://dispatch")
        self.dispatcher = Dispatcher(
            tiny_config(*(options or SMALL_BATCHES)),
            router,
            self._fail,
            self.told.append,
            get_logger("D"),
            lambda: self.now,
            BatchNumbers(EPOCH << 40),
        )
        self.workers: dict[bytes, zmq.Socket[bytes]] = {}
        self.count = 0

    def _fail(self, job: Job, error: RequestError) -> None:
        job.failed = True
        self.failures.append((job, error))
        self.dispatcher.drop([job])

    def add_worker(self, name: bytes, **info: object) -> None:
        self.workers[name] = make_socket(self.context, zmq.DEALER, IDENTITY=name)
        self.workers[name].connect("inproc://dispatch")
        self.workers[name].send(b"here")
        assert self.dispatcher.router.poll(LIMIT)
        self.dispatcher.router.recv_multipart()
        self.dispatcher.register_worker(name, {"max_tokens": 4096, **info})

    def ask(
        self, size: int = 1, is_last: bool = True, job: Job | None = None, usage: JobUsage | None = None
    ) -> tuple[Job, Command]:
        """Adds a request of ``size`` texts, or a chunk of one. Returns the job and its announcement."""
        self.count += 1
        if job is None:
            job = Job(self.count, RequestKey(b"client", b"1", b""), size, self.now, id=self.count, usage=usage)
        job.is_complete = is_last
        ids = np.arange(3 * size, dtype=np.int32) + 1000 * self.count  # no two requests have equal texts
        tokenized = Tokenized(ids, None, None, np.full(size, 3, np.int32), np.zeros(0, np.int32), 0)
        chunk = JobChunk(job, 0, tokenized)
        job.chunks.append(chunk)
        command = announcement(job.id, size, b"{}" if is_last else None)
        self.dispatcher.add(chunk, command)
        return job, command

    def batch(self, worker: bytes) -> tuple[BatchMessage, list[Command]]:
        """Returns the next batch of a worker, and its announcements."""
        self.dispatcher.dispatch()
        assert self.workers[worker].poll(LIMIT), "no batch"
        message = BatchMessage.from_frames(self.workers[worker].recv_multipart(copy=False))
        return message, decode_commands(message.announcements) if message.announcements else []
