"""Owns the socket of ``-join_port``, on which machines and their workers connect."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import zmq

from ..ipc.frame_guard import FrameGuard
from ..ipc.join_guard import JoinGuard
from ..ipc.joining import MAX_COMMAND_BYTES, FrontTerms, join_socket
from ..ipc.process_context import ProcessContext
from ..ipc.sockets import bind_tcp
from ..scheduling.dispatcher import Dispatcher
from ..security.curve import CurveAuth
from .machines import JoinedMachines

#: Seconds between two checks for silent machines, and between two after which this process counts as suspended.
_CHECK_INTERVAL, _SUSPEND_GAP = 0.5, 3.0


class JoinPort:
    """The socket, and the machines behind it. Without ``-join_port`` there is no socket and no machine."""

    def __init__(
        self,
        process: ProcessContext,
        dispatchers: Sequence[Dispatcher],
        clock: Callable[[], float],
        frames: FrameGuard,
    ) -> None:
        config = process.config
        self._process = process
        #: Models without workers of this server.
        self._need_machines = [
            dispatcher
            for each, dispatcher in zip(process.of_models(), dispatchers, strict=True)
            if each.config.num_worker == 0
        ]
        self.socket: zmq.Socket[bytes] | None = None
        self.machines: JoinedMachines | None = None
        self._next_check = 0.0
        if config.join_port is None:
            return
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()  # of its own: it has other keys than the request port
        self.socket = join_socket(context, zmq.ROUTER, config.join_timeout, MAX_COMMAND_BYTES, ROUTER_MANDATORY=1)
        CurveAuth(process.options["join_access"], warn=process.log.warning).apply(context, self.socket)
        bind_tcp(self.socket, config.join_host, config.join_port)
        is_encrypted = config.join_keys is not None
        self._guard = JoinGuard(self.socket, config.join_port, is_encrypted, 4 * MAX_COMMAND_BYTES, frames, process.log)
        terms = msgspec.convert(process.options["join_terms"], FrontTerms)
        process.log.info("machines can join at %s:%d", config.join_host, config.join_port)
        self.machines = JoinedMachines(terms, dispatchers, self.socket, process.log, clock)

    @property
    def num_workers(self) -> int:
        """Workers of joined machines that can compute, of all models."""
        return 0 if self.machines is None else sum(self.machines.num_workers)

    def receive(self, limit: int) -> None:
        """Reads up to ``limit`` messages. Call it when the socket is readable."""
        assert self.machines is not None
        for sender, *frames in self._guard.receive(limit):
            self.machines.on_message(sender.bytes, [frame.bytes for frame in frames])

    def check(self, now: float) -> None:
        """Looks for silent machines, and tells the supervisor whether each model has workers."""
        if self.machines is None:
            return
        self._guard.check(now)
        if now < self._next_check:
            return
        if now - self._next_check > _SUSPEND_GAP:
            self.machines.reset_liveness(now)
        self._next_check = now + _CHECK_INTERVAL
        self.machines.check(now)
        self._process.info["has_joined_workers"] = all(each.num_joined_workers for each in self._need_machines)
