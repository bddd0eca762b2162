"""Parts of a corpus on a cluster that is simulated: actors that die, servers that are lost, files that are not seen."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.client._cli import ray_run
from bert_serving.client._cli.corpus import CorpusError
from bert_serving.client._cli.part_files import PartRecord
from bert_serving.client._cli.parts import Part
from bert_serving.client._cli.ray_parts import Outcome, Written
from bert_serving.client._fronts import Front

FRONTS = [Front("10.0.0.1"), Front("10.0.0.2")]


class RayActorError(Exception):
    pass


class ActorDiedError(RayActorError):
    pass


class RayTaskError(Exception):
    pass


class Ray:
    """Calls return at once; ``encode`` and ``connect`` compute their results, or raise."""

    exceptions = SimpleNamespace(
        RayError=Exception, RayActorError=RayActorError, ActorDiedError=ActorDiedError, RayTaskError=RayTaskError
    )

    def __init__(self, encode: Callable[[Part], Outcome], connect: Callable[[Front], Outcome]) -> None:
        self._encode, self._connect = encode, connect
        self.num_actors = self._turn = 0

    def remote(self, **options: object) -> Any:
        def make() -> Any:
            self.num_actors += 1
            return SimpleNamespace(
                encode=SimpleNamespace(remote=lambda part: Call(lambda: self._encode(part))),
                connect=SimpleNamespace(remote=lambda work, front: Call(lambda: self._connect(front))),
            )

        return lambda cls: SimpleNamespace(remote=make)

    def nodes(self) -> list[dict[str, Any]]:
        return []

    def put(self, value: object) -> object:
        return value

    def wait(self, calls: list[Call], timeout: float, num_returns: int = 1) -> tuple[list[Call], list[Call]]:
        self._turn += 1
        return [calls[self._turn % len(calls)]], []

    def get(self, call: Call) -> Outcome:
        return call.work()

    def kill(self, actor: object) -> None: ...


class Call:
    def __init__(self, work: Callable[[], Outcome]) -> None:
        self.work = work


class Run:
    """A run of ten parts with two servers."""

    def __init__(
        self,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        encode: Callable[[Part], Outcome] | None = None,
        connect: Callable[[Front], Outcome] | None = None,
    ) -> None:
        monkeypatch.setattr(ray_run, "_RETRY_SECONDS", 0.0)
        self.folder = folder
        self.ray = Ray(encode or self.written, connect or (lambda front: Outcome("done")))
        self.recorded: list[int] = []
        self.reports: list[str] = []
        output = SimpleNamespace(path=str(folder), add=lambda record: self.recorded.append(record.number))
        job = SimpleNamespace(layout=SimpleNamespace(format="npy"), inputs=[SimpleNamespace(path="a.txt")])
        parts = [Part(number, 0, number * 5, 5) for number in range(10)]
        bar = SimpleNamespace(update=lambda rows: None)
        args = argparse.Namespace(ray_actors=None)
        self.run: Any = ray_run.RayRun(
            self.ray,
            args,
            job,
            None,
            parts,
            output,
            bar,
            self.reports.append,  # type: ignore[arg-type]
        )

    def written(self, part: Part) -> Outcome:
        path = self.folder / f".part-{part.number:06}.npy.abc.new"
        path.write_text(str(part.number))
        return Outcome("done", Written(PartRecord(part.number, 1, "digest"), str(path)))

    def __call__(self) -> None:
        self.run.run([(front, SimpleNamespace(close=lambda: None)) for front in FRONTS])

    def require_all(self) -> None:
        assert sorted(self.recorded) == list(range(10))
        found = {path.name: path.read_text() for path in self.folder.iterdir()}
        assert found == {f"part-{number:06}.npy": str(number) for number in range(10)}


def test_all_parts_are_named_and_recorded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch)
    (tmp_path / ".part-000003.npy.dead.new").touch()  # of an actor that died
    run()
    run.require_all()
    assert run.ray.num_actors == 4
    assert run.run.rows_written == 50
    assert run.reports == []


def test_an_actor_that_dies_costs_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = [3, 3, 3, 7]

    def encode(part: Part) -> Outcome:
        if part.number in deaths:
            deaths.remove(part.number)
            raise RayActorError
        return run.written(part)

    run = Run(tmp_path, monkeypatch, encode)
    run()
    run.require_all()
    assert sorted(run.reports) == sorted(
        f"the actor of part {n} was lost; another one encodes it" for n in (3, 3, 3, 7)
    )


def test_a_part_that_kills_its_actors_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(part: Part) -> Outcome:
        if part.number == 3:
            raise RayActorError
        return run.written(part)

    run = Run(tmp_path, monkeypatch, encode)
    with pytest.raises(CorpusError, match=r"4 actors died while they encoded the rows 16 to 20 of a.txt; "):
        run()
    assert 3 not in run.recorded


def test_a_lost_server_leaves_its_parts_to_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = 5

    def connect(front: Front) -> Outcome:
        nonlocal losses
        if front == FRONTS[1] and losses:
            losses -= 1
            return Outcome("lost", message="no server is connected\nmore")
        return Outcome("done")

    run = Run(tmp_path, monkeypatch, connect=connect)
    run()
    run.require_all()
    assert run.reports[0] == f"{FRONTS[1]} is lost, its parts go to the other servers: no server is connected"
    gone = Run(tmp_path, monkeypatch, connect=lambda front: Outcome("lost", message="no server is connected"))
    with pytest.raises(CorpusError, match="no server is connected"):
        gone()


def test_what_ends_a_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def died(front: Front) -> Outcome:
        raise ActorDiedError("Traceback\nModuleNotFoundError: No module named 'bert_serving'")

    with pytest.raises(CorpusError, match=r"No module named 'bert_serving' .each node needs bert-serving-client"):
        Run(tmp_path, monkeypatch, connect=died)()
    with pytest.raises(CorpusError, match="the line 3 is not UTF-8"):
        Run(tmp_path, monkeypatch, lambda part: Outcome("failed", message="the line 3 is not UTF-8"))()
    elsewhere = Written(PartRecord(0, 1, "digest"), str(tmp_path / "elsewhere" / ".part-000000.npy.abc.new"))
    with pytest.raises(CorpusError, match="a file system that all nodes and this machine share"):
        Run(tmp_path, monkeypatch, lambda part: Outcome("done", elsewhere))()
