"""The ventilator: receives requests, tokenizes them, and sends batches of sequences of many clients to the workers.

One poll loop owns all sockets. A thread tokenizes large requests chunk by chunk. So the loop stays responsive, and the
first chunks are computed while the last ones are still text.
"""

from __future__ import annotations

import json
import secrets
import time
from math import ceil

import zmq

from bert_serving.client.protocol import CANCEL, SHOW_CONFIG, SHOW_PENDING, SHOW_STATUS, TERMINATION, error_info

from ..errors import Forbidden, InternalError, RequestError
from ..ipc import commands
from ..ipc.commands import from_u64
from ..ipc.frame_guard import FrameGuard
from ..ipc.full_collections import FullCollections
from ..ipc.messages import Command
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import recv_available
from ..ipc.thread_switches import switch_threads_often
from ..log import REQUEST
from ..model.config import ModelConfig
from ..monitoring.statistics import Statistics
from ..security.curve import is_this_machine, plain_host
from ..tokenization.factory import make_tokenizer
from ..tokenization.tokenizer import Tokenizer
from .busy_meter import BusyMeter
from .frontend import Frontend
from .idle_models import IdleModels
from .join_port import JoinPort
from .model_tables import ModelTables
from .request_socket import RequestSocket
from .request_table import RequestTable
from .requests import BadEnvelope, Request, read_envelope
from .sink_channel import SinkChannel
from .status import ResultMemory, ServerState, config_json, status_json

#: Messages read from one socket before the loop reads the next one.
BURST = 64


class Ventilator:
    """Runs the loop of the ventilator process. ``clock`` returns monotonic seconds."""

    def __init__(self, context: ProcessContext, tokenizer: Tokenizer, model: ModelConfig) -> None:
        self.context, self.config, self.log = context, context.config, context.log
        self.clock = time.monotonic
        self.statistics = Statistics()
        self.stopped = self._drained_sent = False
        self._draining_worker: bytes | None = None
        self._result_memory = ResultMemory(0, 0, 0)
        epoch = secrets.randbits(22)
        self.control = context.connect_control()
        self.sink = SinkChannel(context, epoch, first_batch=epoch << 40)
        self.models = ModelTables(context, tokenizer, model, self.sink, self.statistics, self.clock, epoch)
        self.requests = self.models.first
        send = self.control.send_multipart
        self.idle_models = IdleModels(self.models.all, self.models.served, send, self.log, self.clock)
        frames = FrameGuard(self.requests.limits.max_bytes, "-queue_memory", self.log)
        self.frontend = Frontend(context, self.requests.limits.max_bytes, frames)
        self.dispatcher, self.tokenizers = self.requests.dispatcher, self.requests.thread.processes
        self.join_port = JoinPort(context, [table.dispatcher for table in self.models.all], self.clock, frames)
        self._busy_meter = BusyMeter(self.clock())

    def run(self) -> None:
        """Serves until the supervisor sends STOP."""
        self.log.info("bind all sockets")
        router = self.dispatcher.router
        poller = zmq.Poller()
        joined = [] if self.join_port.socket is None else [self.join_port.socket]
        tables = self.models.all
        for sock in (self.control, router, self.sink.socket, *(table.thread.results for table in tables), *joined):
            poller.register(sock, zmq.POLLIN)
        self.control.send_multipart([commands.READY, b"{}"])
        full_collections = FullCollections()
        while not self.stopped:
            for table in tables:
                table.allow_progress()
            self.frontend.register(poller, self._leaves_unread(), self.clock())
            self.context.mark_progress()
            events = dict(poller.poll(self._poll_timeout()))
            if self.control in events:
                for frames in recv_available(self.control, BURST):
                    self._on_control(frames)
            # Before the sink: BATCH_FAILED of a batch is read before BATCH_DONE of the worker's next one.
            if router in events:
                for frames in recv_available(router, BURST):
                    self._on_worker(frames)
            if self.join_port.socket in events:
                self.join_port.receive(BURST)
            if self.sink.socket in events:
                for command in self.sink.receive(BURST):
                    self._on_sink(command)
            for table in tables:
                if table.thread.results in events or table.thread.has_ready:
                    table.on_tokenized(BURST)
            for request_socket in self.frontend.readable(events):
                self._on_requests(request_socket)
            for table in tables:
                if table.digests:
                    self._continue_digest(table)
            now = self.clock()
            self.frontend.connection_limit.check(now)
            if now >= self.frontend.next_check:
                requests = self.requests
                self.frontend.check_connections(now, requests.held_bytes, requests.limits.max_with_unread)
                full_collections.run_if_due()
                self._measure_busy_share(now)
                if self.idle_models.is_enabled:
                    self.idle_models.step(now)
                if not self.frontend.is_checking:
                    for table in tables:
                        table.dispatcher.announce_waiting()
                        table.dispatcher.probe()
            self.join_port.check(now)
            if self.tokenizers is not None:
                self.tokenizers.flush()
            self.requests.admission.advance()
            for table in tables:
                table.dispatcher.dispatch()
            self.sink.flush()
            self._report_drained()
        full_collections.close()
        self.frontend.close()

    def _measure_busy_share(self, now: float) -> None:
        """Measures how busy this process and the tokenizers are. The heartbeat reports it to the supervisor."""
        seconds = self._busy_meter.step(now)
        if seconds:
            self.context.info["busy_share"] = self._busy_meter.share
            if self.tokenizers is not None:
                self.tokenizers.measure(seconds)

    def _poll_timeout(self) -> int:
        """Returns milliseconds until the next timer."""
        wakeup = self.frontend.next_check
        for table in self.models.all:
            if table.digests:
                return 0
            if table.dispatcher.next_wakeup is not None:
                wakeup = min(wakeup, table.dispatcher.next_wakeup)
        return max(0, ceil(1000 * (wakeup - self.clock())))

    def _report_drained(self) -> None:
        """Reports to the supervisor that a worker, or the server, has finished its work."""
        if self._draining_worker is not None and all(
            table.dispatcher.drain_worker(self._draining_worker) for table in self.models.all
        ):
            self.control.send_multipart([commands.WORKER_DRAINED, self._draining_worker])
            self._draining_worker = None
        if self.requests.draining and not self._drained_sent and self.models.is_idle:
            self._drained_sent = True
            self.control.send(commands.DRAINED)

    # ---------------------------------------------------------------- clients

    def _on_requests(self, sock: RequestSocket) -> None:
        requests, held = self.requests, self.requests.held_bytes
        for frames in sock.receive(BURST):
            before = held
            self._on_message(frames, may_exceed=self.frontend.may_exceed(sock))
            held = requests.held_bytes
            if requests.is_full:
                sock.late_bytes += max(0, held - before)
                if self._leaves_unread() and not self.frontend.may_exceed(sock):
                    return

    def _leaves_unread(self) -> bool:
        """Returns whether messages wait unread: the queue is full, and they do not take too much memory."""
        requests = self.requests
        return requests.is_full and not requests.limits.refuses(requests.held_bytes, self.frontend.unread_bytes)

    def _on_message(self, frames: list[zmq.Frame], may_exceed: bool) -> None:
        try:
            request = read_envelope(frames, self.requests.reads_users)
        except BadEnvelope as error:
            self.statistics.record_error(error.kind)
            self.log.warning("received a wrongly-formatted request: %s", error)
            if error.reply_to:
                self.sink.publish_error(*error.reply_to, error)
            return
        try:
            if request.is_command:
                self.statistics.record_system_request()
                self._on_command(request, frames[0])
            else:
                table = self.models.choose(request)
                table.accept(request, may_exceed)
                if self.idle_models.is_enabled:
                    self.idle_models.use(table)
        except Exception as error:
            self._on_error(request, error)

    def _continue_digest(self, table: RequestTable) -> None:
        """Takes a step for the digest of a large request; the last step starts the request."""
        complete = table.digests.step()
        if complete is not None:
            try:
                request, message_digest = complete
                table.start(request, request.key_of(message_digest))
            except Exception as error:
                self._on_error(complete[0], error)

    def _on_error(self, request: Request, error: Exception) -> None:
        """Rejects a request. A bug in the handling of one request does not end the service."""
        if isinstance(error, RequestError):
            self._reject(request, error)
            return
        self.log.error("unexpected error in a request of client %r", request.identity, exc_info=error)
        self._reject(request, InternalError(f"the server failed on this request: {type(error).__name__}"))

    def _on_command(self, request: Request, frame: zmq.Frame) -> None:
        if request.message == TERMINATION:
            peer = plain_host(str(frame.get("Peer-Address")))
            if not self._is_trusted(frame):
                raise Forbidden(f"TERMINATION is accepted from this machine only, not from {peer}")
            self.log.info("received TERMINATION from %s", peer)
            self.control.send(commands.TERMINATE)
            return
        if request.message == CANCEL:
            number = self.models.cancel(request)
            self.log.log(REQUEST, "client %r cancelled %d requests", request.identity, number)
            return
        if request.message == SHOW_CONFIG:
            self.log.log(REQUEST, "new config request\treq id: %s\tclient: %r", request.request_id, request.identity)
            reply = config_json(self._state(request), request.identity, hides_folders=not self._is_trusted(frame))
            # A client sends this command first, with id 1; clients of this project have it in the low half of the id.
            if int(request.request_id) % 2**32 == 1:
                self.sink.send([commands.PUBLISH_ON_SUBSCRIBE, request.identity, reply, request.request_id])
                return
        elif request.message == SHOW_PENDING:
            # Replies leave in order, so a client that reads an unknown id has read its reply, if there was one.
            unknown = self.models.unknown_ids(request)
            reply = json.dumps({"unknown": unknown}).encode()
        else:
            assert request.message == SHOW_STATUS
            self.log.log(REQUEST, "new status request\treq id: %s\tclient: %r", request.request_id, request.identity)
            reply = status_json(self._state(request), request.identity, hides_folders=not self._is_trusted(frame))
        self.sink.publish(request.identity, [reply, request.request_id])

    def _is_trusted(self, frame: zmq.Frame) -> bool:
        """Whether a message comes from a holder of a key, or from this machine."""
        return self.config.auth_keys is not None or is_this_machine(str(frame.get("Peer-Address")), self.config.host)

    def _reject(self, request: Request, error: RequestError) -> None:
        self.statistics.record_error(error.kind)
        self.log.warning("rejected a request of client %r: %s", request.identity, error)
        if request.is_command:
            self.sink.publish(request.identity, [error_info(error.kind, str(error)), request.request_id])
        else:
            self.sink.publish_error(request.identity, request.request_id, error)

    def _state(self, request: Request) -> ServerState:
        """Returns what the replies to commands report, for the model that a command names."""
        table = self.models.choose(request)
        return ServerState(
            served=self.models.served[self.models.all.index(table)],
            models=self.models.served,
            unloaded=self.idle_models.unloaded_names,
            addresses=self.context.addresses,
            supervisor=self.context.info.get("supervisor", {}),
            join_port=self.join_port,
            tokenizers=() if self.tokenizers is None else self.tokenizers.states.values(),
            busy_share=self._busy_meter.share,
            statistics=self.statistics,
            num_requests=self.models.num_jobs,
            held_bytes=self.requests.held_bytes,
            unread_bytes=self.frontend.unread_bytes,
            max_bytes=self.requests.limits.max_bytes,
            result_memory=self._result_memory,
            admission=self.requests.admission,
            shares=self.requests.shares,
            drifts=[None if each.drift is None else each.drift.to_dict() for each in self.models.all],
            now=self.clock(),
        )

    # ---------------------------------------------------------------- workers, sink, supervisor

    def _on_worker(self, frames: list[bytes]) -> None:
        name, kind = frames[0], frames[1]
        if kind == commands.REGISTER:
            info = json.loads(frames[2])
            self.models.all[info.pop("model", 0)].dispatcher.register_worker(name, info)
        elif kind in (commands.TOKENIZED, commands.REGISTER_TOKENIZER):
            assert self.tokenizers is not None
            self.tokenizers.on_message(name, frames[1:])
        elif kind == commands.BATCH_FAILED:
            batch_id = from_u64(frames[2])
            self.models.of(batch_id).dispatcher.batch_failed(batch_id, frames[3].decode(), frames[4].decode())

    def _on_sink(self, command: Command) -> None:
        kind = command[0]
        if kind == commands.BATCH_DONE:
            batch_id = from_u64(command[1])
            self.models.of(batch_id).on_batch_done(batch_id, self.clock() - from_u64(command[2]) / 1e9)
        elif kind == commands.BATCH_FAILED:
            batch_id = from_u64(command[1])
            self.models.of(batch_id).dispatcher.batch_failed(batch_id, command[2].decode(), command[3].decode())
        elif kind in (commands.JOB_PENDING, commands.JOB_PUBLISHED):
            local_id, job_id = map(from_u64, command[1:])
            self.models.of(local_id).on_query_reply(local_id, job_id, kind == commands.JOB_PUBLISHED)
        elif kind == commands.SYNC_REQUEST:
            self.models.on_sink_restart(command[1])
        elif kind == commands.WORKER_IDLE:
            _, name, last_batch = command
            for table in self.models.all:
                table.dispatcher.worker_idle(name, from_u64(last_batch))
        elif kind == commands.RESULT_MEMORY:
            self._result_memory = ResultMemory(*map(from_u64, command[1:]))
            self.requests.admission.held_bytes = self._result_memory.queued + self._result_memory.in_pipes
        elif kind == commands.CACHE_UPDATE:
            _, size, entries, number = command
            self.models.all[from_u64(number)].dispatcher.cache.on_update(from_u64(size), entries)
        elif kind == commands.CACHE_MISS:
            batch_id = from_u64(command[1])
            self.models.of(batch_id).dispatcher.cache_missed(batch_id, command[2])
        elif kind == commands.DRIFT:
            drift = self.models.all[from_u64(command[2])].drift
            if drift is not None:
                drift.vectors = json.loads(command[1])
        elif kind == commands.CANCEL_CLIENT:
            self.models.cancel_client(command[1])

    def _on_control(self, frames: list[bytes]) -> None:
        kind = frames[0]
        if kind == commands.WORKER_LOST:
            for table in self.models.all:
                table.dispatcher.worker_lost(frames[1])
            if self.tokenizers is not None and frames[1].startswith(b"tokenizer-"):
                self.tokenizers.lost(frames[1])
        elif kind == commands.DRAIN_WORKER:
            self._draining_worker = frames[1]
        elif kind == commands.STATE:
            self.context.info["supervisor"] = json.loads(frames[1])
        elif kind == commands.DRAIN:
            self.models.set_draining(True)
        elif kind == commands.RESUME:
            self._drained_sent = False
            self.models.set_draining(False)
        elif kind == commands.BIND_AGAIN:
            self.context.bind_again()
        elif kind == commands.SHARES and self.requests.shares is not None:
            self.requests.shares.update(json.loads(frames[1]))
        elif kind == commands.STOP:
            self.stopped = True


def run(context: ProcessContext) -> None:
    """Runs the ventilator process."""
    switch_threads_often()
    config = context.config
    model = context.model
    tokenizer = make_tokenizer(config, model, context.options["tokenizer"])
    for warning in tokenizer.warnings:
        context.log.warning(warning)
    ventilator = Ventilator(context, tokenizer, model)
    context.start_heartbeat()
    context.log_steps("tokenizer and sockets")
    ventilator.run()
