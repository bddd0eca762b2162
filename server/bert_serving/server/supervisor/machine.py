"""Supervises the workers of a machine that joins a server on another one."""

from __future__ import annotations

import socket
import time
from dataclasses import replace

import zmq

from ..config.machine_options import NamingFrontOptions, name_front_options
from ..config.server_config import ServerConfig
from ..ipc.endpoints import Addresses
from ..ipc.joining import Offer
from ..ipc.sockets import make_socket
from ..log import get_logger
from ..security.machine_keys import MachineKeys
from .child import Child, describe_exit
from .front_connection import FrontConnection
from .machine_models import choose_models
from .models import make_model_workers, placements_of, plan_all
from .socket_folder import SocketFolder
from .start_order import due
from .supervisor import EXIT_FORCED, EXIT_OK, BertServer
from .terms import make_terms

#: Seconds between two looks at the front before it has told its terms.
_WAIT_SECONDS = 0.1


class MachineSupervisor(BertServer):
    """Joins a server with the workers of this machine. Starts and replaces them as a server does.

    Args:
        host, port: address of the front, and its ``-join_port``.
        config: the options of this machine; those that shape vectors come from the front.
        keys: keys of this machine; None without encryption.
    """

    def __init__(self, host: str, port: int, config: ServerConfig, keys: MachineKeys | None) -> None:
        super().__init__(config)
        self.log = get_logger("MACHINE", *config.log_settings)
        self.log.addFilter(NamingFrontOptions())
        self._host = f"[{host.strip('[]')}]" if ":" in host else host
        self._keys = keys
        self._connection = FrontConnection(f"tcp://{self._host}:{port}", keys, self.log)
        self._drain_deadline = 0.0

    @property
    def machine_name(self) -> str:
        """Name of this machine at the front."""
        return self._connection.machine

    def _serve(self) -> None:
        self.log.info("asking the front at %s for its terms", self._connection.address)
        while self._connection.terms is None and not self._connection.refusal and not self._stops_asked:
            self._connection.step(time.monotonic())
            time.sleep(_WAIT_SECONDS)
        if self._connection.refusal:
            self._fail(self._connection.refusal)
        elif self._stops_asked:
            self.exit_code = EXIT_OK
        else:
            super()._serve()

    def _prepare(self) -> None:
        """Reads the model and creates the child processes. Nothing but digests is computed from the weights."""
        front = self._connection.terms
        assert front is not None
        models = choose_models(self.config, front, self.log)
        self.planned = plan_all(models, self._prepared, self.log, lambda: self._stops_asked > 0)
        self.config = self.planned[0].config
        terms = {
            front.models[each.number].name: make_terms(
                each.config, each.model, each.prepared.sources[0], each.placements
            )
            for each in self.planned
        }
        local = Addresses.new()
        address = f"tcp://{self._host}"
        self.addresses = replace(local, dispatch=self._connection.address, results=f"{address}:{front.port_out}")
        self.context = zmq.Context()
        self.control = make_socket(self.context, zmq.ROUTER)
        self.control.bind(self.addresses.control)
        self._socket_folder = SocketFolder(self.addresses, self.control, self.log)
        self._waiting: dict[str, Child] = {}
        for each in self.planned:
            name = front.models[each.number].name
            join = {"machine": self._connection.machine, "keys": self._keys, "timeout": front.timeout, "model": name}
            self._waiting |= make_model_workers(each, self.addresses, name, {"join": join})
        placements = placements_of(self.planned)
        self._connection.offer = Offer(
            next(iter(terms.values())),
            socket.gethostname(),
            [str(each.device) for each in placements],
            ", ".join(sorted({each.engine for each in placements})),
            ", ".join(sorted({each.dtype for each in placements})),
            terms,
        )

    def _advance(self, now: float) -> None:
        self._connection.step(now)
        if self._connection.refusal:
            self._fail(self._connection.refusal)
        elif self._stops_asked:
            self._drain_step(now)
        elif self._connection.is_joined or self.children:
            self._start_new(now)

    def _start_new(self, now: float) -> None:
        """Starts the processes that prepare the model after the front has accepted this machine, then the workers."""
        if not self.children:
            self.children = self._waiting
            self._prepared.skip(self.children.values())
        for child in due(self.children):
            self._start(child, now)
        is_up = self._is_up([name for name in self.children if name.startswith("worker-")])
        if is_up and self.state != "ready":
            self.log.info("all %d workers are ready", len(placements_of(self.planned)))
            self.state = "ready"
            self.is_ready.set()
        elif not is_up and self.state == "ready":
            self.state = "degraded"

    def _drain_step(self, now: float) -> None:
        """Waits until the front has the results of all batches of this machine, and gives it no new ones."""
        if self.state != "draining":
            self.state = "draining"
            self._drain_deadline = now + self.config.drain_timeout
            self._connection.is_draining = True
        is_idle = not self._connection.is_joined or not any(child.is_running for child in self.children.values())
        if self._stops_asked > 1:
            self._fail("stopped at once after a second request; other machines compute its batches", EXIT_FORCED)
        elif is_idle or (self._connection.report is not None and not self._connection.report.in_flight):
            self.exit_code = EXIT_OK
        elif now > self._drain_deadline:
            self._fail(
                f"batches were unfinished after {self.config.drain_timeout:.15g} s (-drain_timeout)", EXIT_FORCED
            )

    def _on_death(self, child: Child, code: int, now: float) -> None:
        if child.role == "worker":
            self._connection.on_death(child.identity.decode())
        if self.state == "draining":  # other machines compute its batches
            child.on_exit()
            self.log.warning("%s ended (%s) while the machine drained", child.name, describe_exit(code))
            return
        super()._on_death(child, code, now)

    def _publish_state(self) -> None:
        """The front reports the state of its machines."""

    def _fail(self, reason: str, exit_code: int | None = None) -> None:
        super()._fail(name_front_options(reason), exit_code)  # bert-serving-ray passes it on

    def _finish(self) -> None:
        self._connection.leave()
        super()._finish()
