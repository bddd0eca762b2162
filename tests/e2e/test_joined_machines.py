"""Machines join a server: same vectors, terms that are checked before the model is loaded, keys, drain."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from joining import Front, front

from bert_serving.client import BertClient
from bert_serving.server.cli.keygen import keygen
from bert_serving.server.ipc import joining
from bert_serving.server.ipc.joining import FrontTerms, Offer
from servers import DATA, TINY, TINY_TUNED, free_ports, wait_until

pytestmark = pytest.mark.cluster

GOLDEN = DATA / "golden" / "tiny"


@contextlib.contextmanager
def client_of(server: Front) -> Iterator[BertClient]:
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client:
        yield client


def http_status(port: int) -> int:
    """Returns the status code of ``/readyz``; 0 if nothing listens."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_golden_vectors_come_through_a_joined_worker() -> None:
    golden = json.loads((GOLDEN / "mean_default.json").read_text())
    with np.load(GOLDEN / "mean_default.npz") as file:
        arrays = dict(file)
    [http_port] = free_ports(1)
    with front(*golden["args"], "-http_port", str(http_port)) as server:
        machine = server.machine()
        wait_until(lambda: http_status(http_port) == 503)  # HTTP serves, and no worker can compute
        machine.wait_ready()
        server.wait_ready()
        wait_until(lambda: http_status(http_port) == 200)
        with client_of(server) as client:
            for part_name, part in golden["parts"].items():
                vectors = client.encode(part["texts"], is_tokenized=part["is_tokenized"])
                np.testing.assert_allclose(vectors, arrays[part_name], rtol=0, atol=1e-5)
            [shown] = client.server_status["joined"]["machines"]
            assert shown["workers"] == 1
            [worker] = client.server_status["workers"]
            assert worker["machine"] == shown["name"]
            assert "vector space: " in machine.log
            assert "-drift_reference" not in machine.log  # the front observes the drift
            assert "-drift_reference" in server.log
            assert machine.stop() == 0
            wait_until(lambda: not client.server_status["joined"]["machines"])
            assert client.server_status["state"] == "degraded"
            wait_until(lambda: http_status(http_port) == 503)
        assert server.stop() == 0


@pytest.mark.minutes
def test_machines_compute_for_the_models_whose_folders_they_have(tmp_path: Path) -> None:
    golden: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, file_name in (("tiny", "mean_default"), ("last", "mean_layer-1")):
        with np.load(GOLDEN / f"{file_name}.npz") as file:
            texts = json.loads((GOLDEN / f"{file_name}.json").read_text())["parts"]["plain"]["texts"]
            golden[name] = texts, file["plain"]

    def check(server: Front, name: str) -> None:
        with BertClient(
            port=server.port, port_out=server.port_out, timeout=60_000, model=name, check_length=False
        ) as client:
            texts, vectors = golden[name]
            np.testing.assert_allclose(client.encode(texts), vectors, atol=1e-5)

    with front("-model", f"last={TINY},pooling_layer=-1,num_worker=0") as server, client_of(server) as client:
        second = server.machine("-model", f"last={TINY}", model_dir=None).wait_ready()
        assert "no folder of tiny, so other workers compute for it" in second.log
        check(server, "last")
        assert client.server_status["state"] == "starting"  # the first model has no workers
        first = server.machine("-model", f"last={TINY}").wait_ready()
        server.wait_ready()
        check(server, "tiny")
        status = client.server_status
        assert status["num_ready_worker"] == 3
        offered = [each["models"] for each in status["joined"]["machines"]]
        assert offered == [["last"], ["tiny", "last"]]
        assert {each["model"]: each["machine"] for each in status["workers"]}.keys() == {"tiny", "last"}
        folder = tmp_path / "other"
        shutil.copytree(TINY, folder)
        for source in TINY_TUNED.glob("model.ckpt-343*"):
            shutil.copy(source, folder / source.name.replace("model.ckpt-343", "bert_model.ckpt"))
        wrong = server.machine("-model", f"last={folder}")
        unknown = server.machine("-model", f"third={TINY}", model_dir=None)
        assert [wrong.wait_end(), unknown.wait_end()] == [3, 3]
        assert "model last: this machine has a model with the digest" in wrong.log
        assert "-model third: the front has no model with this name; its models are tiny, last" in unknown.log
        assert first.stop() == 0
        wait_until(lambda: client.server_status["state"] == "degraded", what="the loss of the first model's workers")
        check(server, "last")


@pytest.mark.minutes
def test_an_unloaded_model_is_computed_by_machines_meanwhile() -> None:
    server = Front("-idle_unload", "1").wait_open()
    try:
        server.wait_ready()
        machine = server.machine().wait_ready()
        with client_of(server) as client:
            wait_until(lambda: "worker-0 is unloaded" in server.log, what="the end of the own worker")
            wait_until(lambda: client.server_status["workers"], what="the worker of the machine")
            (worker,) = client.server_status["workers"]
            assert worker["machine"] == client.server_status["joined"]["machines"][0]["name"]
            assert client.encode(["hello world"]).shape == (1, 32)
            wait_until(lambda: client.encode(["a"]).shape and len(client.server_status["workers"]) == 2)
        assert machine.stop() == 0
        assert server.stop() == 0
    finally:
        server.kill()


# ---------------------------------------------------------------- terms


@pytest.fixture(scope="module")
def strict() -> Iterator[Front]:
    """A front that no machine of these tests may join."""
    with front() as server:
        yield server


class Stranger:
    """Speaks the protocol between machines without a model."""

    def __init__(self, port: int) -> None:
        self.context = zmq.Context()
        # ZeroMQ ignores a connection with the identity of one whose end it has not noticed.
        identity = b"stranger~" + secrets.token_hex(2).encode()
        self.socket = joining.join_socket(self.context, zmq.DEALER, 10, 2**20, IDENTITY=identity)
        self.socket.connect(f"tcp://127.0.0.1:{port}")

    def ask(self, *frames: bytes) -> list[bytes]:
        self.socket.send_multipart(frames)
        assert self.socket.poll(30_000), "no answer"
        return self.socket.recv_multipart()

    def offer(self, **changes: Any) -> list[bytes]:
        kind, content = self.ask(joining.QUERY_TERMS, b"stranger")
        assert kind == joining.TERMS
        terms = joining.decode(content, type=FrontTerms).terms
        offer = Offer(msgspec.structs.replace(terms, **changes), "here", ["cpu"], "zeros", "fp32")
        return self.ask(joining.JOIN, b"stranger", joining.encode(offer))

    def close(self) -> None:
        self.context.destroy(linger=0)


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "protocol": (
        {"protocol": 99, "version": "9.9.9"},
        ("version 99", f"front version {joining.JOIN_PROTOCOL}", "9.9.9"),
    ),
    "model": ({"model": "0f0f"}, ("digest 0f0f", "the front one with", "copy the front")),
    "precision": ({"precision": ["int8"]}, ("computes in int8", "the front in fp32", "-dtype")),
    "space": ({"vector_space": "abc"}, ("space abc", "those of the front of", "-engine")),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_terms_are_refused_with_both_values(strict: Front, what: str) -> None:
    changes, words = REFUSED[what]
    stranger = Stranger(strict.join_port)
    try:
        kind, reason = stranger.offer(**changes)
        assert kind == joining.REFUSED
        assert not [word for word in words if word not in reason.decode()], reason
        kind, _ = stranger.ask(joining.MACHINE_HEARTBEAT, b"stranger", joining.encode(joining.MachineReport([], False)))
        assert kind == joining.UNKNOWN_MACHINE
    finally:
        stranger.close()


def test_a_machine_of_another_protocol_has_other_fields_and_is_refused_too(strict: Front) -> None:
    stranger = Stranger(strict.join_port)
    try:
        kind, reason = stranger.ask(joining.JOIN, b"stranger", b'{"terms": {"protocol": 7}, "new": 1}')
        assert kind == joining.REFUSED
        assert b"version 7" in reason
    finally:
        stranger.close()


@pytest.mark.parametrize("frames", [[b"JOIN"], [b"JOIN", b"\xff", b"{}"], [b"REGISTER", b"[]"], [b"?"], [b"REGISTER"]])
def test_a_message_that_cannot_be_read_harms_no_one(strict: Front, frames: list[bytes]) -> None:
    stranger = Stranger(strict.join_port)
    try:
        stranger.socket.send_multipart(frames)
        assert stranger.offer(model="other")[0] == joining.REFUSED
    finally:
        stranger.close()


def test_a_machine_with_another_model_ends_before_it_loads_it(strict: Front, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(TINY, folder)
    for source in TINY_TUNED.glob("model.ckpt-343*"):
        shutil.copy(source, folder / source.name.replace("model.ckpt-343", "bert_model.ckpt"))
    machine = strict.machine(model_dir=folder)
    assert machine.wait_end() == 3
    assert "this machine has a model with the digest" in machine.log
    assert "checkpoint:" not in machine.log  # the first line of the process that reads the weights


# ---------------------------------------------------------------- keys


def test_a_machine_needs_a_key_of_its_own_and_a_client_has_none(tmp_path: Path) -> None:
    keys, client_keys, own = tmp_path / "keys", tmp_path / "client_keys", tmp_path / "own"
    assert keygen([str(keys), "gpu1"]) == 0
    assert keygen([str(client_keys), "alice"]) == 0
    own.mkdir()
    shutil.copy(keys / "server.key", own)
    shutil.copy(keys / "gpu1.key_secret", own)
    stolen = tmp_path / "stolen"
    stolen.mkdir()
    shutil.copy(keys / "server.key", stolen)
    shutil.copy(client_keys / "alice.key_secret", stolen)
    with front("-engine", "zeros", "-join_keys", keys, "-auth_keys", client_keys) as server:
        refused = [server.machine("-join_keys", stolen), server.machine()]
        admitted = server.machine("-engine", "zeros", "-join_keys", own).wait_ready()
        server.wait_ready()
        for machine in refused:
            wait_until(lambda machine=machine: "does not accept the keys" in machine.log, what=machine.log)  # type: ignore[misc]
            assert machine.stop() == 0
            assert "joined the front" not in machine.log
        assert admitted.stop() == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["10.0.0.1"], "is not HOST:PORT"),
        (["fd00::1:5557"], "is not HOST:PORT"),
        (["host:99999"], "is not a port"),
        (["no host:5557"], "is not HOST:PORT"),
        (["host:5557", "-num_worker", "0"], "must be at least 1"),
        (["host:5557", "-join_keys", "/nowhere"], "needs the secret key of this machine alone, but has none"),
    ],
)
def test_a_wrong_command_line_is_explained(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bert_serving.server.cli.join import join

    with pytest.raises(SystemExit) as end:
        join([*args, "-model_dir", str(TINY)])
    assert end.value.code == 2
    assert words in capsys.readouterr().err
