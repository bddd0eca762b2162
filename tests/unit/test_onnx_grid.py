"""Tests the bodies of the graph of the engine onnx for long sequences."""

# ruff: noqa: E402 (imports follow the check for the libraries)

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import ARCHITECTURES, batch_of, save_and_load
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
onnx = pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.layout import make_layout, select_sequences
from bert_serving.server.engines.onnx import engine as engine_module
from bert_serving.server.engines.onnx import grid as grid_module
from bert_serving.server.engines.onnx.encoder import build
from bert_serving.server.engines.onnx.grid import LONG_TOKENS, is_long, split_long
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.weights import load_weights

TINY = load_model_config(Path(__file__).parent.parent / "data" / "golden" / "models" / "tiny")


def make(tmp_path: Path, model: Any = TINY, **fields: Any) -> engine_module.OnnxEngine:
    spec = EngineSpec(model=model, cache_dir=str(tmp_path / "cache"), pooling_layers=(-1,), **fields)
    engine_module.prepare(spec, lambda _: None)
    return engine_module.create(spec, Device(threads=1))


def alone(batch: Batch) -> list[Batch]:
    return [select_sequences(batch, np.array([index]))[0] for index in range(batch.num_sequences)]


@pytest.fixture
def short_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid_module, "LONG_TOKENS", 12)


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN_MAX", "SEP_TOKEN"])
@pytest.mark.parametrize("family", ["bert", *ARCHITECTURES])
@pytest.mark.usefixtures("short_is_long")
def test_bodies_give_the_same_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, strategy: str
) -> None:
    model = TINY if family == "bert" else save_and_load(tmp_path, family)
    engine = make(tmp_path, model, pooling_strategy=strategy)
    for lengths in ([5], [7, 7, 7], [12], [30, 30]):
        batch = batch_of(lengths)
        found = engine.encode(batch)
        with monkeypatch.context() as patched:
            patched.setattr(engine_module, "is_long", lambda _: False)
            expected = engine.encode(batch)
        assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())
        if max(lengths) < 12:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.usefixtures("short_is_long")
def test_bits_of_a_vector_do_not_depend_on_the_batch(tmp_path: Path, dtype: str) -> None:
    engine = make(tmp_path, dtype=dtype)
    batch = batch_of([3, 40, 12, 12, 11, 3, 40, 64])
    together = engine.encode(batch)
    np.testing.assert_array_equal(together, np.concatenate([engine.encode(each) for each in alone(batch)]))


@given(
    lengths=st.lists(st.sampled_from([1, 2, 191, 192, 193, 300]), min_size=1, max_size=12),
    masked=st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_long_sequences_without_masked_tokens_are_grouped_by_length(lengths: list[int], masked: list[bool]) -> None:
    tokens = sum(lengths)
    mask = np.ones(tokens, np.int32)
    mask[[end - 1 for end, is_masked in zip(np.cumsum(lengths), masked, strict=False) if is_masked]] = 0
    batch = Batch(np.ones(tokens, np.int32), np.zeros(tokens, np.int32), mask, np.array(lengths, np.int32))
    groups, others = split_long(batch)
    assert sorted(index for group in [*groups, others] for index in group) == list(range(len(lengths)))
    for group in groups:
        assert is_long(make_layout(select_sequences(batch, group)[0]))
    for index in others:
        assert lengths[index] < LONG_TOKENS or masked[index]


@pytest.mark.parametrize("family", ["bert", *ARCHITECTURES])
def test_bodies_share_all_weights(tmp_path: Path, family: str) -> None:
    model = TINY if family == "bert" else save_and_load(tmp_path, family)
    spec = EngineSpec(model=model, cache_dir="", pooling_layers=(-1,), pooling_strategy="CLS_TOKEN")
    weights = load_weights(model, need_pooler=False)

    def num_bytes(**options: Any) -> int:
        tensors = build(spec, weights, **options).graph.initializer
        return sum(len(tensor.raw_data) for tensor in tensors if len(tensor.raw_data) >= 256)

    assert num_bytes() == num_bytes(any_batch=True)


def test_weights_are_read_one_level_deep() -> None:
    """ONNX Runtime does not prepack weights for bodies within bodies: each run would do it again."""
    spec = EngineSpec(model=TINY, cache_dir="", pooling_layers=(-1,))
    graph = build(spec, load_weights(TINY, need_pooler=False)).graph
    assert {depth for depth, node in nodes(graph) if node.op_type == "MatMul"} == {1}


def nodes(graph: Any, depth: int = 0) -> Iterator[tuple[int, Any]]:
    """Yields each node of a graph and its bodies, with its depth."""
    for node in graph.node:
        yield depth, node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g, depth + 1)
