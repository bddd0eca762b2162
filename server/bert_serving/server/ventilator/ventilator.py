"""The ventilator: takes requests in, tokenizes them, and hands batches of many clients' sequences to the workers.

One poll loop owns all its sockets. Large requests are tokenized by a thread beside it, piece by piece, so that the
loop goes on answering and the first pieces are computed while the last are still text.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import Counter
from math import ceil, inf
from typing import Any

import zmq

from bert_serving.client.protocol import SHOW_CONFIG, SHOW_PENDING, SHOW_STATUS, TERMINATION, error_info

from ..errors import Draining, Forbidden, InternalError, RequestError, TooLarge
from ..ipc import commands
from ..ipc.commands import DRAIN, DRAIN_WORKER, DRAINED, READY, STATE, STOP, TERMINATE, WORKER_DRAINED, WORKER_LOST, u64
from ..ipc.messages import Command, decode_commands, encode_commands
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import bind_tcp, is_readable, keep_alive, make_socket, recv_available
from ..ipc.tcp_guard import ConnectionMonitor
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy
from ..monitoring.drift import Reference, UnknownDrift
from ..monitoring.statistics import Statistics
from ..scheduling.dispatcher import Dispatcher
from ..scheduling.jobs import Job, Part, token_width
from ..security.curve import CurveAuth, is_loopback
from ..tokenization.factory import make_tokenizer
from ..tokenization.tokenizer import Tokenizer
from .requests import BadEnvelope, Request, RequestLimits, read_envelope, read_texts
from .result_limit import ResultLimit
from .status import config_json, status_json
from .tokenizer_thread import TokenizerThread, tokenize

#: Messages up to this size are tokenized in the loop: that takes less time than handing them over.
INLINE_BYTES = 8192
#: A message that exceeds -max_message_bytes by up to so much is answered with an error; a larger one is not even read.
TOO_LARGE_BYTES = 64 * 2**20
#: So many times what one message may have may come in by a connection while the server is too full to read.
UNREAD_MESSAGES = 4
#: Messages read before the loop looks at its other sockets again.
BURST = 64


class Ventilator:
    """The state of the loop. ``clock`` gives monotonic seconds."""

    def __init__(self, link: ProcessContext, tokenizer: Tokenizer, model: ModelConfig) -> None:
        self.link, self.config, self.log = link, link.config, link.log
        self.clock = time.monotonic
        self.tokenizer, self.max_positions = tokenizer, model.max_position_embeddings
        self.result_limit = ResultLimit(self.config, model)
        config = self.config
        self.limits = RequestLimits(config.max_request_size, config.max_text_length, config.max_queue_tokens)
        self.statistics = Statistics()
        self.jobs: dict[int, Job] = {}  # by ticket, in order of arrival
        self.pending: dict[tuple[bytes, bytes, bytes], Job] = {}
        self._known: Counter[tuple[bytes, bytes]] = Counter()  # identities and request ids of the jobs
        self.draining = self.stopped = self._said_drained = False
        # Ids are unique across restarts: what comes back for an earlier ventilator's jobs is recognised as foreign.
        self.epoch = secrets.randbits(22)
        self._last_ticket, self._last_id = 0, self.epoch << 40
        self._retiring: bytes | None = None
        reference = link.options["drift"]
        self._unknown = UnknownDrift(Reference.from_dict(reference), self.config.drift_window) if reference else None
        self._vector_drift: dict[str, Any] = {"seen": 0, "texts": 0}  # as the sink has told it

        context = link.context
        self.connections = ConnectionMonitor(config.port, is_encrypted=config.auth_keys is not None)
        self._next_look, self._has_read_all = 0.0, False

        self.control = link.connect_control()
        self.front = self._bind_front(context)
        self.router = make_socket(context, zmq.ROUTER, ROUTER_MANDATORY=1)
        self.router.bind(link.addresses.dispatch)
        self.sink = make_socket(context, zmq.DEALER)
        self.sink.connect(link.addresses.link)
        self.sink.send(encode_commands([[commands.SYNC, u64(self.epoch), u64(self._last_id)]]))
        #: What the sink shall hear, in this order. It goes out behind the batches: workers should not wait for it.
        self._words: list[Command] = []
        self.thread = TokenizerThread(context, tokenizer, self.limits)
        tell = self._words.append
        self.dispatcher = Dispatcher(self.config, self.router, self._fail, tell, self.log, self.clock, self._last_id)

    def _bind_front(self, context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
        front = context.socket(zmq.PULL)
        front.setsockopt(zmq.LINGER, 0)
        front.setsockopt(zmq.RCVHWM, 100)
        # ZeroMQ cuts the connection to who sends more than this. A little above the limit, we can still say so instead.
        front.setsockopt(zmq.MAXMSGSIZE, self.config.max_message_bytes + TOO_LARGE_BYTES)
        # A peer that vanished without a word is noticed, and its buffers are given back. By TCP, not by ZeroMQ's own
        # heartbeats: their answers queue behind the data that is left unread when the server is full.
        keep_alive(front)
        CurveAuth(**self.link.options["access"]).apply(context, front)
        bind_tcp(front, self.config.host, self.config.port)
        return front

    # ---------------------------------------------------------------- the loop

    def run(self) -> None:
        """Serves until told to stop."""
        self.log.info("bind all sockets")
        poller = zmq.Poller()
        for sock in (self.control, self.router, self.sink, self.thread.results):
            poller.register(sock, zmq.POLLIN)
        self.control.send_multipart([READY, b"{}"])
        while not self.stopped:
            is_full = self._is_full()
            poller.register(self.front, 0 if is_full else zmq.POLLIN)
            self.link.mark_progress()
            events = dict(poller.poll(self._patience()))
            if self.control in events:
                for frames in recv_available(self.control, BURST):
                    self._on_control(frames)
            # Before the sink: BATCH_FAILED of a batch is read before BATCH_DONE of the worker's next one.
            if self.router in events:
                for frames in recv_available(self.router, BURST):
                    self._on_worker(frames)
            if self.sink in events:
                for frames in recv_available(self.sink, BURST):
                    for word in decode_commands(frames[0]):
                        self._on_sink(word)
            if self.thread.results in events:
                self._on_tokenized()
            if self.front in events:
                self._on_front()
            else:
                self._has_read_all = not is_full
            if self.clock() >= self._next_look:
                self._look_at_connections()
                self.dispatcher.tell_of_old()
            self.dispatcher.dispatch()
            self._send_words()
            if self._retiring is not None and self.dispatcher.retire(self._retiring):
                self.control.send_multipart([WORKER_DRAINED, self._retiring])
                self._retiring = None
            if self.draining and not self.jobs and not self._said_drained:
                self._said_drained = True
                self.control.send(DRAINED)

    def _send_words(self) -> None:
        if self._words:
            self.sink.send(encode_commands(self._words))
            self._words.clear()

    def _patience(self) -> int:
        """Milliseconds until the loop has something to do though nothing comes in."""
        again_at = self.dispatcher.again_at
        return 1000 if again_at is None else max(0, ceil(1000 * (again_at - self.clock())))

    def _is_full(self) -> bool:
        """Whether so much waits that the rest is left in the clients' hands until some of it is done."""
        return self.dispatcher.scheduler.num_tokens + self.thread.backlog >= self.config.max_queue_tokens

    # ---------------------------------------------------------------- clients

    def _on_front(self) -> None:
        self._has_read_all = False
        for frames in recv_available(self.front, BURST, copy=False):
            self._on_message(frames)
            if self._is_full():
                return
        self._has_read_all = not is_readable(self.front)

    def _on_message(self, frames: list[zmq.Frame]) -> None:
        self.connections.record(frames)
        try:
            request = read_envelope(frames)
        except BadEnvelope as error:
            self.statistics.record_error(error.kind)
            self.log.warning("received a wrongly-formatted request: %s", error)
            if error.reply_to:
                self._say_error(*error.reply_to, error)
            return
        try:
            self._on_request(request, frames[0])
        except RequestError as error:
            self._refuse(request, error)
        except Exception as error:  # a fault of ours in one request must not end the service for the others
            self.log.exception("unforeseen error in a request of client %r", request.identity)
            self._refuse(request, InternalError(f"the server failed on this request: {type(error).__name__}"))

    def _look_at_connections(self) -> None:
        """Cuts who sends a message that does not end.

        When all messages were read, a connection holds a part of one at most. When the server is full, whole messages
        wait unread as well, which are no fault: then a connection may hold several times as much.
        """
        limit = self.config.max_message_bytes + 2 * TOO_LARGE_BYTES
        if not self._has_read_all:
            limit *= UNREAD_MESSAGES
        for host, size in self.connections.close_abusive(limit, self.clock()):
            self.log.warning("someone at %s sent %d bytes without an end; the connection is cut", host, size)
        self._has_read_all = False
        self._next_look = self.clock() + 1

    def _on_request(self, request: Request, frame: zmq.Frame) -> None:
        if request.is_command:
            self.statistics.record_system_request()
            self._on_command(request, frame)
            return
        if len(request.message) > self.config.max_message_bytes:
            raise TooLarge(
                f"the request has {len(request.message)} bytes; the limit is {self.config.max_message_bytes} "
                f"(-max_message_bytes): send fewer texts at a time"
            )
        fingerprint = (request.identity, request.request_id, hashlib.blake2b(request.message).digest())
        known = self.pending.get(fingerprint)
        if known is not None:
            self._on_repeated(known, request)
            return
        if self.draining:
            raise Draining("the server is stopping and takes no new requests; send it again when it is back")
        if len(request.message) <= INLINE_BYTES:
            texts = read_texts(request.message, self.limits)
            job = self._open(request, fingerprint, len(texts))
            self._add_part(Part(job, 0, tokenize(self.tokenizer, texts)), is_last=True)
        else:
            # The number of texts is not known before the JSON is read, which the thread does.
            job = self._open(request, fingerprint, 0)
            self.thread.submit(job.ticket, request.message)

    def _on_repeated(self, job: Job, request: Request) -> None:
        """A request that is under way was sent again, after its client lost a connection.

        The answer may have gone into that connection, and word of it may not have come here yet.
        """
        job.asked_at = self.clock()
        job.wants_timing, job.wants_num_tokens = request.wants_timing, request.wants_num_tokens
        if job.is_asked:
            job.asks_again = True
        elif job.id:
            self._ask_sink(job)

    def _ask_sink(self, job: Job) -> None:
        job.is_asked, job.asks_again = True, False
        self._words.append([commands.QUERY_JOB, u64(job.ticket), u64(job.id)])

    def _on_asked(self, ticket: int, job_id: int, is_published: bool) -> None:
        """The sink says whether it had published a job's answer when the job was sent again."""
        job = self.jobs.get(ticket)
        if job is None or job.id != job_id:
            return  # a job of the ventilator before this one
        job.is_asked = False
        if job.asks_again and (job.missing or not is_published):
            self._ask_sink(job)
        elif job.missing:
            return  # it goes on; the sink does not know of a job whose word travels with its batch
        elif not is_published:
            self._forget(job)
        elif self.draining:
            self._forget(job)
            error = Draining("the server is stopping; the answer went out before you asked again")
            self._say_error(job.identity, job.request_id, error)
        else:
            self.log.debug("req id: %s of client %r is encoded again", job.request_id, job.identity)
            self._last_id += 1
            job.id, job.asks_again, job.is_computed_again = self._last_id, False, True
            job.received_at = job.tokenized_at = job.asked_at
            job.began_at = inf
            self._compute(job)

    def _compute(self, job: Job) -> None:
        """Tells the sink of a job, and gives all of it to the workers, once more."""
        job.missing = job.size
        for index, part in enumerate(job.parts):
            self.dispatcher.add(part, self._word_of(part, is_last=job.sealed and index == len(job.parts) - 1))

    def _open(self, request: Request, fingerprint: tuple[bytes, bytes, bytes], size: int) -> Job:
        self._last_ticket += 1
        now = self.clock()
        job = Job(self._last_ticket, request.identity, request.request_id, size, now, fingerprint=fingerprint)
        job.wants_timing, job.wants_num_tokens = request.wants_timing, request.wants_num_tokens
        self.jobs[job.ticket] = self.pending[fingerprint] = job
        self._known[fingerprint[:2]] += 1
        if size:
            self._announce(job)
        return job

    def _announce(self, job: Job) -> None:
        """Counts a job, once its number of texts is known."""
        self.statistics.record_data_request(job.identity, job.size, self.clock())
        self.log.debug("new encode request\treq id: %s\tsize: %d\tclient: %r", job.request_id, job.size, job.identity)

    def _on_command(self, request: Request, frame: zmq.Frame) -> None:
        if request.message == TERMINATION:
            peer = str(frame.get("Peer-Address"))
            if self.config.auth_keys is None and not is_loopback(peer):
                raise Forbidden(f"TERMINATION is taken from this machine only, not from {peer}")
            self.log.info("termination asked for from %s", peer)
            self.control.send(TERMINATE)
            return
        if request.message == SHOW_CONFIG:
            self.log.debug("new config request\treq id: %s\tclient: %r", request.request_id, request.identity)
            answer = config_json(self, request.identity)
            # A client begins with this question, as number 1, in the low half of the id if it is one of this project.
            if int(request.request_id) % 2**32 == 1:
                self._words.append([commands.PUBLISH_ON_SUBSCRIBE, request.identity, answer, request.request_id])
                return
        elif request.message == SHOW_PENDING:
            # Answers leave in order: who reads that a request is not known has read its answer, if there was one.
            asked = ((number, (request.identity, b"%d" % number)) for number in request.queried_ids)
            unknown = [number for number, key in asked if key not in self._known]
            answer = json.dumps({"unknown": unknown}).encode()
        else:
            assert request.message == SHOW_STATUS
            self.log.debug("new status request\treq id: %s\tclient: %r", request.request_id, request.identity)
            answer = status_json(self, request.identity)
        self._say(request.identity, [answer, request.request_id])

    def _refuse(self, request: Request, error: RequestError) -> None:
        self.statistics.record_error(error.kind)
        self.log.warning("refused a request of client %r: %s", request.identity, error)
        info = error_info(error.kind, str(error))
        frames = [info, request.request_id] if request.is_command else [info, b"", request.request_id]
        self._say(request.identity, frames)

    def _say_error(self, identity: bytes, request_id: bytes, error: RequestError) -> None:
        """In place of the vectors that were asked for."""
        self._say(identity, [error_info(error.kind, str(error)), b"", request_id])

    def _say(self, identity: bytes, frames: list[bytes]) -> None:
        self._words.append([commands.PUBLISH, identity, *frames])

    # ---------------------------------------------------------------- tokens

    def _on_tokenized(self) -> None:
        for outcome in self.thread.receive(BURST):
            job = self.jobs.get(outcome.local_id)
            if job is None or job.failed:
                continue
            job.sealed = outcome.is_end
            if outcome.error is not None:
                self._fail(job, outcome.error)
                continue
            if not job.size:
                job.size = job.missing = outcome.size
                self._announce(job)
            if outcome.tokenized is not None:
                self._add_part(Part(job, outcome.first_row, outcome.tokenized), outcome.is_last)

    def _add_part(self, part: Part, is_last: bool) -> None:
        """Takes in tokenized texts: their batches go to the workers, and word of them to the sink."""
        job, tokenized = part.job, part.tokenized
        try:
            self.result_limit.check(part)
        except TooLarge as error:
            job.sealed = job.sealed or is_last
            self._fail(job, error)
            return
        statistics = self.statistics
        statistics.num_tokens += len(tokenized.input_ids)
        statistics.num_unknown_tokens += tokenized.num_unknown
        if len(tokenized.truncated):
            statistics.num_truncated += len(tokenized.truncated)
            job.num_truncated += len(tokenized.truncated)
            if len(job.truncated) < 1000:
                job.truncated += (tokenized.truncated + part.first_row).tolist()
        if self._unknown is not None:
            self._unknown.add(len(tokenized.lengths), len(tokenized.input_ids), tokenized.num_unknown)
        if self.config.verbose:
            self._log_tokens(tokenized)
        if self.config.show_tokens_to_client:
            part.tokens_json = json.dumps(self.tokenizer.tokens(tokenized)).encode()
        if not job.parts:
            self._last_id += 1
            job.id = self._last_id
        job.parts.append(part)
        job.sealed = is_last
        if is_last:
            job.tokenized_at = self.clock()
        self.dispatcher.add(part, self._word_of(part, is_last))

    def _word_of(self, part: Part, is_last: bool) -> Command:
        """What the sink is to know of a part."""
        job = part.job
        note: dict[str, Any] = {}
        if is_last and job.num_truncated:
            note = {"num_truncated": job.num_truncated, "truncated": job.truncated[:1000]}
        if is_last and self.config.max_seq_len is None and self.config.pooling_strategy == PoolingStrategy.NONE:
            note["width"] = token_width(job.parts, self.max_positions)
        if is_last and job.wants_timing:
            note["times"] = [job.received_at, job.tokenized_at]
        if is_last and job.wants_num_tokens:
            note["num_tokens"] = sum(len(each.tokenized.input_ids) for each in job.parts)
        frames = [u64(job.id), u64(job.size), job.identity, job.request_id, u64(part.first_row), part.tokens_json]
        # The last part carries a note, empty or not, and so seals the job.
        return [commands.JOB_CHUNK, *frames, *([json.dumps(note).encode() if note else b"{}"] if is_last else [])]

    def _log_tokens(self, tokenized: Any) -> None:
        width = self.config.max_seq_len or int(tokenized.lengths.max())
        start = 0
        for tokens, length in zip(self.tokenizer.tokens(tokenized), tokenized.lengths, strict=True):
            pad = max(width - int(length), 0)
            ids = tokenized.input_ids[start : start + length].tolist() + [0] * pad
            mask = [1] * int(length) if tokenized.mask is None else tokenized.mask[start : start + length].tolist()
            types = [0] * int(length) if tokenized.type_ids is None else tokenized.type_ids[start : start + length]
            start += length
            self.log.debug("tokens: %s", " ".join(tokens))
            self.log.debug("input_ids: %s", " ".join(map(str, ids)))
            self.log.debug("input_mask: %s", " ".join(map(str, mask + [0] * pad)))
            self.log.debug("input_type_ids: %s", " ".join(map(str, [*types, *[0] * pad])))

    @property
    def drift(self) -> dict[str, Any] | None:
        """How far texts and vectors are from those of ``-drift_reference``; None without the option."""
        return None if self._unknown is None else {**self._vector_drift, **self._unknown.to_dict()}

    # ---------------------------------------------------------------- workers and sink

    def _on_worker(self, frames: list[bytes]) -> None:
        name, kind = frames[0], frames[1]
        if kind == commands.REGISTER:
            self.dispatcher.hello(name, json.loads(frames[2]))
        elif kind == commands.BATCH_FAILED:
            self.dispatcher.failed(name, commands.from_u64(frames[2]), frames[3].decode(), frames[4].decode())

    def _on_sink(self, frames: list[bytes]) -> None:
        if frames[0] == commands.BATCH_DONE:
            began = commands.from_u64(frames[2]) / 1e9
            for piece in self.dispatcher.done(commands.from_u64(frames[1]), began):
                job = piece.key.job
                job.missing -= len(piece.rows)
                job.began_at = min(job.began_at, began)
                if job.missing == 0 and not job.failed:
                    if not job.is_computed_again:
                        self.statistics.record_timing(job.timing(self.clock()))
                    if not job.is_asked:
                        self._forget(job)
        elif frames[0] in (commands.JOB_PENDING, commands.JOB_PUBLISHED):
            ticket, job_id = map(commands.from_u64, frames[1:])
            self._on_asked(ticket, job_id, frames[0] == commands.JOB_PUBLISHED)
        elif frames[0] == commands.SYNC_REQUEST:
            self._start_over(frames[1])
        elif frames[0] == commands.WORKER_IDLE:
            _, name, last_batch, idle_at = frames
            self.dispatcher.worker_idle(name, commands.from_u64(last_batch), commands.from_u64(idle_at) / 1e9)
        elif frames[0] == commands.DRIFT:
            self._vector_drift = json.loads(frames[1])
        elif frames[0] == commands.CANCEL_CLIENT:
            self._cancel(frames[1])

    def _start_over(self, nonce: bytes) -> None:
        """The sink is new: what another one held is gone, so every unfinished job is told and computed again."""
        self._words.append([commands.SYNC, u64(self.epoch), u64(self.dispatcher.next_id), nonce])
        unfinished = sorted((job for job in self.jobs.values() if job.parts), key=lambda job: job.id)
        if unfinished:
            self.log.warning("the sink was restarted; %d requests are computed again", len(unfinished))
        self.dispatcher.start_over()
        for job in unfinished:
            job.is_asked = job.asks_again = False
            self._compute(job)
        self._send_words()  # before any batch leaves: its result should not reach the sink first

    def _fail(self, job: Job, error: RequestError) -> None:
        """Answers a job with an error and drops what is left of it; other jobs are not touched."""
        if job.failed:
            return
        job.failed = True
        self.statistics.record_error(error.kind)
        self.log.warning("request %s of client %r failed: %s", job.request_id.decode(), job.identity, error)
        self._say_error(job.identity, job.request_id, error)
        self._drop(job)

    def _cancel(self, identity: bytes) -> None:
        """Drops the requests of a client that is gone; nobody would read the answers.

        What it asked for again meanwhile stays: it is about to be back.
        """
        latest = self.clock() - self.config.absent_ttl
        jobs = [job for job in self.jobs.values() if job.identity == identity and job.asked_at <= latest]
        if jobs:
            self.log.warning("client %r is gone; its %d requests are dropped", identity, len(jobs))
        for job in jobs:
            job.failed = True
            self._drop(job)

    def _drop(self, job: Job) -> None:
        if job.parts:
            self._words.append([commands.CANCEL_JOB, u64(job.id)])
            self.dispatcher.drop(job)
        if not job.sealed:
            self.thread.cancel(job.ticket)
        self._forget(job)

    def _forget(self, job: Job) -> None:
        if self.jobs.pop(job.ticket, None) is None:
            return
        del self.pending[job.fingerprint]
        key = job.fingerprint[:2]
        self._known[key] -= 1
        if not self._known[key]:
            del self._known[key]

    # ---------------------------------------------------------------- supervisor

    def _on_control(self, frames: list[bytes]) -> None:
        kind = frames[0]
        if kind == WORKER_LOST:
            self.dispatcher.lost(frames[1])
        elif kind == DRAIN_WORKER:
            self._retiring = frames[1]
        elif kind == STATE:
            self.link.info["supervisor"] = json.loads(frames[1])
        elif kind == DRAIN:
            self.draining = True
        elif kind == STOP:
            self.stopped = True


def run(link: ProcessContext) -> None:
    """The ventilator's process."""
    config = link.config
    model = config.read_model()
    tokenizer = make_tokenizer(config, model)
    for warning in tokenizer.warnings:
        link.log.warning(warning)
    ventilator = Ventilator(link, tokenizer, model)
    link.start_heartbeat()
    ventilator.run()
