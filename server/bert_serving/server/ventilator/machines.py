"""Knows the machines that have joined this server, and notices those that are silent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq

from ..ipc import commands, joining
from ..ipc.commands import from_u64
from ..ipc.joining import MAX_NAME, FrontReport, FrontTerms, MachineReport, Offer, Registration
from ..ipc.model_numbers import model_of
from ..scheduling.dispatcher import Dispatcher
from ..scheduling.worker_state import WorkerState


@dataclass(slots=True)
class Machine:
    """A joined machine; ``seen_at`` and ``joined_at`` are monotonic seconds.

    Attributes:
        models: indexes of the models that it offers.
    """

    name: str
    offer: Offer
    models: frozenset[int]
    joined_at: float
    seen_at: float
    is_draining: bool = False
    died: set[str] = field(default_factory=set)


class JoinedMachines:
    """Decides who joins, and tells the dispatchers which workers are there, have died or are lost.

    Args:
        dispatchers: that of each model.
        router: socket of ``-join_port``.
        clock: monotonic seconds.

    Attributes:
        num_joins, num_losses: machines that have joined, and that were silent for ``-join_timeout``.
    """

    def __init__(
        self,
        terms: FrontTerms,
        dispatchers: Sequence[Dispatcher],
        router: zmq.Socket[bytes],
        log: logging.Logger,
        clock: Callable[[], float],
    ) -> None:
        self._terms, self._dispatchers, self._router = terms, dispatchers, router
        self._log, self._clock = log, clock
        self.machines: dict[str, Machine] = {}
        self.num_joins = self.num_losses = 0

    @property
    def num_workers(self) -> list[int]:
        """Number of workers of joined machines that can compute, of each model."""
        return [each.num_joined_workers for each in self._dispatchers]

    def _workers_of(self, machine: str) -> Iterator[tuple[Dispatcher, WorkerState]]:
        """Yields the workers of a machine, with the dispatcher of their model; callers may remove them."""
        for dispatcher in self._dispatchers:
            for worker in list(dispatcher.workers.values()):
                if worker.machine == machine:
                    yield dispatcher, worker

    def on_message(self, sender: bytes, frames: list[bytes]) -> None:
        """Applies a message of a machine or of one of its workers. A message that cannot be read is dropped."""
        try:
            self._apply(sender, frames)
        except (IndexError, UnicodeDecodeError, ValueError, TypeError, KeyError, msgspec.MsgspecError) as error:
            self._log.warning("dropped a message on -join_port (%s: %s)", type(error).__name__, error)

    def _apply(self, sender: bytes, frames: list[bytes]) -> None:
        kind = frames[0]
        if kind == commands.REGISTER:
            self._register(sender, joining.decode(frames[1], type=Registration))
        elif kind == commands.BATCH_FAILED:
            batch_id = from_u64(frames[1])
            dispatcher = self._dispatchers[model_of(batch_id, len(self._dispatchers))]
            reason, text, worker = frames[2].decode(), frames[3].decode(), dispatcher.workers.get(sender)
            if worker is not None and batch_id in worker.in_flight:
                dispatcher.batch_failed(batch_id, reason, text)
        elif kind == joining.QUERY_TERMS:
            self._reply(sender, joining.TERMS, joining.encode(self._terms))
        elif kind == joining.JOIN:
            self._join(sender, _machine_name(frames[1]), frames[2])
        elif kind == joining.MACHINE_HEARTBEAT:
            self._on_heartbeat(sender, frames[1].decode(), joining.decode(frames[2], type=MachineReport))
        elif kind == joining.LEAVE and (machine := self.machines.pop(frames[1].decode(), None)):
            self._log.info("machine %s leaves", machine.name)
            self._remove_workers(machine.name)

    def check(self, now: float) -> None:
        """Removes machines that have been silent for ``-join_timeout``. Call it after reading the messages."""
        for machine in list(self.machines.values()):
            if now - machine.seen_at > self._terms.timeout:
                del self.machines[machine.name]
                self.num_losses += 1
                self._log.error(
                    "machine %s is lost: silent for %.15g s (-join_timeout); others compute its batches",
                    machine.name,
                    self._terms.timeout,
                )
                self._remove_workers(machine.name)

    def reset_liveness(self, now: float) -> None:
        """Restarts the time-out of all machines, after this process was suspended."""
        for machine in self.machines.values():
            machine.seen_at = now

    def to_dict(self, now: float) -> dict[str, Any]:
        """Returns the machines and the number of joins and losses, for the status."""
        workers = [worker for dispatcher in self._dispatchers for worker in dispatcher.workers.values()]
        names = [each.name for each in self._terms.models]
        machines = [
            {
                "name": each.name,
                "host": each.offer.host,
                "devices": each.offer.devices,
                "engine": each.offer.engine,
                "dtype": each.offer.dtype,
                **({"models": [names[number] for number in sorted(each.models)]} if len(names) > 1 else {}),
                "workers": sum(worker.machine == each.name and worker.is_available for worker in workers),
                "sequences": sum(worker.num_sequences for worker in workers if worker.machine == each.name),
                "tokens": sum(worker.num_tokens for worker in workers if worker.machine == each.name),
                "draining": each.is_draining,
                "joined_seconds": round(now - each.joined_at, 3),
                "silent_seconds": round(max(0.0, now - each.seen_at), 3),
            }
            for each in self.machines.values()
        ]
        return {"machines": machines, "num_joins": self.num_joins, "num_losses": self.num_losses}

    def _join(self, sender: bytes, name: str, content: bytes) -> None:
        try:
            offer = joining.decode(content, type=Offer)
        except msgspec.MsgspecError:  # another protocol has other fields; its number is in all
            offer = Offer(joining.decode(content, type=_AnyOffer).terms.to_terms(), "", [], "", "")
        models, reason = joining.compare(self._terms, offer)
        if reason:
            self._log.warning("refused machine %s: %s", name, reason)
            self._reply(sender, joining.REFUSED, reason.encode())
            return
        now = self._clock()
        if name not in self.machines:
            self.num_joins += 1
            self._log.info("machine %s joins from %s: %s", name, offer.host, ", ".join(offer.devices))
            self.machines[name] = Machine(name, offer, frozenset(models), now, now)
        self._reply(sender, joining.ACCEPTED, b"")

    def _on_heartbeat(self, sender: bytes, name: str, report: MachineReport) -> None:
        machine = self.machines.get(name)
        if machine is None:
            self._reply(sender, joining.UNKNOWN_MACHINE, b"")
            return
        machine.seen_at = self._clock()
        for process in set(report.died) - machine.died:
            self._remove_workers(name, process, is_death=True)
        machine.died, machine.is_draining = set(report.died), report.is_draining
        in_flight = 0
        for _, worker in self._workers_of(name):
            worker.is_draining = report.is_draining
            in_flight += len(worker.in_flight)
        reply = FrontReport(in_flight, machine.is_draining)
        self._reply(sender, joining.FRONT_HEARTBEAT, joining.encode(reply))

    def _register(self, sender: bytes, worker: Registration) -> None:
        name, process = worker.machine, worker.process
        machine = self.machines.get(name)
        if machine is None or process in machine.died:
            return  # it registers again each second
        if not sender.decode().startswith(f"{name}/"):
            raise ValueError(f"the worker {sender!r} is not of the machine {name}")
        # A name, because the front may have another order of models than when the machine started.
        number = self._terms.number_of(worker.model)
        if number not in machine.models:
            raise ValueError(f"the worker {sender!r} is of a model that its machine has not offered")
        dispatcher = self._dispatchers[number]
        earlier = None if sender in dispatcher.workers else self._remove_earlier(name, process)
        info = {key: value for key, value in msgspec.to_builtins(worker).items() if key not in ("machine", "model")}
        dispatcher.register_worker(sender, info, self._router, name)
        state = dispatcher.workers[sender]
        state.is_draining = machine.is_draining
        if earlier is not None:
            state.num_batches, state.last_seconds = earlier.num_batches, earlier.last_seconds
            state.num_sequences, state.num_tokens = earlier.num_sequences, earlier.num_tokens

    def _remove_earlier(self, machine: str, process: str) -> WorkerState | None:
        """Removes the worker whose place a new one takes. Returns it.

        The same process has connected again: its connection was cut. Another process has replaced one that died.
        """
        child = process.rpartition(".")[0]
        earlier = None
        for dispatcher, worker in self._workers_of(machine):
            if worker.info["process"].rpartition(".")[0] == child:
                earlier = worker
                dispatcher.worker_lost(worker.name, is_death=worker.info["process"] != process)
        return earlier

    def _remove_workers(self, machine: str, process: str | None = None, is_death: bool = False) -> None:
        for dispatcher, worker in self._workers_of(machine):
            if process in (None, worker.info["process"]):
                dispatcher.worker_lost(worker.name, is_death)

    def _reply(self, sender: bytes, kind: bytes, content: bytes) -> None:
        try:
            self._router.send_multipart([sender, kind, content], zmq.NOBLOCK)
        except zmq.ZMQError as error:  # the connection is closed; the machine asks again
            self._log.debug("cannot reply to %r: %s", sender, error)


def _machine_name(frame: bytes) -> str:
    name = frame.decode()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise ValueError(f"the name {name[:100]!r} of a machine is not 1 to {MAX_NAME} printable characters")
    return name


class _AnyTerms(msgspec.Struct):
    protocol: int
    version: str = "unknown"

    def to_terms(self) -> joining.Terms:
        return joining.Terms(self.protocol, self.version, "", "", [])


class _AnyOffer(msgspec.Struct):
    terms: _AnyTerms
