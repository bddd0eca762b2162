"""Tests how the engine onnx computes families beyond BERT: in int8, with shared weights, of any size and length."""

# ruff: noqa: E402 (imports follow the check for the libraries)

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import family_models
import numpy as np
import pytest
from family_models import ARCHITECTURES, LONG, SIZES, batch_of, save_and_load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from bert_serving.server.engines.base import Device, EngineError, EngineSpec
from bert_serving.server.engines.layout import Layout, make_layout
from bert_serving.server.engines.onnx import engine as engine_module
from bert_serving.server.engines.onnx.encoder import build
from bert_serving.server.model.config import ModelConfig, load_model_config, parse_config
from bert_serving.server.model.weights import expected_shapes, load_weights


def make(model: ModelConfig, folder: Path, **fields: Any) -> engine_module.OnnxEngine:
    spec = EngineSpec(model=model, cache_dir=str(folder / "cache"), pooling_layers=(-1,), **fields)
    engine_module.prepare(spec, lambda _: None)
    return engine_module.create(spec, Device(threads=1))


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_int8_is_close_to_fp32(tmp_path: Path, family: str) -> None:
    model = save_and_load(tmp_path, family)
    batch = batch_of([30, 60, 90])
    exact, found = (
        make(model, tmp_path, pooling_strategy="NONE", dtype=dtype).encode(batch) for dtype in ("fp32", "int8")
    )
    cosines = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.99


def test_layers_with_the_same_weights_share_them_in_the_graph(tmp_path: Path) -> None:
    model = save_and_load(tmp_path, "albert")
    spec = EngineSpec(model=model, cache_dir=str(tmp_path), pooling_layers=(-1,))
    graph = build(spec, load_weights(model, need_pooler=False), any_batch=True).graph
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert sum(node.op_type == "Softmax" for node in graph.node) == 5
    assert shapes.count((32, 96)) == shapes.count((48, 32)) == 2  # of two groups


def test_tokens_beyond_the_tables_are_refused(tmp_path: Path) -> None:
    engine = make(save_and_load(tmp_path, "mpnet"), tmp_path, use_position_embeddings=False)
    with pytest.raises(EngineError, match=f"exceeds the {LONG} positions"):
        engine.encode(batch_of([LONG + 1]))


def alibi_model() -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Returns a model with biases by distance, as JinaBERT, and random weights."""
    sizes = SIZES | {"position_embedding_type": "alibi", "feed_forward_type": "geglu", "max_position_embeddings": LONG}
    model = ModelConfig("", "", "", "", "safetensors", False, **parse_config(sizes, "config.json"))
    random = np.random.default_rng(0)
    shapes = expected_shapes(model, model.num_hidden_layers, need_pooler=False)
    return model, {name: random.normal(size=shape).astype(np.float32) * 0.15 for name, shape in shapes.items()}


@pytest.mark.parametrize("family", ["alibi", "bert", *ARCHITECTURES])
@pytest.mark.parametrize("max_scores", [1 << 20, 3999])
@pytest.mark.parametrize("is_long", [False, True])
def test_vectors_of_one_token_are_those_of_all(tmp_path: Path, family: str, max_scores: int, is_long: bool) -> None:
    """The highest layer computes one query of each sequence, or all of them for ``encode_tokens``."""
    if family == "alibi":
        model, weights = alibi_model()
    else:
        values = ARCHITECTURES.get(family, ("Bert", SIZES | {"max_position_embeddings": LONG}))
        family_models.save(tmp_path, values)
        model = load_model_config(tmp_path)
        weights = load_weights(model, need_pooler=False)
    batch = batch_of([LONG, LONG] if is_long else [23, 1, LONG, 7, 90])
    ends = np.cumsum(batch.lengths)
    if not is_long:
        batch.mask[[0, 5, 22, 40]] = 0
        batch.mask[ends[2] : ends[3]] = 0  # a sequence without keys
    layout = make_layout(batch)
    every = dataclasses.replace(layout, first=np.arange(len(batch.mask), dtype=np.int32))
    every = dataclasses.replace(every, last=every.first)

    def compute(strategy: str, layout: Layout) -> list[np.ndarray]:
        spec = EngineSpec(model=model, cache_dir="", pooling_layers=(-1,), pooling_strategy=strategy)
        graph = build(spec, weights, max_scores=max_scores, has_tokens=True)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        return engine_module._compute(session, layout)

    expected = compute("NONE", layout)[-1]
    for strategy, tokens in (("CLS_TOKEN", ends - batch.lengths), ("SEP_TOKEN", ends - 1)):
        np.testing.assert_allclose(compute(strategy, layout)[0], expected[tokens], rtol=0, atol=1e-5)
        np.testing.assert_allclose(compute(strategy, every)[-1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_deterministic", [False, True])
@pytest.mark.parametrize("family", ["mpnet", "electra", "gte"])
def test_the_highest_layer_has_no_keys_of_all_tokens(tmp_path: Path, family: str, is_deterministic: bool) -> None:
    """Equal bits, and keys that depend on their position, need them."""
    spec = EngineSpec(
        save_and_load(tmp_path, family), "", "CLS_TOKEN", pooling_layers=(-1,), deterministic=is_deterministic
    )
    graph = build(spec, load_weights(spec.model, need_pooler=False), any_batch=True).graph
    kinds = [node.op_type for node in graph.node if node.op_type in ("Softmax", "MultiHeadAttention")]
    computes_all = family == "gte" or is_deterministic
    assert kinds == ["Softmax", "Softmax", "Softmax" if computes_all else "MultiHeadAttention"]


@pytest.mark.parametrize("family", ["modernbert", "gte", "mpnet"])
@pytest.mark.parametrize("max_scores", [1, 3999])
def test_blocks_of_queries_give_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, max_scores: int
) -> None:
    model = save_and_load(tmp_path, family)
    batch = batch_of([1, 7, LONG, 23, 90, LONG])
    expected = make(model, tmp_path / "whole", pooling_strategy="NONE").encode(batch)
    monkeypatch.setattr(engine_module, "MAX_GRID", max_scores)
    found = make(model, tmp_path / "blocks", pooling_strategy="NONE").encode(batch)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_blocks_of_a_model_with_biases_by_distance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, weights = alibi_model()
    spec = EngineSpec(model=model, cache_dir="", pooling_layers=(-1,), pooling_strategy="NONE")
    layout = make_layout(batch_of([LONG, 23]))
    found = []
    for max_scores in (1 << 20, 2 * LONG, 3999):
        session = onnxruntime.InferenceSession(build(spec, weights, max_scores=max_scores).SerializeToString())
        found.append(engine_module._compute(session, layout)[0])
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("hidden", "heads"), [(18, 3), (20, 4)])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_any_size_of_bert_is_computed(tmp_path: Path, hidden: int, heads: int, dtype: str) -> None:
    # ONNX Runtime reads prepacked weights at addresses that are multiples of 64 bytes.
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 46}
    family = ("Bert", SIZES | {"max_position_embeddings": 41} | sizes)
    reference = family_models.save(tmp_path / "model", family)
    batch = batch_of([7, 30])
    found = make(load_model_config(tmp_path / "model"), tmp_path, pooling_strategy="NONE", dtype=dtype).encode(batch)
    expected = np.concatenate(family_models.hidden_states(reference, batch, -1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "fp32" else 0.2)
