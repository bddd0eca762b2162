"""``-engine measure`` of real servers: engines that crash or fail are left out, and the choice is kept."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import psutil
import pytest
from joining import Front, JoinedMachine

from bert_serving.client import BertClient
from model_folders import hf_tensors, random_weights, write_hf
from servers import Server, serving, wait_until

#: A library whose import ends the process, one whose import fails, and one whose import takes forever.
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
FAILS = "raise RuntimeError('the library is broken')"
HANGS = "import time; time.sleep(3600)"


def write_library(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(code)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is read without a library of an engine."""
    return write_hf(tmp_path_factory.mktemp("models") / "tiny", hf_tensors(weights=random_weights()))


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An empty cache of models, and the folder of libraries that come before the installed ones."""
    return {"BERT_SERVING_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path / "libraries")}


def space_and_vectors(server: Server) -> tuple[dict[str, object], np.ndarray]:
    with BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False) as client:
        return client.server_status, client.encode(["hello world", "a b c"])


def test_engines_that_fail_are_left_out(model: Path, env: dict[str, str]) -> None:
    libraries = Path(env["PYTHONPATH"])
    write_library(libraries, "torch", CRASHES)
    write_library(libraries, "tensorflow", FAILS)
    with serving("-engine", "measure", model_dir=model, env=env) as server:
        status, _ = space_and_vectors(server)
        log = server.log
    assert status["engine_in_use"] == "onnx"
    assert "engine torch, dtype fp32 failed while it was measured: killed by SIGSEGV; it is not used" in log
    assert "engine tensorflow, dtype fp32 failed while it was measured: RuntimeError: the library is broken" in log
    assert "engine onnx, dtype fp32: the fastest measured on " in log
    assert "tensorflow fp32 failed, torch fp32 failed" in log


def test_a_signal_ends_a_server_while_it_measures(model: Path, env: dict[str, str], tmp_path: Path) -> None:
    write_library(Path(env["PYTHONPATH"]), "onnxruntime", HANGS)
    server = Server("-engine", "measure", model_dir=model, env={**env, "ZEROMQ_SOCK_TMP_DIR": str(tmp_path)})
    wait_until(lambda: server.process.poll() is not None or len(server.children()) == 1)
    children = server.children()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0, server.log
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert not list(tmp_path.glob("bert-serving-????????"))
    assert "GRAPHOPT" not in server.log


@pytest.mark.minutes
def test_the_second_engine_serves_if_the_first_crashes_and_it_is_kept(model: Path, env: dict[str, str]) -> None:
    libraries = Path(env["PYTHONPATH"])
    write_library(libraries, "onnxruntime", CRASHES)
    write_library(libraries, "tensorflow", HANGS)
    arguments = ("-engine", "measure", "-start_timeout", "60")
    with serving(*arguments, model_dir=model, env=env) as server:
        status, vectors = space_and_vectors(server)
        log = server.log
    assert status["engine_in_use"] == "torch"
    assert "engine onnx, dtype fp32 failed while it was measured: killed by SIGSEGV" in log
    assert "engine tensorflow, dtype fp32 failed while it was measured: not ready after 60 s (-start_timeout)" in log
    for name in ("onnxruntime", "tensorflow"):  # installed, and no process may import it
        write_library(libraries, name, "raise SystemExit('it is measured again')")
    with serving("-engine", "auto", model_dir=model, env=env) as server:
        again, same = space_and_vectors(server)
        log = server.log
    assert "engine torch, dtype fp32: the fastest measured on " in log
    assert "measuring" not in log
    np.testing.assert_array_equal(same, vectors)
    with serving("-engine", "onnx", model_dir=model) as server:
        usual, expected = space_and_vectors(server)
    assert usual["vector_space"] == again["vector_space"] == status["vector_space"]
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-5)


@pytest.mark.minutes
def test_the_start_is_refused_if_all_engines_fail(model: Path, env: dict[str, str]) -> None:
    for name in ("onnxruntime", "tensorflow", "torch"):
        write_library(Path(env["PYTHONPATH"]), name, FAILS)
    server = Server("-engine", "measure", model_dir=model, env=env)
    assert server.process.wait(60) == 3
    assert "-engine measure: all of onnx fp32, tensorflow fp32, torch fp32 failed: RuntimeError: the" in server.log


@pytest.mark.minutes
@pytest.mark.cluster
def test_a_machine_measures_its_own_processor_and_joins(model: Path, env: dict[str, str]) -> None:
    for name in ("tensorflow", "torch"):
        write_library(Path(env["PYTHONPATH"]), name, FAILS)
    server = Front("-num_worker", "0", "-join_timeout", "2", model_dir=model)
    try:
        machine = JoinedMachine(server.wait_open().join_port, "-engine", "measure", model_dir=model, env=env)
        machine.wait_ready()
        status, _ = space_and_vectors(server.wait_ready())
        assert [worker["engine"] for worker in status["workers"]] == ["onnx"]  # type: ignore[attr-defined]
        assert "engine onnx, dtype fp32: the fastest measured on " in machine.log
        assert machine.stop() == 0
        assert server.stop() == 0
    finally:
        server.kill()
