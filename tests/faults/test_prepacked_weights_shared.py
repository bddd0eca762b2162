"""Tests a server with the engine torch whose workers share prepacked weights: no private copy, also after kills."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.weights import expected_shapes
from fault_helpers import connect
from model_folders import hf_tensors, write_hf
from servers import Server, serving, wait_until

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.timeout(290),
    pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux"),
    pytest.mark.skipif(engine_module.unavailable("cpu", "fp32") is not None, reason="the engine torch cannot run"),
]
SHARED = "dense layers by oneDNN, prepacked weights that all workers share"
SIZES = {"hidden_size": 256, "num_hidden_layers": 8, "intermediate_size": 1024, "num_attention_heads": 4}


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """Returns a model of 25 MiB: smaller ones have no shared weights."""
    folder = write_hf(tmp_path / "model", hf_tensors(), **SIZES)
    random = np.random.default_rng(0)
    shapes = expected_shapes(load_model_config(folder), 8, True)
    weights = {name: random.normal(scale=0.05, size=shape).astype(np.float32) for name, shape in shapes.items()}
    return write_hf(folder, hf_tensors(weights=weights), **SIZES)


def mapped(server: Server, worker: str) -> list[tuple[int, int]]:
    """Returns resident and private bytes of the prepacked weights in a worker, for each of its mappings."""
    maps = psutil.Process(server.child(worker).pid).memory_maps(grouped=False)
    return [(each.rss, each.private_dirty) for each in maps if each.path.endswith("/prepacked.bin")]


def test_workers_map_one_copy_also_after_a_kill(model_dir: Path) -> None:
    flags = ("-engine", "torch", "-dtype", "fp32", "-num_worker", "2", "-threads", "1", "-verbose")
    texts = [f"hello {'world ' * (number % 20)}{number % 10}" for number in range(64)]
    with serving(*flags, model_dir=model_dir) as server, connect(server, timeout=120_000) as client:
        expected = client.encode(texts)
        assert server.log.count(SHARED) == 2
        server.child("worker-0").kill()
        wait_until(lambda: client.server_status["num_restarts"] == 1, 120, "a restart")
        wait_until(lambda: server.log.count(SHARED) == 3, 120, "the weights of the new worker")
        np.testing.assert_allclose(client.encode(texts), expected, rtol=0, atol=1e-5)
        for worker in ("worker-0", "worker-1"):
            found = mapped(server, worker)
            assert sum(resident for resident, _ in found) > 10 << 20, (worker, found)
            assert all(private == 0 for _, private in found), (worker, found)
        first_log = server.log
    assert first_log.count("write prepacked weights for all workers") == 1
    with serving(*flags, model_dir=model_dir) as server, connect(server, timeout=120_000) as client:
        np.testing.assert_allclose(client.encode(texts), expected, rtol=0, atol=1e-5)
        assert server.log.count(SHARED) == 2
        assert "the cache has the prepared model: torch, fp32" in server.log
