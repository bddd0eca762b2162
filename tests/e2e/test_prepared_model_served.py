"""What the start prepared is what every process serves until the server ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from bert_serving.client import BertClient
from model_folders import hf_tensors, write_hf
from preparation import prepare
from servers import Server, free_ports, wait_until

TEXTS = ["hello world", "a longer text than the first one", "x"]


def make_folder(folder: Path, factor: float = 1.0, prompt: str = "hello ") -> Path:
    """Writes a sentence-transformers folder with a prompt and Dense; ``factor`` scales weights, ``prompt`` is its own.

    Two folders of different factors have files of the same names and sizes.
    """
    tensors = {name: np.float32(factor) * tensor for name, tensor in hf_tensors().items()}
    write_hf(folder, tensors)
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    if factor != 1.0:  # the same tokens with other ids
        lines = (folder / "vocab.txt").read_text("utf-8").split("\n")
        lines[200:-1] = lines[-2:199:-1]
        (folder / "vocab.txt").write_text("\n".join(lines), "utf-8")
    types = {"": "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in types.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    dense = folder / "2_Dense"
    dense.mkdir(exist_ok=True)
    (dense / "config.json").write_text(
        json.dumps({"in_features": size, "out_features": 8, "activation_function": "torch.nn.Identity"})
    )
    weight = np.random.default_rng(int(factor)).standard_normal((8, size)).astype(np.float32)
    save_file(
        {"linear.weight": weight, "linear.bias": np.full(8, factor, np.float32)}, str(dense / "model.safetensors")
    )
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": prompt}, "default_prompt_name": "query"})
    )
    return folder


def restart(server: Server, *names: str) -> None:
    """Kills processes, and waits until all are back."""
    children = [server.child(name) for name in names]
    lines = len(server.log.splitlines())
    for child in children:
        child.kill()

    def is_back() -> bool:
        log = "\n".join(server.log.splitlines()[lines:])
        return "all processes are back" in log and log.count("it is started again") == len(names)

    wait_until(is_back, what="all processes are back")


def over_http(port: int) -> np.ndarray:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/encode", json.dumps({"id": 1, "texts": TEXTS}))
        return np.array(json.loads(connection.getresponse().read())["result"], np.float32)
    finally:
        connection.close()


@pytest.mark.parametrize(
    "engine",
    ["onnx", *(pytest.param(name, marks=pytest.mark.minutes) for name in ("torch", "tensorflow"))],
)
def test_only_what_the_start_prepared_is_served(engine: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    folder, cache = make_folder(tmp_path / "model"), tmp_path / "cache"
    (http_port,) = free_ports(1)
    server = Server(
        "-engine", engine, "-http_port", str(http_port), model_dir=folder, env={"BERT_SERVING_CACHE": str(cache)}
    ).wait_ready()
    try:
        with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
            served = client.encode(TEXTS)
            served_http = over_http(http_port)
            np.testing.assert_allclose(served_http, served, rtol=1e-5, atol=1e-6)

            make_folder(folder, factor=2.0, prompt="x x x ")
            # A process that locks the cache, to write to it, fails from here on.
            (cache / "lock").unlink()
            (cache / "lock").mkdir()
            restart(server, "worker-0", "ventilator", "http")
            np.testing.assert_array_equal(client.encode(TEXTS), served)
            np.testing.assert_array_equal(over_http(http_port), served_http)

            shutil.rmtree(folder)
            shutil.rmtree(cache)
            restart(server, "worker-0", "ventilator", "http")
            np.testing.assert_array_equal(client.encode(TEXTS), served)
            np.testing.assert_array_equal(over_http(http_port), served_http)
            assert "is written again" in server.log

        weights = max(cache.glob("*-*/*"), key=lambda path: path.stat().st_size)
        before = weights.stat()
        os.utime(weights)  # a change of times only is no damage
        restart(server, "worker-0")
        with open(weights, "r+b") as file:
            file.seek(before.st_size // 2)
            file.write(bytes(64))
        os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert server.process.wait(60) == 4
        assert f"{weights} of the prepared model was overwritten" in server.log.splitlines()[-1]
    finally:
        server.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems verify the cache at each start")
def test_a_start_prepares_only_what_the_cache_lacks(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder, cache = make_folder(tmp_path / "model"), tmp_path / "cache"
    prepare("-engine", "onnx", model_dir=folder, cache=cache)

    def start() -> tuple[str, np.ndarray]:
        server = Server("-engine", "onnx", model_dir=folder, env={"BERT_SERVING_CACHE": str(cache)}).wait_ready()
        try:
            with BertClient(port=server.port, port_out=server.port_out, timeout=60_000) as client:
                return server.log, client.encode(TEXTS)
        finally:
            server.kill()

    log, vectors = start()
    assert "the cache has the prepared model: onnx, fp32" in log
    assert "load parameters" not in log

    weights = max(cache.glob("*-*/*"), key=lambda path: path.stat().st_size)
    before = weights.stat()
    with open(weights, "r+b") as file:
        file.seek(before.st_size // 2)
        file.write(bytes(64))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    log, again = start()
    assert "the cache has the prepared model" not in log
    assert "load parameters" in log
    np.testing.assert_array_equal(again, vectors)
