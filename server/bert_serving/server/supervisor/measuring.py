"""Times the candidates of ``-engine measure``, one after the other, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import zmq

from ..config.server_config import ServerConfig
from ..engines.base import Device
from ..engines.cpu_info import describe_processor
from ..engines.measurement import Candidate, Measurement, Result, Timing
from ..errors import StartError
from ..ipc import commands
from ..ipc.endpoints import Addresses
from ..ipc.sockets import make_socket
from ..model.cache import default_cache_dir
from ..model.config import ModelConfig
from .child import Child, describe_exit
from .placement import WorkerPlacement

_POLL_MS = 50
#: Load average of the last minute for each core, above which the log warns.
BUSY_LOAD = 0.5


class Stopped(Exception):
    """The server is asked to stop, so the measurement has no result."""


@dataclass(frozen=True, slots=True)
class EngineTimer:
    """Starts the processes that time candidates.

    Attributes:
        is_stopping: returns whether the server is asked to stop.
    """

    config: ServerConfig
    model: ModelConfig
    log: logging.Logger
    is_stopping: Callable[[], bool]

    def measure(self, candidates: Sequence[Candidate], device: Device) -> Measurement:
        """Times the candidates on a device. One that fails is logged.

        Raises:
            StartError: all of them fail.
            Stopped: the server is asked to stop.
        """
        processor = describe_processor()
        self.log.info(
            "measuring %d engines on %s, %d threads: %s",
            len(candidates),
            processor,
            device.threads,
            ", ".join(map(str, candidates)),
        )
        load = _load()
        if load > BUSY_LOAD:
            self.log.warning("other programs use %.0f %% of the processor (load average): the measurement may select a "
                             "slower engine", 100 * load)  # fmt: skip
        results = []
        for candidate in candidates:
            result = self._time(candidate, device)
            if result.failure:
                self.log.warning("engine %s, dtype %s failed while it was measured: %s; it is not used",
                                 candidate.engine, candidate.dtype, result.failure)  # fmt: skip
            results.append(result)
        today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        measurement = Measurement(processor, device.threads, today, tuple(results))
        if measurement.fastest is None:
            reasons = dict.fromkeys(each.failure for each in results)
            raise StartError(f"-engine measure: all of {', '.join(map(str, candidates))} failed: {'; '.join(reasons)}")
        return measurement

    def _time(self, candidate: Candidate, device: Device) -> Result:
        """Returns the result of one candidate.

        Raises:
            Stopped: the server is asked to stop.
        """
        placement = WorkerPlacement(device, candidate.engine, candidate.dtype)
        options = {
            **placement.options(),
            "cache_dir": self.config.graph_tmp_dir or default_cache_dir(),
            "model": asdict(self.model),
        }
        with _control_socket() as (addresses, control):
            child = Child(
                "measure", f"measure-{candidate.engine}-{candidate.dtype}", "MEASURE", self.config, addresses, options,
                placement.environment(),
            )  # fmt: skip
            child.start()
            try:
                while not child.is_ready and not child.reason:
                    self._step(child, control)
            finally:
                child.kill()
                child.end(time.monotonic())
        if child.reason:
            return Result(candidate.engine, candidate.dtype, failure=child.reason)
        timing = {name: child.info[name] for name in ("text_seconds", "batch_seconds", "batch_texts")}
        return Result(candidate.engine, candidate.dtype, Timing(**timing))

    def _step(self, child: Child, control: zmq.Socket[bytes]) -> None:
        """Receives the messages of a process, and sets its ``reason`` if it has ended or hangs."""
        if self.is_stopping():
            raise Stopped
        assert child.process is not None
        code = child.process.poll()
        while control.poll(0 if code is not None else _POLL_MS):
            _on_message(child, control.recv_multipart())
        if child.is_ready or child.reason:
            return
        child.reason = child.hang_reason(time.monotonic()) if code is None else describe_exit(code)


def _load() -> float:
    """Returns the load average of the last minute for each core of the machine, at most 1; 0 if it is unknown."""
    if not hasattr(os, "getloadavg"):
        return 0.0
    return min(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _on_message(child: Child, frames: list[bytes]) -> None:
    kind, now = frames[1], time.monotonic()
    if kind == commands.HEARTBEAT:
        child.on_heartbeat(json.loads(frames[2]), now)
    elif kind == commands.READY:
        child.on_ready(json.loads(frames[2]), now)
    elif kind == commands.FATAL:
        child.reason = frames[2].decode()


@contextlib.contextmanager
def _control_socket() -> Iterator[tuple[Addresses, zmq.Socket[Any]]]:
    """Yields addresses and the control socket for one process."""
    addresses = Addresses.new()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        control = make_socket(context, zmq.ROUTER)
        control.bind(addresses.control)
        yield addresses, control
        control.close(linger=0)
    finally:
        context.destroy(linger=0)
        if addresses.folder:
            shutil.rmtree(addresses.folder, ignore_errors=True)
