"""Machines on a Ray cluster: nodes and processes are killed, and machines come and go under load."""

from __future__ import annotations

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray_cluster
from joining import Front, front
from ray_cluster import RayCluster, RayCommand
from test_joined_faults import Load

from bert_serving.client import BertClient
from bert_serving.server.model.default import default_model_dir
from fault_helpers import HERE, connect
from model_folders import copy_tiny
from servers import TINY_TUNED, serving, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.minutes, pytest.mark.timeout(240)]

ENGINE = ("-engine", "fault_engines.steady")
ENV = {"PYTHONPATH": str(HERE)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with ray_cluster.ray_cluster(2, **ENV) as cluster:
        yield cluster


@contextlib.contextmanager
def front_and_command(cluster: RayCluster, *args: str, count: int = 1) -> Iterator[tuple[Front, RayCommand]]:
    with front(*ENGINE, "-max_batch_tokens", "512", env=ENV) as server:
        command = RayCommand(cluster, server, *ENGINE, *args)
        try:
            command.wait_ready(count=count)
            server.wait_ready()
            yield server, command
        finally:
            command.kill()
            command.wait_gone()


def test_vectors_are_those_of_a_server(cluster: RayCluster) -> None:
    if default_model_dir() is None:
        pytest.skip("the default model is not installed")
    sentences = [f"{word} is what the {number}th sentence is about" for number in range(20) for word in ("snow", "tea")]
    with serving("-max_seq_len", "64", model_dir=None) as server, connect(server) as client:
        wanted = client.encode(sentences)
    with front("-max_seq_len", "64", model_dir=None) as server:
        command = RayCommand(cluster, server, "-min", "2", "-engine", "onnx", model_dir=None)
        command.wait_ready(count=2)
        with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
            np.testing.assert_allclose(client.encode(sentences), wanted, atol=1e-5)
        assert command.stop() == 0
        command.wait_gone()


def test_a_node_is_killed_under_load_and_another_one_is_added(cluster: RayCluster) -> None:
    with front_and_command(cluster, "-min", "2", count=2) as (server, command), Load(server, b"load", 400) as load:
        load.receive(10)
        cluster.kill_node(cluster.nodes[-1])
        wait_until(lambda: "Ray starts it again" in command.log)
        wait_until(lambda: "1 of 2 machines are ready" in command.log)
        cluster.nodes.append(cluster.add_node())
        load.finish()
        command.wait_ready(count=2)
        with Load(server, b"again", 20) as again:
            status = again.finish()
        assert len(status["joined"]["machines"]) == 2
        assert command.stop() == 0
        command.wait_gone(1)


def test_machines_come_and_go_with_the_load(cluster: RayCluster) -> None:
    scale = ("-min", "0", "-max", "2", "-queue_seconds", "0.5", "-idle_seconds", "8")
    with front(*ENGINE, "-max_batch_tokens", "512", env=ENV) as server:
        command = RayCommand(cluster, server, *ENGINE, *scale)
        wait_until(lambda: "0 of 0 machines" in command.log)
        with Load(server, b"load", 2000) as load:
            command.wait_ready(count=1)
            command.wait_ready(count=2)
            load.finish()
            with Load(server, b"less", 2000) as less:  # while some drain
                wait_until(lambda: "drains" in command.log or less.receive(1))  # type: ignore[func-returns-value]
                less.finish()
            wait_until(lambda: "0 of 0 machines" in command.log.split("2 of 2 machines")[-1], 120)
            wait_until(lambda: load.status()["joined"]["machines"] == [], what="the last machine to leave")
            assert load.status()["joined"]["num_losses"] == 0
        assert "requeuing" not in server.log
        assert command.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_drains_its_machines_under_load(cluster: RayCluster, number: signal.Signals) -> None:
    with front_and_command(cluster, "-min", "2", count=2) as (server, command), Load(server, b"load", 100) as load:
        load.receive(10)
        own = server.machine(*ENGINE, env=ENV).wait_ready()
        command.process.send_signal(number)
        assert command.wait_end() == 0
        command.wait_gone(1)
        assert load.finish()["joined"]["num_losses"] == 0
        assert "requeuing" not in server.log
        assert own.stop() == 0


def test_a_killed_command_leaves_nothing(cluster: RayCluster) -> None:
    with front_and_command(cluster, "-min", "2", count=2) as (server, command), Load(server, b"load", 100) as load:
        load.receive(10)
        machines = command.machines()
        workers = [child for machine in machines for child in machine.children(recursive=True)]
        assert len(machines) == 2
        assert workers
        frozen = machines[0]
        frozen.suspend()
        command.process.kill()
        command.wait_gone()
        assert not psutil.wait_procs(workers, timeout=30)[1]
        successor = RayCommand(cluster, server, *ENGINE)
        successor.wait_ready(count=1)
        load.finish()
        assert successor.stop() == 0


def test_killed_processes_are_started_again(cluster: RayCluster) -> None:
    with front_and_command(cluster) as (server, command), Load(server, b"load", 300) as load:
        load.receive(10)
        [machine] = command.machines()
        machine.kill()
        wait_until(lambda: "the next one starts in 1 s" in command.log)
        wait_until(lambda: command.log.count("1 of 1 machines are ready") == 2, 120)
        load.receive(10)
        [machine] = command.machines()
        actor = machine.parent()
        assert actor is not None
        actor.kill()
        wait_until(lambda: "Ray starts it again" in command.log)
        wait_until(lambda: [each for each in command.machines() if each != machine])
        wait_until(lambda: len(command.machines()) == 1)
        load.finish()


def test_reasons_are_shown_without_a_traceback(cluster: RayCluster, tmp_path: Path) -> None:
    folder = copy_tiny(tmp_path)
    for source in TINY_TUNED.glob("model.ckpt-343*"):
        shutil.copy(source, folder / source.name.replace("model.ckpt-343", "bert_model.ckpt"))
    with front(*ENGINE, env=ENV) as server:
        other = RayCommand(cluster, server, *ENGINE, model_dir=folder)
        assert other.wait_end() == 3
        assert "cannot start: the front refuses this machine: this machine has a model with the digest" in other.log
        keys = RayCommand(cluster, server, *ENGINE, "-join_keys", "/no/such/folder")
        assert keys.wait_end() == 3
        assert "cannot start: -join_keys /no/such/folder needs the secret key" in keys.log
        nowhere = RayCommand(cluster, server, *ENGINE, "-ray_address", "127.0.0.1:1")
        assert nowhere.wait_end() == 3
        assert "no Ray cluster at -ray_address 127.0.0.1:1: " in nowhere.log
        with serving("-engine", "zeros") as other_server:
            closed = RayCommand(
                cluster, server, *ENGINE, "-port", other_server.port, "-port_out", other_server.port_out
            )
            assert closed.wait_end() == 3
            assert "start it with -join_port" in closed.log
        for command in (other, keys, nowhere, closed):
            assert "Traceback" not in command.log
            command.wait_gone()


def test_the_end_of_the_head_ends_all() -> None:
    with (
        front(*ENGINE, env=ENV) as server,
        ray_cluster.ray_cluster(1, **ENV, **{ray_cluster.RECONNECT: "5"}) as cluster,
    ):
        command = RayCommand(cluster, server, *ENGINE)
        command.wait_ready(count=1)
        cluster.kill_head()
        assert command.wait_end(90) != 0
        command.wait_gone()
