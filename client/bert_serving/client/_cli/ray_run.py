"""Encodes a corpus on the nodes of a Ray cluster: this process hands out inputs and parts, and records results."""

from __future__ import annotations

import argparse
import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from .._client import BertClient
from .._fronts import Front
from .._progress import ProgressBar
from ..ray_cluster import ClusterError, connect, first_line, import_ray, last_line, require_reachable
from .corpus import CorpusError
from .inputs import InputFile, digest_of
from .manifest import OutputFolder
from .part_files import rename_part
from .part_pipeline import Job
from .parts import Part
from .ray_parts import Outcome, PartActor, Work, Written, guarded
from .readers import Reading, survey
from .rows import ReadOptions
from .server_models import ServerModel

#: Parts that are encoded at once for each server: one computes while the other one begins or ends.
ACTORS_PER_SERVER = 2
#: Actors that may end while they encode the same part, before the run ends.
_MAX_DEATHS = 4
_RETRY_SECONDS, _STEP_SECONDS, _PLACE_SECONDS, _END_SECONDS = 1.0, 0.5, 15.0, 5.0


@contextmanager
def ray_cluster(address: str) -> Iterator[Any]:
    """Yields the module Ray, connected to a cluster.

    Raises:
        ClusterError: there is no cluster, or no Ray.
    """
    ray = import_ray("bert-serving-client")
    connect(ray, address, shows_logs=False)
    try:
        yield ray
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise ClusterError(f"the Ray cluster is lost: {first_line(error)}") from None
    finally:
        ray.shutdown()


def absolute(folder: str, paths: Sequence[str]) -> tuple[str, list[str]]:
    """Returns a folder and paths that do not depend on the current folder, which differs on each node."""
    return os.path.abspath(folder), [os.path.abspath(path) for path in paths]


class RayReading(Reading):
    """Reads whole inputs in tasks on any node."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def survey(self, paths: Sequence[str], options: ReadOptions, show: Callable[[int], None]) -> list[InputFile]:
        """Validates all inputs.

        Raises:
            CorpusError: one is not valid.
        """
        found = self._run([(_survey, os.path.abspath(path), options) for path in paths], paths, show)
        return [replace(one, path=path) for one, path in zip(found, paths, strict=True)]

    def digests(self, paths: Sequence[str], show: Callable[[int], None]) -> list[tuple[int, str]]:
        """Returns size and digest of all inputs."""
        return self._run([(_digest, os.path.abspath(path)) for path in paths], paths, show)

    def _run(self, calls: list[tuple[Any, ...]], paths: Sequence[str], show: Callable[[int], None]) -> list[Any]:
        ray = self._ray
        task = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(guarded)
        pending = {task.remote(*call): number for number, call in enumerate(calls)}
        results: list[Any] = [None] * len(calls)
        try:
            while pending:
                for ref in ray.wait(list(pending), timeout=_STEP_SECONDS)[0]:
                    number = pending.pop(ref)
                    try:
                        outcome: Outcome = ray.get(ref)
                    except ray.exceptions.RayError as error:
                        raise CorpusError(
                            f"{paths[number]} cannot be read on the cluster: {last_line(error)}"
                        ) from None
                    if outcome.kind != "done":
                        raise CorpusError(outcome.message)
                    results[number] = outcome.value
                    show(os.stat(paths[number]).st_size)
        finally:
            for ref in pending:
                ray.cancel(ref, force=True)
        return results


def _survey(path: str, options: ReadOptions) -> InputFile:
    return survey(path, options, lambda size: None)


def _digest(path: str) -> tuple[int, str]:
    return digest_of(path, lambda size: None)


@dataclass
class _Slot:
    """An actor, and its call under way.

    Attributes:
        call: the call; None between two calls.
        part: the part of the call; None while the actor connects.
        is_connected: whether it takes parts.
        call_at: monotonic seconds of the next attempt to connect.
    """

    actor: Any
    front: Front
    call: Any = None
    part: Part | None = None
    is_connected: bool = False
    call_at: float = 0.0


class RayRun:
    """Shares out parts over actors, which share out the servers.

    An actor that dies costs only its part. Ray starts it again, on any node.

    Args:
        job: what is encoded; its paths are absolute.
        parts: the parts that are not written yet.
        report: receives a sentence about lost servers and actors.
    """

    def __init__(
        self,
        ray: Any,
        args: argparse.Namespace,
        job: Job,
        model: ServerModel,
        parts: Sequence[Part],
        folder: OutputFolder,
        bar: ProgressBar,
        report: Callable[[str], None],
    ) -> None:
        self._ray, self._args, self._job, self._model = ray, args, job, model
        self._waiting = sorted(parts)
        self._left = len(parts)
        self._folder, self._bar, self._report = folder, bar, report
        self._slots: list[_Slot] = []
        self._work: Any = None  # reference to the `Work` of all actors
        self._lost: set[Front] = set()
        self._deaths: Counter[Part] = Counter()
        self.rows_written = 0

    def run(self, clients: Sequence[tuple[Front, BertClient]]) -> None:
        """Encodes all parts. The actors have clients of their own, so the given ones are closed.

        Raises:
            CorpusError: a part cannot be encoded, or no server is left; the parts that are written stay.
        """
        fronts = [front for front, _ in clients]
        for _, client in clients:
            client.close()
        if not self._left:
            return
        count = max(len(fronts), min(self._args.ray_actors or ACTORS_PER_SERVER * len(fronts), self._left))
        actor_class = self._ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=0, scheduling_strategy="SPREAD")(
            PartActor
        )
        for front in fronts:
            require_reachable(self._ray, front.host)
        self._work = self._ray.put(Work(self._args, self._job, self._model))
        try:
            for number in range(count):
                front = fronts[number % len(fronts)]
                self._slots.append(_Slot(actor_class.remote(), front))
            place_at: float | None = time.monotonic() + _PLACE_SECONDS
            while self._left:
                self._step(time.monotonic())
                if any(slot.is_connected for slot in self._slots):
                    place_at = None
                elif place_at is not None and time.monotonic() > place_at:
                    place_at = None
                    self._report(
                        "the cluster has no node with a free CPU yet; waiting, `ray status` shows what is free"
                    )
        finally:
            self._end()

    def _step(self, now: float) -> None:
        for slot in self._slots:
            if slot.call is None and slot.is_connected and self._waiting:
                slot.part = heapq.heappop(self._waiting)
                slot.call = slot.actor.encode.remote(slot.part)
            elif slot.call is None and not slot.is_connected and now >= slot.call_at:
                slot.call = slot.actor.connect.remote(self._work, slot.front)
        calls = {slot.call: slot for slot in self._slots if slot.call is not None}
        if not calls:
            time.sleep(_STEP_SECONDS)
            return
        for call in self._ray.wait(list(calls), timeout=_STEP_SECONDS)[0]:
            slot = calls[call]
            part, slot.call, slot.part = slot.part, None, None
            try:
                outcome = self._ray.get(call)
            except self._ray.exceptions.RayActorError as error:
                self._on_death(slot, part, error)
            except self._ray.exceptions.RayTaskError as error:
                raise CorpusError(f"an actor failed: {last_line(error)}") from error
            else:
                self._on_outcome(slot, part, outcome)

    def _on_outcome(self, slot: _Slot, part: Part | None, outcome: Outcome) -> None:
        if outcome.kind == "failed":
            raise CorpusError(outcome.message)
        if outcome.kind == "lost":
            self._put_back(slot, part)
            self._on_lost_front(slot.front, outcome.message)
        elif part is None:
            slot.is_connected = True
            if slot.front in self._lost:
                self._lost.discard(slot.front)
                self._report(f"{slot.front} is back")
        else:
            self._on_written(part, outcome.value)

    def _on_written(self, part: Part, written: Written) -> None:
        """Gives the file its name here, so that no other actor replaces it."""
        try:
            rename_part(written.temporary, self._folder.path, part.name(self._job.layout.format))
        except FileNotFoundError:
            raise CorpusError(
                f"a node has written {written.temporary}, which is not seen here: with -ray_address, the output is on "
                "a file system that all nodes and this machine share"
            ) from None
        self._folder.add(written.record)
        self._bar.update(part.rows)
        self.rows_written += part.rows
        self._left -= 1

    def _on_lost_front(self, front: Front, message: str) -> None:
        if front not in self._lost:
            self._lost.add(front)
            if self._lost.issuperset(slot.front for slot in self._slots):
                raise CorpusError(message)
            self._report(f"{front} is lost, its parts go to the other servers: {message.splitlines()[0]}")

    def _on_death(self, slot: _Slot, part: Part | None, error: Exception) -> None:
        if isinstance(error, self._ray.exceptions.ActorDiedError):
            raise CorpusError(
                f"no node can encode: {last_line(error)} (each node needs bert-serving-client[corpus,ray] of this "
                "version)"
            )
        self._put_back(slot, part)
        if part is not None:
            self._deaths[part] += 1
            if self._deaths[part] >= _MAX_DEATHS:
                path = self._job.inputs[part.file].path
                raise CorpusError(
                    f"{_MAX_DEATHS} actors died while they encoded the rows {part.first + 1:,} to "
                    f"{part.first + part.rows:,} of {path}; have the nodes enough memory? A "
                    "smaller -part_rows needs less"
                )
            self._report(f"the actor of part {part.number} was lost; another one encodes it")

    def _put_back(self, slot: _Slot, part: Part | None) -> None:
        slot.is_connected, slot.call_at = False, time.monotonic() + _RETRY_SECONDS
        if part is not None:
            heapq.heappush(self._waiting, part)

    def _end(self) -> None:
        """Ends all actors, and removes their temporary files."""
        with suppress(self._ray.exceptions.RayError, ConnectionError):
            for slot in self._slots:
                self._ray.kill(slot.actor)
            if calls := [slot.call for slot in self._slots if slot.part is not None]:
                self._ray.wait(calls, num_returns=len(calls), timeout=_END_SECONDS)
        for name in os.listdir(self._folder.path):
            if name.startswith(".part-"):
                with suppress(OSError):
                    os.remove(os.path.join(self._folder.path, name))
