"""Holds the configuration and the addresses of a child process."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field, replace
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from ..model.config import ModelConfig
from .endpoints import Addresses
from .heartbeat import Heartbeat
from .sockets import make_socket
from .start_steps import StartSteps


@dataclass
class ProcessContext:
    """Context of a child process.

    Attributes:
        options: values for this role that are not in ``config``.
        info: values that each heartbeat carries to the supervisor.
        steps: durations of the steps of the start.
    """

    name: str
    config: ServerConfig
    addresses: Addresses
    options: dict[str, Any]
    log: logging.Logger
    context: zmq.Context[zmq.Socket[bytes]] = field(default_factory=zmq.Context)
    info: dict[str, Any] = field(default_factory=dict)
    steps: StartSteps = field(default_factory=lambda: StartSteps(time.monotonic()))
    _heartbeat: Heartbeat = field(default_factory=Heartbeat)
    _bound: list[tuple[zmq.Socket[bytes], str]] = field(default_factory=list)

    @property
    def model(self) -> ModelConfig:
        """Sizes and file names of the model at the start of the server. The files may have changed since then."""
        return ModelConfig.from_dict(self.options["model"])

    def of_models(self) -> list[ProcessContext]:
        """Returns a context for each model of the server, this one first; they share all but config and options.

        The models have equal parts of ``-cache_mb``, to 1 MiB.
        """
        further: list[dict[str, Any]] = self.options.get("models", [])
        if not further:
            return [self]
        found = [self]
        for each in further:
            config, options = ServerConfig.from_json(each["config"]), {**self.options, **each["options"]}
            found.append(replace(self, config=config, options=options))
        part, rest = divmod(self.config.cache_mb, len(found))  # at least 1 each, or 0
        return [
            replace(each, config=each.config.with_(cache_mb=part + (number < rest), model=()))
            for number, each in enumerate(found)
        ]

    def connect_control(self) -> zmq.Socket[bytes]:
        """Returns the control socket of the main thread."""
        sock = make_socket(self.context, zmq.DEALER, IDENTITY=self.name.encode())
        sock.connect(self.addresses.control)
        return sock

    def bind(self, sock: zmq.Socket[bytes], address: str) -> None:
        """Binds an internal socket."""
        sock.bind(address)
        self._bound.append((sock, address))

    def bind_again(self) -> None:
        """Creates the files of the internal sockets again, after their removal. Connections stay as they are."""
        for sock, address in self._bound:
            try:
                if not os.path.lexists(address.removeprefix("ipc://")):
                    sock.bind(address)
            except zmq.ZMQError as error:  # the supervisor asks again
                self.log.warning("cannot bind %s again: %s", address, error)

    def mark_progress(self, busy: bool = False) -> None:
        """Records that the main loop runs. ``busy`` announces one long step, such as a batch."""
        self._heartbeat.mark_progress(busy)

    def log_steps(self, step: str) -> None:
        """Ends the last step of the start, and logs the durations of all."""
        self.steps.done(step)
        self.log.debug("%s", self.steps)

    def start_heartbeat(self) -> None:
        """Starts a thread that sends heartbeats. They carry the age of the last progress."""
        self._heartbeat.start(self.context, self.addresses.control, self.name, self.info)
