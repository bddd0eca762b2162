"""The engine onnx gives equal bits for equal tokens, whatever shares their batch."""

# ruff: noqa: E402 (imports follow the check for the libraries)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import ARCHITECTURES, LONG, save_and_load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.onnx import engine as engine_module
from bert_serving.server.model.config import ModelConfig, load_model_config
from servers import TINY as TINY_FOLDER

TINY = load_model_config(TINY_FOLDER)
LENGTHS = (1, 2, 3, 5, 7, 8, 13, 16, 17, 33, 63, 65, 90, 129, LONG)


def make(model: ModelConfig, folder: Path, threads: int = 1, **fields: Any) -> engine_module.OnnxEngine:
    spec = EngineSpec(model=model, cache_dir=str(folder / "cache"), pooling_layers=(-1,), **fields)
    engine_module.prepare(spec, lambda _: None)
    return engine_module.create(spec, Device(threads=threads))


def sequences(model: ModelConfig) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    lengths = [length for length in LENGTHS if length <= model.max_tokens]
    return [random.integers(5, model.vocab_size, length, np.int32) for length in lengths]


def join(rows: list[np.ndarray], is_masked: bool = False) -> Batch:
    """Returns the batch of sequences; masked: without the first and the last token, as with ``-mask_cls_sep``."""
    ids, lengths = np.concatenate(rows), np.array([len(row) for row in rows], np.int32)
    mask, ends = np.ones_like(ids), np.cumsum(lengths)
    if is_masked:
        mask[ends - 1] = mask[ends - lengths] = 0
    return Batch(ids, ids * 0, mask, lengths)


def check(model: ModelConfig, folder: Path, is_masked: bool = False, **fields: Any) -> None:
    """Compares each sequence alone, in one thread, with itself in random company, in one or three threads."""
    rows = sequences(model)
    one, three = make(model, folder, **fields), make(model, folder, threads=3, **fields)
    expected = [one.encode(join([row], is_masked)) for row in rows]
    random = np.random.default_rng(1)
    for number in range(8):
        chosen = random.integers(0, len(rows), random.integers(2, 12))
        found = (one, three)[number % 2].encode(join([rows[index] for index in chosen], is_masked))
        assert np.array_equal(found, np.concatenate([expected[index] for index in chosen])), (number, chosen)
    one.close()
    three.close()


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_every_family(tmp_path: Path, family: str) -> None:
    check(save_and_load(tmp_path, family), tmp_path, pooling_strategy="NONE")


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("strategy", ["NONE", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED"])
@pytest.mark.parametrize("is_masked", [False, True])
def test_every_pooling(tmp_path: Path, strategy: str, dtype: str, is_masked: bool) -> None:
    check(TINY, tmp_path, is_masked, pooling_strategy=strategy, dtype=dtype)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_wide_layers(tmp_path: Path, dtype: str) -> None:
    sizes = {"hidden_size": 640, "intermediate_size": 1300, "num_attention_heads": 10, "num_hidden_layers": 1}
    check(save_and_load(tmp_path, "electra", **sizes), tmp_path, pooling_strategy="REDUCE_MEAN", dtype=dtype)


def test_blocks_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_GRID", 3999)
    check(save_and_load(tmp_path, "modernbert"), tmp_path, pooling_strategy="NONE")
