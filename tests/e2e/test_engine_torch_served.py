"""Tests the engine torch in a server, and benchmark/gpu.py with a small model on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bert_serving.client import BertClient
from bert_serving.server.engines.torch import engine as engine_module
from servers import CACHE, DATA, serving

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    engine_module.unavailable("cpu", "fp32") is not None, reason=str(engine_module.unavailable("cpu", "fp32"))
)


@pytest.mark.parametrize("name", ["mean_default", "none_mask_cls_sep"])
def test_golden_vectors_are_served(name: str) -> None:
    path = DATA / "golden" / "tiny" / f"{name}.json"
    golden = json.loads(path.read_text())
    with np.load(path.with_suffix(".npz")) as file:
        expected = dict(file)
    with serving(*golden["args"], "-engine", "torch", "-threads", "1") as server:
        client = BertClient(port=server.port, port_out=server.port_out, timeout=60_000, check_length=False)
        assert client.server_config["engine_in_use"] == "torch"
        for part, content in golden["parts"].items():
            vectors = client.encode(content["texts"], is_tokenized=content["is_tokenized"])
            np.testing.assert_allclose(vectors, expected[part], rtol=0, atol=1e-5)
        client.close()
        assert "use device cpu, engine torch, fp32" in server.log


def test_gpu_script_runs(tmp_path: Path) -> None:
    small = ["--device", "cpu", "--size", "tiny", "--dtype", "fp32", "--length", "16", "--batch_tokens", "256"]
    quick = [
        "--workers",
        "1",
        "--tokenizers",
        "1",
        "--clients",
        "2",
        "--seconds",
        "0.05",
        "--peak",
        "1",
        "--out",
        "gpu",
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmark" / "gpu.py"), *small, *quick],
        cwd=tmp_path,
        env={**os.environ, "BERT_SERVING_CACHE": CACHE},
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu" / "gpu.json").read_text("utf-8"))
    one, many, *rows = result["rows"]
    assert (one["detail"].split(",")[0], many["detail"].split(",")[0]) == (
        "1 sequence at a time",
        "32 sequences at a time",
    )
    assert [(row["how"], row["detail"]) for row in rows] == [
        ("engine", "256 tokens a batch"),
        ("served", "1 worker, 1 tokenizer process, 2 clients"),
    ]
    for row in rows:
        # 2 layers, hidden size 128, intermediate size 512, 16 tokens; of a peak of 1 TFLOP/s
        operations = 2 * 2 * (4 * 128 * 128 + 2 * 128 * 512 + 2 * 16 * 128)
        assert row["mfu"] == pytest.approx(row["tokens_per_second"] * operations / 1e12)
        assert row["tokens_per_second"] > 0
    assert result["vectors"][0]["worst_cosine"] > 0.99999
    assert (tmp_path / "gpu" / "gpu.md").read_text("utf-8") in done.stdout
