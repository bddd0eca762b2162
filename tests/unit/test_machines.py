"""Tests which machines join and are lost, and what becomes of their batches. The test plays machines and clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import zmq

from bert_serving.server.http.metrics import families
from bert_serving.server.ipc import commands, joining
from bert_serving.server.ipc.joining import FrontReport, FrontTerms, MachineReport, ModelTerms, Offer, Terms
from bert_serving.server.log import get_logger
from bert_serving.server.scheduling.dispatcher import Dispatcher
from bert_serving.server.ventilator.machines import JoinedMachines
from dispatcher_harness import DispatcherHarness

TERMS = Terms(joining.JOIN_PROTOCOL, "1", "model", "space", ["fp32"])
TIMEOUT = 10.0
DEATHS = 2


class Router:
    """Keeps what is sent; a name in ``closed`` cannot be reached."""

    def __init__(self) -> None:
        self.sent: list[list[bytes]] = []
        self.frames: list[bytes] = []  # of a message that is not complete
        self.closed: set[bytes] = set()

    def send(self, frame: bytes, flags: int, copy: bool) -> None:
        """Collects the frames of a message."""
        self.frames.append(frame)
        if not flags & zmq.SNDMORE:
            frames, self.frames = self.frames, []
            self.send_multipart(frames)

    def send_multipart(self, frames: list[bytes], *_: Any, **__: Any) -> None:
        if frames[0] in self.closed:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        self.sent.append(frames)

    def batches(self, name: bytes) -> int:
        return sum(frames[0] == name and frames[1] != b"" for frames in self.sent)


class Front:
    def __init__(self) -> None:
        self.harness = DispatcherHarness()
        self.dispatcher, self.router = self.harness.dispatcher, Router()
        self.terms = FrontTerms(TERMS, {}, 1, TIMEOUT, "first")
        self.machines = self.make_machines([self.dispatcher])

    def make_machines(self, dispatchers: list[Dispatcher]) -> JoinedMachines:
        router: Any = self.router
        return JoinedMachines(self.terms, dispatchers, router, get_logger("TEST"), lambda: self.harness.now)

    def ask(self, *frames: bytes) -> list[bytes]:
        self.machines.on_message(b"link", list(frames))
        return self.router.sent.pop()

    def join(self, name: str = "m", **models: Terms) -> None:
        offer = Offer(TERMS, "host", ["cpu"], "zeros", "fp32", models)
        assert self.ask(joining.JOIN, name.encode(), joining.encode(offer))[1] == joining.ACCEPTED

    def alive(self, name: str = "m", *died: str, is_draining: bool = False) -> FrontReport | None:
        report = MachineReport(list(died), is_draining)
        _, kind, content = self.ask(joining.MACHINE_HEARTBEAT, name.encode(), joining.encode(report))
        return joining.decode(content, type=FrontReport) if kind == joining.FRONT_HEARTBEAT else None

    def register(self, identity: bytes, process: str = "worker-0.1", machine: str = "m", **model: Any) -> None:
        info = {"machine": machine, "process": process, "max_tokens": 4096, **model}
        self.machines.on_message(identity, [commands.REGISTER, joining.encode(info)])

    def dispatch(self) -> None:
        self.dispatcher.dispatch()

    @property
    def names(self) -> list[bytes]:
        return list(self.dispatcher.workers)


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front()
    yield front
    front.harness.context.destroy(linger=0)


def test_only_workers_of_joined_machines_register(front: Front) -> None:
    front.register(b"m/w")
    assert front.names == []
    front.join()
    front.register(b"worker-0.1")  # the name of a worker of the server
    assert front.names == []
    front.register(b"m/w")
    assert front.names == [b"m/w"]
    assert front.machines.num_workers == [1]


def test_a_silent_machine_is_lost_with_its_workers_and_joins_again(front: Front) -> None:
    front.join()
    front.register(b"m/w")
    front.harness.ask()
    front.dispatch()
    front.harness.now += TIMEOUT - 1
    assert front.alive() == FrontReport(1, False)
    front.harness.now += TIMEOUT
    front.machines.check(front.harness.now)
    assert front.names == [b"m/w"]
    front.harness.now += 1
    front.machines.check(front.harness.now)
    assert front.names == []
    assert front.machines.num_losses == 1
    assert front.alive() is None
    front.register(b"m/w")
    assert front.names == []
    front.join()
    front.register(b"m/w")
    front.dispatch()
    assert front.router.batches(b"m/w") == 2
    assert front.machines.to_dict(front.harness.now)["num_joins"] == 2


def test_cuts_and_lost_machines_are_no_deaths_of_a_text(front: Front) -> None:
    front.join()
    front.harness.ask()
    for number in range(2 * DEATHS):
        front.register(b"m/w%d" % number)  # the same process with a new connection
        front.dispatch()
        assert front.router.batches(b"m/w%d" % number) == 1
        assert len(front.names) == 1
    assert not front.harness.failures


def test_a_text_that_kills_workers_gets_an_error_and_each_death_counts_once(front: Front) -> None:
    front.join()
    front.harness.ask()
    died: list[str] = []
    for number in range(DEATHS):
        assert not front.harness.failures
        front.register(b"m/w%d" % number, f"worker-0.{number}")
        front.dispatch()
        died.append(f"worker-0.{number}")
        front.alive("m", *died)
        front.alive("m", *died)
        front.register(b"m/late", f"worker-0.{number}")  # sent before its death, and read after the report
        assert front.names == []
    assert len(front.harness.failures) == 1


def test_a_successor_shows_that_a_process_died_and_continues_its_counts(front: Front) -> None:
    front.join()
    front.harness.ask(2)
    front.register(b"m/w1", "worker-0.1")
    front.dispatch()
    [batch] = front.dispatcher.in_flight
    front.dispatcher.batch_done(batch, 0.0)
    front.harness.ask()
    for number in range(1, DEATHS + 2):
        front.register(b"m/w%d" % number, f"worker-0.{number}")
        front.harness.now += 1  # no batch is delayed
        front.dispatch()
        [worker] = front.dispatcher.workers.values()
        assert worker.shown_name == f"m/worker-0.{number}"
        assert worker.num_sequences == 2
    assert len(front.harness.failures) == 1


def test_a_worker_that_cannot_be_reached_gets_nothing_and_is_lost_later(front: Front) -> None:
    front.join()
    front.register(b"m/w")
    front.harness.ask()
    front.dispatch()
    front.router.closed.add(b"m/w")
    front.harness.ask()
    front.dispatcher.probe()
    assert front.machines.num_workers == [0]
    front.dispatch()
    assert len(front.dispatcher.in_flight) == 1
    front.harness.now += TIMEOUT + 1
    front.dispatcher.probe()
    assert front.names == []
    assert not front.dispatcher.in_flight
    assert front.dispatcher.scheduler.num_sequences == 2


def test_a_machine_that_drains_gets_no_batch_and_knows_when_it_holds_none(front: Front) -> None:
    front.join()
    front.register(b"m/w")
    front.harness.ask()
    front.dispatch()
    [batch] = front.dispatcher.in_flight
    assert front.alive(is_draining=True) == FrontReport(1, True)
    front.register(b"m/w")
    front.harness.ask()
    front.dispatch()
    assert list(front.dispatcher.in_flight) == [batch]
    front.dispatcher.batch_done(batch, 0.0)
    assert front.alive(is_draining=True) == FrontReport(0, True)
    front.machines.on_message(b"link", [joining.LEAVE, b"m"])
    assert front.names == []
    assert front.machines.num_losses == 0


def test_metrics_count_machines(front: Front) -> None:
    front.join("a")
    front.join("b")
    front.harness.now += TIMEOUT + 1
    front.alive("b")
    front.machines.check(front.harness.now)
    status = {"joined": front.machines.to_dict(front.harness.now)}
    samples = {sample.name: sample.value for family in families(status, True) for sample in family.samples}
    names = ("machines", "machine_joins_total", "machine_losses_total")
    assert [samples[f"bert_serving_{name}"] for name in names] == [1, 2, 1]
    assert {sample.value for family in families({}, True) for sample in family.samples if "machine" in sample.name} == {
        0
    }


def test_a_suspended_front_loses_no_machine(front: Front) -> None:
    front.join()
    front.harness.now += 10 * TIMEOUT
    front.machines.reset_liveness(front.harness.now)
    front.machines.check(front.harness.now)
    assert front.alive() is not None


# ---------------------------------------------------------------- several models

OTHER = Terms(joining.JOIN_PROTOCOL, "1", "other model", "other space", ["int8"])


@pytest.fixture
def two(front: Front) -> Iterator[tuple[Front, DispatcherHarness]]:
    """A front with a second model, and the harness of that one."""
    harness = DispatcherHarness()
    front.terms = msgspec.structs.replace(front.terms, further=[ModelTerms("other", OTHER, {})])
    front.machines = front.make_machines([front.dispatcher, harness.dispatcher])
    yield front, harness
    harness.context.destroy(linger=0)


def test_workers_register_for_the_models_that_their_machine_offers(two: tuple[Front, DispatcherHarness]) -> None:
    front, second = two
    front.join("both", first=TERMS, other=OTHER)
    front.join("one", other=OTHER)
    front.join("old")  # of an earlier version: it names no model
    for machine in ("both", "one", "old"):
        front.register(f"{machine}/a".encode(), "worker-0.1", machine)
        front.register(f"{machine}/b".encode(), "worker-other-0.1", machine, model="other")
        for wrong in ("third", 1, -1, None, [0]):
            front.register(f"{machine}/c".encode(), "worker-c-0.1", machine, model=wrong)
    assert front.names == [b"both/a", b"old/a"]
    assert list(second.dispatcher.workers) == [b"both/b", b"one/b"]
    assert front.machines.num_workers == [2, 2]
    shown = {each["name"]: each for each in front.machines.to_dict(0.0)["machines"]}
    assert {name: each["models"] for name, each in shown.items()} == {
        "both": ["first", "other"],
        "one": ["other"],
        "old": ["first"],
    }
    assert [shown[name]["workers"] for name in ("both", "one", "old")] == [2, 1, 1]


def test_workers_name_their_model_to_a_front_that_returns_with_another_order(
    two: tuple[Front, DispatcherHarness],
) -> None:
    front, second = two
    front.terms = FrontTerms(OTHER, {}, 1, TIMEOUT, "other", [ModelTerms("first", TERMS, {})])
    front.machines = front.make_machines([second.dispatcher, front.dispatcher])
    front.join(first=TERMS, other=OTHER)
    front.register(b"m/a", "worker-0.1", model="first")
    front.register(b"m/b", "worker-other-0.1", model="other")
    assert front.names == [b"m/a"]
    assert list(second.dispatcher.workers) == [b"m/b"]


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (
            {"first": TERMS, "other": TERMS},
            "model other: this machine has a model with the digest model, the front one",
        ),
        ({"": OTHER}, "model first: this machine has a model with the digest other model"),
        ({"first": OTHER}, "model first: this machine has a model with the digest other model"),
        ({"third": OTHER}, "this machine offers a model 'third', and the front has first, other"),
    ],
)
def test_each_model_of_a_machine_is_compared(
    two: tuple[Front, DispatcherHarness], models: dict[str, Terms], words: str
) -> None:
    front, _ = two
    offer = Offer(TERMS, "host", ["cpu"], "zeros", "fp32", models)
    _, kind, reason = front.ask(joining.JOIN, b"m", joining.encode(offer))
    assert kind == joining.REFUSED
    assert reason.decode().startswith(words)
    assert front.alive() is None


def test_deaths_drains_and_losses_concern_the_workers_of_all_models(two: tuple[Front, DispatcherHarness]) -> None:
    front, second = two
    front.join(first=TERMS, other=OTHER)

    def register_all(start: int) -> None:
        front.register(b"m/a%d" % start, f"worker-0.{start}")
        front.register(b"m/b%d" % start, f"worker-other-0.{start}", model="other")

    register_all(1)
    for harness in (front.harness, second):
        harness.ask()
        harness.dispatcher.dispatch()
    assert front.alive() == FrontReport(2, False)
    assert front.alive("m", "worker-other-0.1") == FrontReport(1, False)  # the other model keeps its batch
    assert front.machines.num_workers == [1, 0]
    register_all(2)
    assert front.machines.num_workers == [1, 1]
    assert front.alive("m", "worker-other-0.1", is_draining=True) is not None
    for harness in (front.harness, second):
        assert [each.is_draining for each in harness.dispatcher.workers.values()] == [True]
    front.harness.now += TIMEOUT + 1
    front.machines.check(front.harness.now)
    assert not front.names
    assert not second.dispatcher.workers
    assert [harness.dispatcher.scheduler.num_sequences for harness in (front.harness, second)] == [1, 1]
