"""With ``deterministic``, the engine onnx gives equal bits for equal tokens, whatever shares their batch.

Without it, the vectors are within the limit of 1e-6.
"""

# ruff: noqa: E402 (imports follow the check for the libraries)

from __future__ import annotations

from collections.abc import Iterator
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
from bert_serving.server.engines.layout import Layout
from bert_serving.server.engines.onnx import engine as engine_module
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.pipeline import Dense, LayerNorm, Normalize, SentencePipeline
from bert_serving.server.worker.sentence_head import SentenceHead
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


def in_company(
    model: ModelConfig, folder: Path, is_masked: bool = False, **fields: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields vectors of sequences alone, in one thread, and in random company, in one or three threads."""
    rows = sequences(model)
    one, three = make(model, folder, **fields), make(model, folder, threads=3, **fields)
    alone = [one.encode(join([row], is_masked)) for row in rows]
    alone_tokens = [one.encode_tokens(join([row], is_masked)) for row in rows]
    random = np.random.default_rng(1)
    companies = [random.integers(0, len(rows), random.integers(2, 12)) for _ in range(8)]
    companies += [np.full(3, len(rows) - 1), np.full(200, 0)]  # of one length
    for number, chosen in enumerate(companies):
        engine, batch = (one, three)[number % 2], join([rows[index] for index in chosen], is_masked)
        yield np.concatenate([alone[index] for index in chosen]), engine.encode(batch)
        if number < 2:  # requests may have a pooling of their own
            yield np.concatenate([alone_tokens[index] for index in chosen]), engine.encode_tokens(batch)
    one.close()
    three.close()


def check(model: ModelConfig, folder: Path, is_masked: bool = False, **fields: Any) -> None:
    """Compares the bits of each sequence alone with those in random company."""
    for alone, found in in_company(model, folder, is_masked, deterministic=True, **fields):
        assert found.tobytes() == alone.tobytes()


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


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "CLS_TOKEN"])
def test_the_limit_without_deterministic(tmp_path: Path, dtype: str, strategy: str) -> None:
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 6}
    model = save_and_load(tmp_path, "electra", **sizes)
    for alone, found in in_company(model, tmp_path, pooling_strategy=strategy, dtype=dtype):
        limits = 1e-6 * np.maximum(1, np.linalg.norm(alone, axis=1, keepdims=True))
        assert (np.abs(found - alone) <= limits).all()


@pytest.mark.parametrize("width", [1, 32, 384, 9000])
def test_modules_after_the_pooling(width: int) -> None:
    random = np.random.default_rng(width)
    rows = random.standard_normal((40, width), dtype=np.float32)
    dense = Dense("", width, 400, True, "GELU")
    pipeline = SentencePipeline("", (), (Normalize(), dense, LayerNorm("", 400), Normalize()))
    weights = {
        "1/weight": random.standard_normal((400, width), dtype=np.float32),
        "1/bias": random.standard_normal(400, dtype=np.float32),
        "2/weight": random.standard_normal(400, dtype=np.float32),
        "2/bias": random.standard_normal(400, dtype=np.float32),
    }
    head = SentenceHead(pipeline, width, weights, deterministic=True)

    def apply(rows: np.ndarray) -> np.ndarray:
        ones = np.ones(len(rows), np.int32)
        return head.apply(rows, Batch(ones, ones * 0, ones, ones))

    together = apply(rows)
    for start, stop in [(0, 1), (39, 40), (3, 5), (7, 24), (20, 40)]:
        assert apply(rows[start:stop].copy()).tobytes() == together[start:stop].tobytes()


def test_the_grid_has_no_rest_of_a_vector_register(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only ARM needs it: there, the softmax adds the rest of a row in another order."""
    widths = []
    compute = engine_module._compute

    def record(session: Any, layout: Layout, *output: int) -> list[np.ndarray]:
        widths.append(layout.unpack.shape[1])
        return compute(session, layout, *output)

    monkeypatch.setattr(engine_module, "_compute", record)
    check(TINY, tmp_path, pooling_strategy="NONE")
    assert len(widths) > 20
    assert all(width % engine_module.GRID_MULTIPLE == 0 for width in widths)


def test_blocks_of_queries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_GRID", 3999)
    check(save_and_load(tmp_path, "modernbert"), tmp_path, pooling_strategy="NONE")
