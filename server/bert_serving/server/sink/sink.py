"""Runs the sink process: receives results from the workers, assembles them and publishes finished requests.

A new sink knows no jobs. It sends SYNC_REQUEST to the ventilator and holds results until the SYNC that answers it. The
ventilator announces all unfinished jobs behind that SYNC. The sink ignores earlier announcements, which were meant for
its predecessor.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from math import ceil
from typing import Any

import numpy as np
import zmq
from msgspec.structs import replace

from ..config.memory import default_memory
from ..ipc import commands
from ..ipc.cached_rows import CachedRows
from ..ipc.commands import from_u64, u64
from ..ipc.connection_monitor import SLICE_INTERVAL, ConnectionMonitor
from ..ipc.descriptors import ConnectionLimit
from ..ipc.full_collections import FullCollections
from ..ipc.messages import Command, Result, decode_commands, encode_commands
from ..ipc.model_numbers import model_of
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import make_socket, recv_available
from ..model.token_heads import OUTPUT_BITS
from ..model.vector_options import TYPE_BITS
from ..security.curve import CurveAuth
from .memory_report import MemoryReport
from .model_results import ModelResults
from .publisher import ResultPublisher
from .result_receiver import ResultReceiver
from .sync_barrier import SyncBarrier

#: Messages read from one socket before the next socket is read.
BURST = 64
#: Bytes of one connection to the result port that are not read. The port receives subscriptions only.
MAX_BYTES_OF_SUBSCRIPTIONS = 2**18
#: Seconds between two checks of connections. A check takes some milliseconds if there are many connections.
CONNECTION_CHECK_INTERVAL = 0.1
#: Seconds for which a stopping server waits for the subscriber of a result.
DRAIN_GRACE = 3.0
#: Milliseconds for which published results may take to leave when the sink ends.
CLOSE_LINGER_MS = 2000


class Sink:
    """The main loop with its sockets."""

    def __init__(self, process: ProcessContext) -> None:
        self.process, self.config, self.log = process, process.config, process.log
        self.clock = time.monotonic
        self.has_requested_sync = False
        self.barrier = SyncBarrier(nonce=secrets.token_bytes(8))
        self.models = [ModelResults(each, self._publish, self.log, self.clock) for each in process.of_models()]
        self.receiver = ResultReceiver(process, self.clock)
        #: Identities that have jobs here and no subscription, and since when.
        self.unsubscribed_since: dict[bytes, float] = {}
        #: Commands for the ventilator, in this order.
        self.acks: list[Command] = []
        self.draining = self.stopped = self._has_reported_drained = False
        config = self.config
        self.connections = ConnectionMonitor(config.port_out, is_encrypted=config.auth_keys is not None, times=1)
        self._next_connection_check = 0.0

        self.control = process.connect_control()
        self.ventilator = make_socket(process.context, zmq.DEALER)
        process.bind(self.ventilator, process.addresses.channel)
        self.publisher = ResultPublisher(
            zmq.Context(),  # of its own, so that closing it can wait for results on their way
            config.host,
            config.port_out,
            self.log,
            config.result_memory or default_memory(),
            config.result_ttl,
            config.absent_ttl,
            CurveAuth(**process.options["access"], warn=self.log.warning),
            self.connections.record_frame,
        )

    def run(self) -> None:
        """Serves until STOP."""
        poller = zmq.Poller()
        memory_report = MemoryReport(self.publisher.max_bytes)
        connection_limit = ConnectionLimit(self.config.port_out, self.log)
        for sock in (self.control, self.ventilator, *self.receiver.sockets, self.publisher):
            poller.register(sock, zmq.POLLIN)
        self.log.info("ready")  # before the report, so that the log of a server that is ready is complete
        self.control.send_multipart([commands.READY, b"{}"])
        next_expiry, retry_ms, full_collections = self.clock() + 1, 1, FullCollections()
        while not self.stopped:
            self.process.mark_progress()
            if not self.has_requested_sync:
                self._request_sync()
            events = dict(poller.poll(self._poll_timeout(retry_ms)))
            has_unread = False
            if self.publisher.has_unread or self.publisher.fileno() in events:
                has_unread = not self.publisher.on_subscription(self.clock())
            if has_unread or self.connections.is_checking:
                self._close_abusive(self.clock())
            connection_limit.check(self.clock())
            self.receiver.check_connections(self._held_bytes, self.clock())
            if self.publisher.has_first_replies:
                self.publisher.deliver_first_replies(self.clock())
            if self.control in events:
                self._on_control()
            # Before the results: most announcements are read before the rows of their jobs.
            if self.ventilator in events:
                for frames in recv_available(self.ventilator, BURST):
                    for command in decode_commands(frames[0]):
                        self._on_command(command)
            for sock in self.receiver.sockets:
                if sock in events:
                    self._on_results(sock)
            self._report_memory(memory_report)
            if self.acks:
                self._send_acks()
            if self.publisher.is_blocked:
                sent = self.publisher.num_sent
                self.publisher.flush()
                retry_ms = 1 if self.publisher.num_sent > sent else min(2 * retry_ms, 50)
            if self.clock() >= next_expiry:
                next_expiry = self.clock() + 1
                self._run_periodic_tasks()
                full_collections.run_if_due()
            if self.draining and not self._has_reported_drained:
                self._report_drained()
        full_collections.close()
        self.publisher.close(CLOSE_LINGER_MS)

    def _held_bytes(self) -> int:
        """Returns the bytes of results in this process."""
        return self._assembling_bytes + self.publisher.num_bytes + self.publisher.pipe_bytes

    @property
    def _assembling_bytes(self) -> int:
        return sum(model.assembler.num_bytes for model in self.models) + self.barrier.num_bytes

    def _model_of(self, number: int) -> ModelResults:
        """Returns the model of a batch or job by its number."""
        return self.models[model_of(number, len(self.models))]

    def _poll_timeout(self, retry_ms: int) -> int:
        """Returns milliseconds until the loop has work without a message."""
        if self.publisher.has_unread:
            return 0
        if self.publisher.is_blocked:
            return retry_ms
        if self.connections.is_checking:
            return ceil(1000 * SLICE_INTERVAL)
        is_waiting = (
            self.publisher.has_large_messages
            or self.acks
            or self.draining
            or not self.has_requested_sync
            or self.publisher.has_first_replies
        )
        return 20 if is_waiting else 1000

    def _report_drained(self) -> None:
        if not self.publisher.has_undelivered(self.clock(), DRAIN_GRACE):
            self._has_reported_drained = True
            self.control.send(commands.DRAINED)

    # ---------------------------------------------------------------- ventilator

    def _on_command(self, command: Command) -> None:
        kind = command[0]
        if kind == commands.JOB_CHUNK:
            if self.barrier.is_synced:
                self._model_of(from_u64(command[1])).assembler.announce(command)
        elif kind == commands.PUBLISH:
            self._publish(command[1], command[2:])
        elif kind == commands.PUBLISH_ON_SUBSCRIBE:
            self.publisher.put_first_reply(command[1], command[2:], self.clock())
        elif kind == commands.SYNC:
            self._on_sync(from_u64(command[1]), from_u64(command[2]), command[3] if len(command) > 3 else b"")
        elif kind == commands.CANCEL_JOB:
            job_id = from_u64(command[1])
            self._model_of(job_id).assembler.close(job_id)
        elif kind == commands.CACHED_ROWS:
            self._on_cached_rows(CachedRows.from_command(command))
        elif kind == commands.FREE_RESULTS:
            self.publisher.free(from_u64(command[1]), self.clock())
        elif kind == commands.QUERY_JOB and self.barrier.is_synced:
            # The reply follows the acknowledgements of the job's batches.
            job_id = from_u64(command[2])
            is_pending = job_id in self._model_of(job_id).assembler.jobs
            self.acks.append([commands.JOB_PENDING if is_pending else commands.JOB_PUBLISHED, *command[1:]])

    def _request_sync(self) -> None:
        try:
            self.ventilator.send(encode_commands([[commands.SYNC_REQUEST, self.barrier.nonce]]), zmq.NOBLOCK)
        except zmq.Again:
            return  # not connected yet
        self.has_requested_sync = True

    def _on_sync(self, epoch: int, first_batch: int, nonce: bytes) -> None:
        if nonce == self.barrier.nonce or (self.barrier.is_synced and not nonce):
            if self.barrier.is_synced and epoch != self.barrier.epoch:
                self.acks.clear()  # the previous ventilator asked for them
                for model in self.models:
                    model.cache.clear()
            num_forgotten = sum(model.assembler.start_epoch(epoch) for model in self.models)
            if num_forgotten:
                self.log.warning("the ventilator was restarted; %d unfinished requests are forgotten", num_forgotten)
            for result in self.barrier.sync(epoch, first_batch):
                self._on_result(result)
        elif not self.barrier.is_synced:
            # The ventilator that received the request is gone, or answered another sink.
            self.has_requested_sync = False

    def _report_memory(self, memory_report: MemoryReport) -> None:
        """Reports the memory of results ahead of the acknowledgements, which free their reservations."""
        publisher = self.publisher
        is_idle = not (self.acks or publisher.has_large_messages or publisher.num_bytes) and memory_report.is_empty
        if is_idle or not self.barrier.is_synced:
            return
        held = publisher.num_bytes, publisher.pipe_bytes
        report = memory_report.command(self._assembling_bytes, *held, self.barrier.epoch, self.clock())
        if report is not None:
            self.acks.insert(0, report)

    def _send_acks(self) -> None:
        with contextlib.suppress(zmq.Again):  # not connected after a restart; sent again in the next round
            self.ventilator.send(encode_commands(self.acks), zmq.NOBLOCK)
            self.acks.clear()

    # ---------------------------------------------------------------- workers

    def _on_results(self, sock: zmq.Socket[bytes]) -> None:
        for result in self.receiver.receive(sock, BURST):
            if isinstance(result, list):
                # Before SYNC the report would overtake held results; the worker repeats it every second.
                if self.barrier.is_synced:
                    self.acks += result
            elif self.barrier.admit(result):
                self._on_result(result)

    def _on_result(self, result: Result) -> None:
        try:
            self._apply(result)
        except Exception as error:  # a result that no worker sends ends no process
            self.log.error("dropped the result of a batch: %s", error, exc_info=error)
            self.acks.append([commands.BATCH_FAILED, u64(result.batch_id), b"error", repr(error)[:500].encode()])

    def _apply(self, result: Result) -> None:
        model = self._model_of(result.batch_id)
        if problem := model.check.problem(result):
            self.log.error("dropped the result of a batch: %s", problem)
            self.acks.append([commands.BATCH_FAILED, u64(result.batch_id), b"error", problem.encode()])
            return
        if result.announcements:
            for command in decode_commands(result.announcements):
                model.assembler.announce(command)
        self._add_rows(model, result)
        dropped = model.cache.add(result)
        if model.cache.max_bytes:  # behind BATCH_DONE: the batch may be among the dropped entries
            entries = np.array(dropped, np.int64).tobytes()
            number = u64(self.models.index(model))
            self.acks.append([commands.CACHE_UPDATE, u64(model.cache.num_bytes), entries, number])

    def _on_cached_rows(self, wanted: CachedRows) -> None:
        if not self.barrier.is_synced or wanted.batch_id >> 40 != self.barrier.epoch:
            return  # of an earlier ventilator
        model = self._model_of(wanted.batch_id)
        missing = model.cache.missing(wanted)
        if missing:
            self.acks.append([commands.CACHE_MISS, u64(wanted.batch_id), np.array(missing, np.int64).tobytes()])
        else:
            self._add_rows(model, replace(model.cache.result(wanted), began_at=self.clock()))

    def _add_rows(self, model: ModelResults, result: Result) -> None:
        if model.drift is not None:
            model.drift.add(*comparable(result, model.check.dims))
        model.assembler.add(result)
        self.acks.append([commands.BATCH_DONE, u64(result.batch_id), u64(result.duration)])

    # ---------------------------------------------------------------- clients

    def _publish(self, identity: bytes, frames: list[Any]) -> None:
        self.publisher.put(identity, frames, self.clock())

    def _run_periodic_tasks(self) -> None:
        """Runs the periodic tasks, once a second."""
        now = self.clock()
        self.publisher.expire(now)
        self._close_abusive(now)
        self.barrier.expire()
        # A ventilator that has not sent its announcements until then counts as hung and is replaced.
        for model in self.models:
            model.assembler.expire(2 * ceil(self.config.heartbeat_timeout))
        self._cancel_unsubscribed(now)
        drifts = [(number, model.drift) for number, model in enumerate(self.models) if model.drift is not None]
        if drifts:
            found = [[commands.DRIFT, json.dumps(drift.to_dict()).encode(), u64(number)] for number, drift in drifts]
            with contextlib.suppress(zmq.Again):  # not connected; repeated a second later
                self.ventilator.send(encode_commands(found), zmq.NOBLOCK)
        self.process.info["publisher"] = {
            "bytes": self.publisher.num_bytes,
            "sent": self.publisher.num_sent,
            "dropped": self.publisher.num_dropped,
            "subscribers": len(self.publisher.subscribers),
            "jobs": sum(len(model.assembler.jobs) for model in self.models),
        }

    def _close_abusive(self, now: float) -> None:
        """Closes connections that send more than subscriptions, which ZeroMQ stores, and those of unreachable peers."""
        if now < self._next_connection_check:
            return
        closed = self.connections.close_abusive(MAX_BYTES_OF_SUBSCRIPTIONS, now)
        self._next_connection_check = now + (
            SLICE_INTERVAL if self.connections.is_checking else CONNECTION_CHECK_INTERVAL
        )
        self.connections.log_dead_peers(self.log)
        for host, size in closed:
            self.log.warning(
                "closing connection from %s: %d bytes received on the result port (limit %d)",
                host,
                size,
                MAX_BYTES_OF_SUBSCRIPTIONS,
            )

    def _cancel_unsubscribed(self, now: float) -> None:
        """Cancels requests of identities without a subscription after ``-absent_ttl``."""
        identities = {job.identity for model in self.models for job in model.assembler.jobs.values()}
        unsubscribed = {identity for identity in identities if not self.publisher.is_subscribed(identity)}
        self.unsubscribed_since = {identity: self.unsubscribed_since.get(identity, now) for identity in unsubscribed}
        for identity, since in self.unsubscribed_since.items():
            if now - since >= self.config.absent_ttl:
                with contextlib.suppress(zmq.Again):  # not connected; repeated a second later
                    self.ventilator.send(encode_commands([[commands.CANCEL_CLIENT, identity]]), zmq.NOBLOCK)

    def _on_control(self) -> None:
        kind = self.control.recv_multipart()[0]
        if kind == commands.DRAIN:
            self.draining = True
        elif kind == commands.BIND_AGAIN:
            self.process.bind_again()
        elif kind == commands.STOP:
            self.stopped = True


def comparable(result: Result, dims: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns vectors ``[n, dims]`` and lengths of the texts whose request has no options of its own about vectors."""
    if not result.vector_codes:
        return result.array, result.lengths
    chosen = np.frombuffer(result.vector_codes, np.int32) & ~(TYPE_BITS | OUTPUT_BITS) == 0
    return result.array[chosen, :dims], result.lengths[chosen]


def run(process: ProcessContext) -> None:
    """Runs the sink process."""
    sink = Sink(process)
    process.start_heartbeat()
    process.log_steps("sockets")
    sink.run()
