"""Supervises the child processes: starts them, replaces those that die or hang, and stops them in order.

The supervisor runs in the process that the user started. It handles no requests, so no request can make it fail.
``BertServer`` is the entry point for the shell and for Python.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import threading
import time
from types import TracebackType
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError, StartError
from ..ipc import commands
from ..ipc.endpoints import Addresses
from ..ipc.sockets import make_socket
from ..ipc.start_steps import StartSteps
from ..log import get_logger
from ..model.digest import Stopped, stoppable
from ..model.errors import ModelError
from .child import MAX_FAILED_STARTS, Child, describe_exit
from .description import log_ready
from .drain import Drain
from .models import PlannedModel, make_all_children, placements_of, plan_models
from .port_check import check_ports
from .port_lock import PortLock
from .preflight import log_descriptor_limit, make_access
from .prepared_model import PreparedModel
from .routines import Routines
from .signals import handle_signals, is_program_over, joining
from .socket_folder import SocketFolder
from .start_order import due
from .state import describe_state
from .suspension import Suspension
from .tokenizers import required

#: Exit codes of ``bert-serving-start``. argparse uses 2 for an invalid command line.
EXIT_OK, EXIT_START_FAILED, EXIT_GAVE_UP, EXIT_FORCED = 0, 3, 4, 5

#: Seconds from STOP until a child process is killed. One that loads may not hear STOP, and holds no request.
STOP_SECONDS, STOP_LOADING_SECONDS = 8.0, 1.0
_POLL_MS = 100


class BertServer(threading.Thread):
    """A running service.

    >>> with BertServer(get_args_parser().parse_args(["-model_dir", "/models/bert"])) as server:  # doctest: +SKIP
    ...     BertClient().encode(["hello"])

    Args:
        args: parsed arguments of :func:`get_args_parser`, a dict of options, or a :class:`~.config.ServerConfig`.
        steps: durations of the steps of the start so far; by default none.

    Attributes:
        is_ready: set when the server answers requests, and also when the start failed; see ``failure``.
        failure: the reason why the server could not start or had to end, or None.
        exit_code: 0 after a clean end, 3 after a failed start, 4 if a process failed permanently, 5 if forced.

    Raises:
        ConfigError: an option has an invalid value.
    """

    def __init__(
        self, args: argparse.Namespace | ServerConfig | dict[str, Any], steps: StartSteps | None = None
    ) -> None:
        super().__init__(name="bert-server")
        self.config = args if isinstance(args, ServerConfig) else ServerConfig.from_args(args)
        self.log = get_logger("SUPERVISOR", *self.config.log_settings)
        self.is_ready = threading.Event()
        self.failure: str | None = None
        self.exit_code: int | None = None
        self.state, self._stops_asked = "starting", 0
        self.children: dict[str, Child] = {}
        self._prepared = PreparedModel(self.log)
        self.planned: list[PlannedModel] = []
        self._routines = Routines(self.log, steps)
        self._suspension = Suspension(self.config.heartbeat_timeout)
        self._restarts = dict.fromkeys(("worker", "ventilator", "sink", "http", "jobs", "tokenizer"), 0)
        self._published_state = (b"", 0)

    # ---------------------------------------------------------------- public interface

    def __enter__(self) -> BertServer:
        """Starts the server and waits until it is ready.

        Raises:
            StartError: the server could not start; the message has the reason.
        """
        self.start()
        try:
            self.is_ready.wait()
        except BaseException:
            self.close()
            raise
        if self.failure:
            self.join()
            raise StartError(self.failure)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts the server in a thread of its own, which runs on when the main thread ends.

        SIGINT and SIGTERM end the program and its servers, unless the program handles them.
        """
        handle_signals(self)
        super().start()

    def join(self, timeout: float | None = None) -> None:
        """Waits until the server has ended. Without ``timeout``, SIGINT and SIGTERM stop the server meanwhile."""
        with joining(self) if timeout is None else contextlib.nullcontext():
            super().join(timeout)

    def close(self) -> None:
        """Drains accepted requests, stops all child processes, and returns when they have ended."""
        self.stop()
        if self.is_alive() and threading.current_thread() is not self:
            self.join()

    def stop(self) -> None:
        """Requests a stop; a second call stops the server at once. Safe in a signal handler."""
        self._stops_asked += 1

    def reload(self) -> None:
        """Requests a rolling restart, and new keys of ``-http_keys``; no request fails. Safe in a signal handler."""
        self._routines.reload()

    @staticmethod
    def shutdown(
        args: argparse.Namespace | None = None,
        *,
        ip: str = "localhost",
        port: int = 5555,
        timeout: int = 5000,
        auth_keys: str | None = None,
    ) -> None:
        """Stops a server on this machine, in this or another process, and waits until it has ended.

        Args:
            args: an object with ``ip``, ``port`` and ``timeout``, as in 1.10.0; or pass these by name.
            timeout: milliseconds to wait.
            auth_keys: folder of ``-auth_keys``, if the server uses it.

        Raises:
            ServerNotFound: no server answers at this address.
            TimeoutError: the server did not end in time.
        """
        from .termination import terminate_by

        terminate_by(args, ip, port, timeout, auth_keys)

    # ---------------------------------------------------------------- life cycle

    def run(self) -> None:
        """Starts, serves and stops; in a thread of its own after ``start()``, or in the caller's."""
        try:
            self._serve()
        except (Exception, SystemExit) as error:
            self.log.exception("unforeseen error in the supervisor; the server ends")
            self._fail(f"unforeseen error in the supervisor: {type(error).__name__}: {error}")
        finally:
            try:
                self._finish()
            finally:
                self.is_ready.set()

    def _serve(self) -> None:
        try:
            with stoppable(lambda: self._stops_asked > 0):
                self._prepare()
        except Stopped:
            self.exit_code = EXIT_OK
        except (ServingError, ModelError, EngineError, OSError) as error:
            self._fail(str(error))
        if self.exit_code is not None:
            return
        self._prepared.skip(self.children.values())
        self._routines.steps.done("checks of options, model and cache")
        for child in () if self._stops_asked else due(self.children):
            child.start()
        while self.exit_code is None:
            self._step()

    def _prepare(self) -> None:
        """Checks what can be checked quickly, and creates the child processes without starting them."""
        check_ports(self.config)
        self._port_lock = PortLock(self.config)
        log_descriptor_limit(self.log)
        self.planned = plan_models(self.config, self._prepared, self.log, lambda: self._stops_asked > 0)
        self.config = self.planned[0].config
        access = make_access(self.config, self.log.warning)
        self.addresses = Addresses.new()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.control = make_socket(self.context, zmq.ROUTER)
        self.control.bind(self.addresses.control)
        self._socket_folder = SocketFolder(self.addresses, self.control, self.log)
        self.children = make_all_children(self.planned, self.addresses, *access, self.log.warning)

    def _step(self) -> None:
        """Runs one round of the loop: messages, deaths, signals."""
        if self.control.poll(_POLL_MS):
            while self.control.poll(0):
                self._on_message(self.control.recv_multipart())
        now = time.monotonic()
        self._suspension.step(now)
        for child in list(self.children.values()):
            self._watch(child, now)
        self._socket_folder.check(self.children, now, self._tell)
        if damage := self._prepared.check(now):
            self._fail(damage)
        if self.exit_code is None:
            self._advance(now)
        self._publish_state()

    def _advance(self, now: float) -> None:
        """Moves the server to its next state if the conditions hold."""
        if not self._stops_asked and is_program_over(self):
            self.stop()
        if self.state == "draining":
            if self._stops_asked > 1:
                self._fail("stopped at once after a second request; accepted requests may be unanswered", EXIT_FORCED)
            elif now > self._draining.deadline:
                reason = f"requests were unfinished after {self.config.drain_timeout:.15g} s (-drain_timeout)"
                self._fail(reason, EXIT_FORCED)
            elif self._draining.is_ventilator_missing:
                self._start(self.children["ventilator"], now)
            else:
                self._draining.step(now)
            return
        if self._stops_asked:
            self._drain(now)
            return
        waiting = [name for name in self.children if name.startswith(("worker-", "http", "jobs"))]
        others = ["ventilator", "sink", *required(self.children)]
        for child in due(self.children) if self.state == "starting" else ():
            self._start(child, now)
        has_own = all(each.placements for each in self.planned)
        has_workers = has_own or self.children["ventilator"].info.get("has_joined_workers", False)
        everything = has_workers and self._is_up([*others, *waiting])
        if everything and self.state in ("starting", "degraded"):
            first, self.state = self.state == "starting", "ready"
            self._publish_state()
            log_ready(self.config, first, self._routines.steps)
            self.is_ready.set()
        elif not everything and self.state == "ready":
            self.state = "degraded"
        if self.is_ready.is_set():
            self._routines.step(self.children, self.state == "ready", now, self._tell, self._start)

    def _is_up(self, names: list[str]) -> bool:
        return all(self._routines.is_up(self.children[name]) for name in names)

    # ---------------------------------------------------------------- messages

    def _on_message(self, frames: list[bytes]) -> None:
        sender, kind = frames[0].decode(), frames[1]
        name, _, incarnation = sender.rpartition(":")[2].rpartition(".")
        if (child := self.children.get(name)) is None or str(child.incarnation) != incarnation:
            return  # of a process that was replaced
        if kind == commands.HEARTBEAT:
            child.on_heartbeat(json.loads(frames[2]), time.monotonic())
        elif kind == commands.READY:
            child.on_ready(json.loads(frames[2]), time.monotonic())
            if child.role == "prepare":
                self._prepared.take(child, self.children.values())
                child.is_finished = True
                self._tell(name, commands.STOP)
        elif kind == commands.FATAL:
            child.reason = frames[2].decode()
        elif kind == commands.TERMINATE:
            self.log.info("shutting down...")
            self.stop()
        elif kind == commands.DRAINED:
            self._draining.on_drained(name)
            self._draining.step(time.monotonic())
            if self._draining.is_finished:
                self.exit_code = EXIT_OK
        self._routines.on_message(child, kind, frames, self.children, self._tell)

    def _tell(self, name: str, *frames: bytes) -> None:
        child = self.children.get(name)
        if child is not None and child.is_running:
            self.control.send_multipart([child.identity, *frames])

    def _publish_state(self) -> None:
        placements, is_up = placements_of(self.planned), self._routines.is_up
        state = describe_state(self.state, self.children.values(), placements, self._restarts, is_up)
        ventilator = self.children["ventilator"]
        if ventilator.is_ready and (state, ventilator.incarnation) != self._published_state:
            self._published_state = (state, ventilator.incarnation)
            self._tell("ventilator", commands.STATE, state)

    # ---------------------------------------------------------------- deaths

    def _watch(self, child: Child, now: float) -> None:
        if child.restart_at is not None:
            if now >= child.restart_at:
                self._start(child, now)
            return
        if child.process is None:
            return
        code = child.process.poll()
        if code is None:
            if self._suspension.excuses(now):
                child.reset_liveness(now)
            reason = child.hang_reason(now)
            if reason and child.reason != reason:  # logged once, while the process ends
                self.log.error("killing %s: %s; it is started again", child.name, reason)
                child.reason = reason
            if reason:
                child.kill()
            return
        self._on_death(child, code, now)

    def _start(self, child: Child, now: float) -> None:
        try:
            self._prepared.require()
            child.start(self._routines.early.take(child))
        except OSError as error:  # no memory, disk space or free process id; may be temporary
            child.restart_at = now + 1
            self.log.error("cannot start %s (%s); retrying in 1 s", child.name, error)

    def _on_death(self, child: Child, code: int, now: float) -> None:
        was_ready = child.is_ready
        child.on_exit()
        if child.is_finished:
            return
        why = child.reason or describe_exit(code)
        if self.state == "draining" and not self._draining.on_death(child):
            self.log.warning("%s ended (%s) while the server drained its requests", child.name, why)
            return
        if self.state == "starting" and (child.reason or child.role == "prepare" or child.failed_starts >= 2):
            self._fail(f"{child.name} could not start: {why}")
            return
        if child.role in ("worker", "tokenizer"):
            self._tell("ventilator", commands.WORKER_LOST, child.identity)
        if self._routines.idle_unload.on_exit(child):
            return
        if child.is_draining:
            self._routines.rolling_restart.on_exit(child)
            self._start(child, now)
            return
        child.schedule_restart(now, was_ready)
        if child.failed_starts > MAX_FAILED_STARTS:
            exit_code = EXIT_FORCED if self.state == "draining" else None
            self._fail(f"{child.name} ended {child.failed_starts} times before it was ready: {why}", exit_code)
            return
        self._restarts[child.role] = self._restarts.get(child.role, 0) + 1
        self.log.error("%s ended (%s); it is started again", child.name, why)

    # ---------------------------------------------------------------- stop

    def _drain(self, now: float) -> None:
        if self.state == "starting":
            self.exit_code = EXIT_OK
            return
        self.state = "draining"
        self._draining = Drain(self.children, now, self.config.drain_timeout, self._tell)
        self._draining.step(now)
        self._publish_state()

    def _fail(self, reason: str, exit_code: int | None = None) -> None:
        self.failure = reason
        self.exit_code = exit_code or (EXIT_START_FAILED if self.state == "starting" else EXIT_GAVE_UP)
        self.log.error(reason)

    def _finish(self) -> None:
        """Ends all child processes, closes the sockets and removes the socket folder."""
        running = [child for child in self.children.values() if child.is_running]
        for child in running:
            self._tell(child.name, commands.STOP)
        is_orderly, now = self.exit_code == EXIT_OK and self.is_ready.is_set(), time.monotonic()
        for child in sorted(running, key=lambda child: child.is_ready):
            child.end(now + (STOP_SECONDS if is_orderly and child.is_ready else STOP_LOADING_SECONDS))
        self._routines.early.close()
        self._prepared.close()
        if hasattr(self, "_port_lock"):
            self._port_lock.close()
        if hasattr(self, "control"):
            self.control.close(linger=0)
            self.context.term()
        if hasattr(self, "addresses") and self.addresses.folder:
            shutil.rmtree(self.addresses.folder, ignore_errors=True)
        self.state = "stopped"
        if self.exit_code == EXIT_OK:
            self.log.info("terminated!")
