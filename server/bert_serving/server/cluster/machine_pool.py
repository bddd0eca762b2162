"""Starts, replaces and drains machines on a Ray cluster: one actor for each machine."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from bert_serving.client.ray_cluster import last_line

from ..log import printable
from ..supervisor.supervisor import STOP_SECONDS
from .machine_actor import Ended, MachineActor, Started

#: Seconds before a machine that failed is replaced; they double with each failure until a machine is ready.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds between two calls of an actor that Ray starts again, and until a line says that Ray has no place for one.
_CALL_AGAIN, _PLACE_SECONDS = 1.0, 15.0
#: Exit codes of a machine that can never start.
_FAILED_STARTS = (2, 3)


@dataclass
class _Machine:
    """An actor, and what is known of its machine.

    Attributes:
        starting: the call that returns its name; None when it has returned.
        ending: the call that returns when it has ended; None before.
        name: name at the front; empty before it is known.
        call_again_at: monotonic seconds of the next call, after Ray has lost the actor; None otherwise.
        drain_until: monotonic seconds; None if it does not drain.
    """

    number: int
    actor: Any
    created_at: float
    starting: Any = None
    ending: Any = None
    name: str = ""
    host: str = ""
    is_waiting_told: bool = False
    call_again_at: float | None = None
    drain_until: float | None = None

    def __str__(self) -> str:
        return f"machine {self.name or self.number}" + (f" on {self.host}" if self.host else "")


class MachinePool:
    """Keeps a number of machines on a cluster.

    Args:
        ray: the module Ray, connected.
        arguments: command line of ``bert-serving-join``.
        resources: ``num_cpus`` and ``num_gpus`` of each actor.
        drain_timeout: seconds that a machine may take to finish its batches.

    Attributes:
        failure: the reason why no machine can start; None otherwise.
    """

    def __init__(
        self,
        ray: Any,
        arguments: Sequence[str],
        resources: dict[str, float],
        drain_timeout: float,
        log: logging.Logger,
    ) -> None:
        self._ray, self._arguments, self._log = ray, list(arguments), log
        self._resources = resources
        # A machine that drains in time ends within these seconds.
        self._drain_seconds = drain_timeout + 2 * STOP_SECONDS
        # The first restart of an actor is immediate and on any node, so its machine may be another one.
        self._actor_class = ray.remote(max_restarts=-1, max_task_retries=0, max_concurrency=4, **resources)(
            MachineActor
        )
        self._machines: list[_Machine] = []
        self._count = 0
        self._pause, self._start_at = _FIRST_PAUSE, 0.0
        self._was_ready = False
        self.failure: str | None = None

    def __len__(self) -> int:
        return len(self._machines)

    @property
    def names(self) -> set[str]:
        """Names of the machines that do not drain, as far as they are known."""
        return {each.name for each in self._machines if each.name and each.drain_until is None}

    def step(self, now: float, wanted: int, ready: Collection[str]) -> None:
        """Reads what has happened, and starts or drains machines.

        Args:
            wanted: number of machines.
            ready: names of the machines that can compute.
        """
        for machine in list(self._machines):
            self._look_at(machine, now)
        if self.names & set(ready):
            self._was_ready, self._pause = True, _FIRST_PAUSE
        staying = [each for each in self._machines if each.drain_until is None]
        for _ in range(wanted - len(staying)):
            if now < self._start_at:
                break
            self._start(now)
        # Those that cannot compute yet go first, then the youngest.
        surplus = sorted(staying, key=lambda each: (each.name in ready, bool(each.name), -each.number))
        for machine in surplus[: max(0, len(staying) - wanted)]:
            self._drain(machine, now)

    def drain(self, now: float) -> None:
        """Begins to drain all machines."""
        for machine in list(self._machines):
            if machine.drain_until is None:
                self._drain(machine, now)

    def kill(self) -> None:
        """Ends all machines at once."""
        for machine in list(self._machines):
            self._remove(machine)

    def _start(self, now: float) -> None:
        self._count += 1
        machine = _Machine(self._count, self._actor_class.remote(self._arguments), now)
        self._machines.append(machine)
        self._call(machine)

    def _call(self, machine: _Machine) -> None:
        machine.call_again_at = None
        machine.starting, machine.ending = machine.actor.started.remote(), machine.actor.ended.remote()

    def _drain(self, machine: _Machine, now: float) -> None:
        if not machine.name:  # nothing runs yet, or it has no batches
            self._log.info("%s is not needed any more", machine)
            self._remove(machine)
            return
        self._log.info("%s drains", machine)
        machine.drain_until = now + self._drain_seconds
        machine.actor.drain.remote()

    def _remove(self, machine: _Machine) -> None:
        self._machines.remove(machine)
        self._ray.kill(machine.actor, no_restart=True)

    def _look_at(self, machine: _Machine, now: float) -> None:
        if machine.call_again_at is not None:
            if now >= machine.call_again_at:
                self._call(machine)
            return
        try:
            if machine.starting is not None and self._is_done(machine.starting):
                self._on_started(machine, self._ray.get(machine.starting))
            if self._is_done(machine.ending):
                self._on_ended(machine, self._ray.get(machine.ending), now)
                return
        except self._ray.exceptions.RayError as error:
            self._on_lost(machine, error, now)
            return
        if machine.drain_until is not None and now > machine.drain_until:
            self._log.warning("%s did not end in time, and is killed; others compute its batches", machine)
            self._remove(machine)
        elif machine.starting is not None and not machine.is_waiting_told and now > machine.created_at + _PLACE_SECONDS:
            machine.is_waiting_told = True
            needs = " and ".join(f"-{name} {value:.15g}" for name, value in self._resources.items())
            self._log.warning("%s waits for a node with %s; `ray status` shows what is free", machine, needs)

    def _is_done(self, call: Any) -> bool:
        return bool(self._ray.wait([call], timeout=0)[0])

    def _on_started(self, machine: _Machine, started: Started) -> None:
        machine.starting = None
        machine.name, machine.host = started.name, started.host
        if machine.name:
            self._log.info("%s starts", machine)

    def _on_ended(self, machine: _Machine, ended: Ended, now: float) -> None:
        self._remove(machine)
        if machine.drain_until is not None:
            self._log.info("%s has drained and ended", machine)
            return
        reason = ended.reason or f"exit code {ended.exit_code}, its log has the reason"
        self._on_failure(machine, reason, now, is_final=ended.exit_code in _FAILED_STARTS)

    def _on_lost(self, machine: _Machine, error: Exception, now: float) -> None:
        """Ray starts the actor again, on this node or another one, unless its creation failed."""
        if machine.drain_until is not None:
            self._log.warning("%s was lost while it drained; others compute its batches", machine)
            self._remove(machine)
        elif isinstance(error, self._ray.exceptions.ActorDiedError):
            self._remove(machine)
            remedy = "each node needs bert-serving-server[ray] of this version"
            self._on_failure(machine, f"{printable(last_line(error))} ({remedy})", now, is_final=True)
        else:
            if machine.name:
                self._log.error("%s is lost; Ray starts it again", machine)
                machine.created_at, machine.is_waiting_told = now, False
            machine.name = machine.host = ""
            machine.call_again_at = now + _CALL_AGAIN

    def _on_failure(self, machine: _Machine, reason: str, now: float, is_final: bool) -> None:
        if is_final and not self._was_ready:
            self.failure = f"{machine} cannot start: {reason}"
            return
        self._log.error("%s has ended: %s; the next one starts in %g s", machine, reason, self._pause)
        self._start_at = now + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
