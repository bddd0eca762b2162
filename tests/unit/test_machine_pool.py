"""Machines of ``bert-serving-ray`` on a cluster that is simulated: failures, replacements, and which ones drain."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from bert_serving.client.ray_cluster import ClusterError, import_ray, require_reachable
from bert_serving.server.cluster import cli
from bert_serving.server.cluster.machine_actor import Ended, Started
from bert_serving.server.cluster.machine_pool import MachinePool
from servers import free_ports


class RayError(Exception):
    pass


class ActorDiedError(RayError):
    pass


class Call:
    """A call of a method of an actor; ``result`` is a value or an error."""

    def __init__(self) -> None:
        self.result: Any = None


class Actor:
    """Its calls return when a test sets their results."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda: self.calls.setdefault(name, Call()))

    def start(self, name: str) -> None:
        self.calls["started"].result = Started(name, "node")

    def end(self, code: int, reason: str = "") -> None:
        self.calls["ended"].result = Ended(code, reason)

    def lose(self, error: Exception) -> None:
        for call in self.calls.values():
            call.result = error


class Ray:
    """The functions of Ray that the pool calls."""

    exceptions = SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError)

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.killed: list[Actor] = []

    def remote(self, **options: object) -> Any:
        def make(cls: type) -> Any:
            def start(arguments: list[str]) -> Actor:
                self.actors.append(Actor())
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return make

    def wait(self, calls: list[Call], timeout: float) -> tuple[list[Call], list[Call]]:
        return [call for call in calls if call.result is not None], []

    def get(self, call: Call) -> Any:
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def kill(self, actor: Actor, no_restart: bool) -> None:
        assert no_restart
        self.killed.append(actor)


@pytest.fixture
def ray() -> Ray:
    return Ray()


@pytest.fixture
def pool(ray: Ray) -> MachinePool:
    return MachinePool(ray, ["host:1"], {"num_gpus": 1.0}, 60, logging.getLogger("test"))


def test_the_first_machine_that_cannot_start_ends_the_command(ray: Ray, pool: MachinePool) -> None:
    pool.step(0, 2, ())
    assert len(ray.actors) == 2
    ray.actors[0].start("a")
    ray.actors[0].end(3, "the front refuses this machine: digests")
    pool.step(1, 2, ())
    assert pool.failure == "machine a on node cannot start: the front refuses this machine: digests"


def test_later_failures_are_tried_again_more_and_more_slowly(ray: Ray, pool: MachinePool) -> None:
    pool.step(0, 1, ())
    ray.actors[0].start("a")
    pool.step(1, 1, {"a"})
    starts = []
    now = 1.0
    while len(starts) < 8:
        ray.actors[-1].start("a")
        ray.actors[-1].end(3, "no such folder")
        while len(ray.actors) == len(starts) + 1:
            now += 0.5
            pool.step(now, 1, ())
        starts.append(now)
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses[0] < 3
    assert 60 <= pauses[-1] < 62
    assert pool.failure is None
    ray.actors[-1].start("b")
    pool.step(now, 1, ())
    pool.step(now, 1, {"b"})
    ray.actors[-1].end(-9)
    pool.step(now, 1, ())
    pool.step(now + 1, 1, ())
    assert len(ray.actors) == 10


def test_an_actor_that_is_lost_is_called_again(ray: Ray, pool: MachinePool) -> None:
    pool.step(0, 1, ())
    ray.actors[0].start("a")
    pool.step(1, 1, {"a"})
    assert pool.names == {"a"}
    ray.actors[0].lose(RayError("node"))
    pool.step(2, 1, ())
    assert pool.names == set()
    ray.actors[0].calls.clear()
    pool.step(4, 1, ())
    ray.actors[0].start("b")
    pool.step(5, 1, ())
    assert pool.names == {"b"}
    assert len(ray.actors) == 1


def test_an_actor_that_cannot_be_created_is_named(ray: Ray, pool: MachinePool) -> None:
    pool.step(0, 1, ())
    ray.actors[0].lose(ActorDiedError("Traceback\n ...\nModuleNotFoundError: No module named 'bert_serving'"))
    pool.step(1, 1, ())
    assert pool.failure is not None
    assert "No module named 'bert_serving' (each node needs bert-serving-server[ray]" in pool.failure


def test_machines_that_cannot_compute_go_first(ray: Ray, pool: MachinePool) -> None:
    pool.step(0, 4, ())
    for actor, name in zip(ray.actors, "abc", strict=False):
        actor.start(name)
    pool.step(1, 4, {"a", "c"})
    pool.step(2, 1, {"a", "c"})
    assert ray.killed == [ray.actors[3]]  # it has not started
    assert pool.names == {"a"}
    assert ["drain" in actor.calls for actor in ray.actors] == [False, True, True, False]
    pool.step(3, 1, {"a"})
    assert len(ray.actors) == 4
    ray.actors[1].end(0)
    pool.step(4, 1, {"a"})
    assert len(pool) == 2
    pool.step(1000, 1, {"a"})  # it does not end
    assert len(pool) == 1
    assert ray.killed[1:] == [ray.actors[1], ray.actors[2]]
    pool.drain(1001)
    ray.actors[0].end(0)
    pool.step(1002, 0, ())
    assert len(pool) == 0


def test_ray_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"Ray is not installed .*: pip install \"bert-serving-server\[ray\]\""):
        import_ray("bert-serving-server")
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__version__="2.9.3"))
    with pytest.raises(ClusterError, match=r"Ray 2.9.3 is too old; 2.52 is the first"):
        import_ray("bert-serving-server")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["5557"], "is not HOST:PORT"),
        (["h:5557", "-min", "3", "-max", "2"], "-max 2 is less than -min 3"),
        (["h:5557", "-num_gpus", "1.5"], "1.5 must be a whole number, or a fraction below 1"),
        (["h:5557", "-num_cpus", "-1"], "-1 must be a whole number"),
        (["h:5557", "-queue_seconds", "0"], "0 is not a number of seconds above 0"),
        (["h:5557", "-ray_address", "ray://h:1"], "run this command on a node of the cluster"),
    ],
)
def test_wrong_command_lines(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        cli.main(args)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_front_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(__version__="2.60.0"))
    monkeypatch.setattr("bert_serving.server.cluster.front_monitor.TIMEOUT", 0.2)
    port, port_out = map(str, free_ports())
    assert cli.main(["127.0.0.1:1", "-port", port, "-port_out", port_out]) == 3
    assert "127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_before_machines_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    number = getattr(signal, name)
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(cli, "import_ray", lambda package: signal.raise_signal(number))
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        assert cli.main(["127.0.0.1:1"]) == 130
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["-num_gpus", "0", "-num_cpus", "4"], "h:1 -cpu -threads 4"),
        (["-num_gpus", "0", "-num_cpus", "4", "-num_worker", "2"], "h:1 -num_worker 2 -cpu -threads 2"),
        (["-device_map", "0", "1", "-verbose", "-model_dir", "/m"], "h:1 -model_dir /m -device_map 0 1 -verbose"),
        (["-cpu", "-threads", "3", "-num_cpus", "2", "-join_keys", "~/k"], "h:1 -cpu -threads 3 -join_keys ~/k"),
    ],
)
def test_the_command_line_of_a_machine(args: list[str], expected: str) -> None:
    assert cli.machine_arguments(cli.get_parser().parse_args(["h:1", *args])) == expected.split()


def test_the_loopback_is_refused_on_a_cluster_of_several_machines() -> None:
    def cluster(*addresses: str) -> SimpleNamespace:
        return SimpleNamespace(nodes=lambda: [{"NodeManagerAddress": each, "Alive": True} for each in addresses])

    require_reachable(cluster("127.0.0.1", "127.0.0.1"), "localhost")
    require_reachable(cluster("10.0.0.1"), "127.0.0.1")
    require_reachable(cluster("10.0.0.1", "10.0.0.2"), "10.0.0.1")
    for host in ("localhost", "127.0.0.1", "::1"):
        with pytest.raises(ClusterError, match="name an address that all nodes reach"):
            require_reachable(cluster("10.0.0.1", "10.0.0.2"), host)
