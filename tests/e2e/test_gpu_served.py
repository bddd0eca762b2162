"""Servers with workers on a real GPU: golden vectors, precisions, mixed workers, shares of memory, placement.

Skipped where there is no NVIDIA GPU. ``make gpu`` runs them, and the measurements, on a machine that has one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.server import engines
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.engines.nvml import GpuMeter, list_gpus
from servers import DATA, TINY, Server, serving, wait_until

GPUS = list_gpus()
pytestmark = pytest.mark.skipif(not GPUS, reason="there is no NVIDIA GPU here")

ENGINES = ("tensorflow", "torch")
GIB = 2**30
#: Memory that a CUDA context takes beside what a worker may use for the model.
CONTEXT = 2 * GIB


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine that can use a GPU here."""
    try:
        engines.choose(request.param, "gpu", "fp32")
    except EngineUnavailable as error:
        pytest.skip(str(error))
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MiniLM's shape with random weights: large enough that 16 bits and shares of memory matter."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("mini")
    shutil.copy(TINY / "vocab.txt", folder)
    config = transformers.BertConfig(
        vocab_size=len((TINY / "vocab.txt").read_text("utf-8").splitlines()), hidden_size=384, num_hidden_layers=6,
        num_attention_heads=12, intermediate_size=1536, max_position_embeddings=512,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(folder)
    return folder


@contextlib.contextmanager
def served(*args: str, **options: object) -> Iterator[tuple[Server, BertClient]]:
    with (
        serving(*args, cpu=False, **options) as server,
        BertClient(port=server.port, port_out=server.port_out, timeout=120_000, check_length=False) as client,
    ):
        yield server, client


def texts(number: int) -> list[str]:
    return [f"the number {index} is what we want" for index in range(number)]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The least of all rows."""
    return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())


@pytest.mark.parametrize("name", ["mean_default", "none_mask_cls_sep", "cls_pooled"])
def test_golden_vectors(engine: str, name: str) -> None:
    path = DATA / "golden" / "tiny" / f"{name}.json"
    golden = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        expected = dict(file)
    with served(*golden["args"], "-engine", engine, "-dtype", "fp32", "-device_map", "0") as (server, client):
        assert [worker["device"] for worker in client.server_status["workers"]] == ["gpu: 0"]
        assert client.server_config["engine_in_use"] == engine
        for part, content in golden["parts"].items():
            vectors = client.encode(content["texts"], is_tokenized=content["is_tokenized"])
            np.testing.assert_allclose(vectors, expected[part], rtol=0, atol=1e-4)
    assert "fall back to CPU" not in server.log


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_16_bits_are_close(engine: str, dtype: str, mini: Path) -> None:
    flags = ["-engine", engine, "-device_map", "0"]
    with served(*flags, "-dtype", "fp32", model_dir=mini) as (_, client):
        exact = client.encode(texts(300))
    with served(*flags, "-dtype", dtype, model_dir=mini) as (server, client):
        together = client.encode(texts(300))
        assert cosine(together, exact) > 0.99
        for number in (1, 7, 60):  # batches of other sizes, which have kernels or CUDA graphs of their own
            assert cosine(client.encode(texts(number)), together[:number]) > 0.999
        for _ in range(4):  # one is prepared while another is computed
            client.encode(texts(4000), blocking=False)
        every = client.fetch_all() or []
        assert [cosine(found[:300], together) > 0.999 for found in every] == [True] * 4
        if engine == "torch":
            assert "CUDA graphs for batches of up to 16384 tokens" in server.log


def test_without_a_map_a_free_gpu_is_chosen_and_the_status_tells_its_use(engine: str) -> None:
    with served("-engine", engine) as (server, client):
        client.encode(texts(100))
        if "is free" in server.log:
            pytest.skip("all GPUs are in use")
        (worker,) = client.server_status["workers"]
        assert worker["device"].startswith("gpu: ")
        wait_until(lambda: "gpu_memory_used" in client.server_status["workers"][0], what="the use of the GPU")
        (worker,) = client.server_status["workers"]
        assert 0 < worker["gpu_memory_used"] <= worker["gpu_memory_total"]


def test_gpu_and_cpu_side_by_side(engine: str) -> None:
    flags = ["-engine", engine, "-dtype", "fp32", "-num_worker", "2", "-device_map", "0", "-1", "-max_batch_size", "8"]
    with served(*flags) as (server, client):
        together = client.encode(texts(2000))
        done = {worker["device"]: worker["sequences"] for worker in client.server_status["workers"]}
        assert set(done) == {"gpu: 0", "cpu"}
        assert all(done.values()), done
        # Whichever worker computed it, a text has the same vector.
        alone = np.concatenate([client.encode([text]) for text in texts(40)])
        np.testing.assert_allclose(together[:40], alone, rtol=0, atol=1e-4)
        assert "fall back to CPU" not in server.log


def test_two_workers_share_a_gpu_and_its_memory(engine: str, mini: Path) -> None:
    total, before = memory()
    share = 0.1
    flags = ["-engine", engine, "-num_worker", "2", "-device_map", "0", "0", "-gpu_memory_fraction", str(share)]
    with served(*flags, model_dir=mini) as (_, client):
        for _ in range(3):
            client.encode(texts(3000))
        _, now = memory()
        assert [worker["device"] for worker in client.server_status["workers"]] == ["gpu: 0", "gpu: 0"]
    assert now - before <= 2 * (share * total + CONTEXT)


def memory() -> tuple[int, int]:
    """Bytes of the first GPU, and how many of them are used."""
    facts = GpuMeter(0).read()
    return int(facts["gpu_memory_total"]), int(facts["gpu_memory_used"])


def test_a_worker_that_dies_on_a_gpu_is_replaced_and_nothing_is_lost(engine: str) -> None:
    with served("-engine", engine, "-device_map", "0", "-dtype", "fp32") as (server, client):
        expected = client.encode(texts(500))
        killed = threading.Timer(0.2, server.child("worker-0").kill)
        killed.start()
        for _ in range(5):
            np.testing.assert_allclose(client.encode(texts(500)), expected, rtol=0, atol=1e-4)
        killed.join()
        wait_until(lambda: client.server_status["num_restarts"] == 1, 120, "the worker to be replaced")
        np.testing.assert_allclose(client.encode(texts(500)), expected, rtol=0, atol=1e-4)


def test_the_cpu_can_be_asked_for(engine: str) -> None:
    with served("-engine", engine, "-cpu", "-dtype", "fp32") as (_, client):
        client.encode(texts(10))
        assert [worker["device"] for worker in client.server_status["workers"]] == ["cpu"]


def test_a_gpu_that_is_not_there_is_an_error_that_names_those_that_are() -> None:
    server = Server("-engine", "auto", "-device_map", str(len(GPUS)), cpu=False)
    try:
        assert server.process.wait(60) != 0
        assert f"-device_map names GPU {len(GPUS)}, but this machine has" in server.log
    finally:
        server.kill()


def test_where_no_gpu_is_visible_the_fall_back_is_said_aloud(engine: str) -> None:
    with served("-engine", engine, "-dtype", "fp32", env={"CUDA_VISIBLE_DEVICES": "-1"}) as (server, client):
        client.encode(texts(10))
        assert "no GPU available, fall back to CPU" in server.log
