"""Tests the engine torch: vectors with and without padding, loading and errors."""

# ruff: noqa: E402 (imports follow the check for the library)

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from bert_serving.server import engines
from bert_serving.server.engines.base import (
    Device,
    DeviceLost,
    EngineError,
    EngineSpec,
    EngineUnavailable,
    OutOfMemory,
)
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.torch import device as torch_device
from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.weights import load_weights
from model_folders import TINY
from oracle import MODEL, gelu, gelu_new, pack, reference, sequences
from poolings import ENGINE_POOLINGS
from torch_engines import ONEDNN, Make, by_definition


@pytest.fixture
def without_padding(monkeypatch: pytest.MonkeyPatch) -> Callable[[engine_module.TorchEngine], None]:
    return lambda engine: monkeypatch.setattr(engine._encoder, "packed_attention", by_definition)


def test_vectors_of_tokens_are_beside_their_means(make: Make) -> None:
    """``encode_tokens`` gives the token vectors whose mean ``encode`` gives."""
    lengths = np.array([3, 30, 7, MODEL.max_tokens, 1] * 4, np.int32)
    ids = np.random.default_rng(0).integers(0, MODEL.vocab_size, int(lengths.sum()), np.int32)
    batch = Batch(ids, ids * 0, ids * 0 + 1, lengths)
    engine = make()
    tokens = engine.encode_tokens(batch)
    means = np.add.reduceat(tokens, np.cumsum(lengths) - lengths) / lengths[:, None]
    np.testing.assert_allclose(engine.encode(batch), means, atol=1e-5)


# -- vectors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "act"),
    [("gelu", gelu), ("gelu_new", gelu_new), ("relu", lambda x: np.maximum(x, 0)), ("tanh", np.tanh)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_token_vectors_match_the_reference(make: Make, name: str, act: Callable[[np.ndarray], np.ndarray]) -> None:
    batch = pack(sequences([5, 1, 17, 9]), [[0, 1, 1, 0, 1], [1], [1] * 17, [0, *[1] * 7, 0]])
    engine = make(
        model=dataclasses.replace(MODEL, hidden_act=name), pooling_strategy="NONE", pooling_layers=(-1, 0, -3)
    )
    expected = np.concatenate(
        [np.concatenate([layers[3], layers[0], layers[1]], -1) for layers in reference(batch, act)]
    )
    np.testing.assert_allclose(engine.encode(batch), expected * batch.mask[:, None], atol=1e-5)


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_poolings_match_the_token_vectors(make: Make, strategy: str) -> None:
    batch = pack(sequences([4, 12, 1, 7]))
    tokens = make(pooling_strategy="NONE", pooling_layers=(-1, -2)).encode(batch)
    parts = np.split(tokens, np.cumsum(batch.lengths)[:-1])
    weights = load_weights(MODEL)
    expected = {
        "NONE": tokens,
        "REDUCE_MEAN": [part.mean(0) for part in parts],
        "REDUCE_MAX": [part.max(0) for part in parts],
        "REDUCE_MEAN_MAX": [np.concatenate([part.mean(0), part.max(0)]) for part in parts],
        "CLS_TOKEN": [part[0] for part in parts],
        "SEP_TOKEN": [part[-1] for part in parts],
        "CLS_POOLED": [
            np.tanh(part[0, :32] @ weights["pooler/dense/kernel"] + weights["pooler/dense/bias"]) for part in parts
        ],
    }[strategy]
    vectors = make(pooling_strategy=strategy, pooling_layers=(-1, -2)).encode(batch)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_allclose(vectors, np.array(expected), atol=1e-5)


#: Equal lengths, and grids as large as the tokens, or as the rows of the dense layers, although sequences are padded.
@pytest.mark.parametrize("lengths", [[7, 7], [16], [16, 10], [16, 16], [12, 8, 4, 5], [33, 1]])
@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_rows_behind_the_tokens_change_no_vector(make: Make, lengths: list[int], strategy: str) -> None:
    engine = make(pooling_strategy=strategy)
    rows = sequences(lengths)
    alone = np.concatenate([engine.encode(pack([row])) for row in rows])
    np.testing.assert_allclose(engine.encode(pack(rows)), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_packed_attention_gives_the_same_vectors(
    make: Make, without_padding: Callable[[engine_module.TorchEngine], None], strategy: str
) -> None:
    engine = make(pooling_strategy=strategy)
    batches = [pack(sequences(lengths)) for lengths in ([4, 12, 1, 7, 64], [6, 6, 6], [1], [33])]
    hidden = pack(sequences([3, 5]), [[0, 1, 0], [1] * 5])  # a mask goes the way with padding
    expected = [engine.encode(batch) for batch in [*batches, hidden]]
    without_padding(engine)
    for batch, vectors in zip([*batches, hidden], expected, strict=True):
        np.testing.assert_allclose(engine.encode(batch), vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_vector_is_independent_of_the_batch(make: Make, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, among others of mixed lengths, in another order, in groups: equal within 1e-5."""
    engine = make(pooling_strategy=strategy)
    ids = sequences([1, 2, 3, 64, 40, 12, 12, 5, *[1 + (7 * number) % 60 for number in range(24)]])
    together = engine.encode(pack(ids))
    alone = np.concatenate([engine.encode(pack([row])) for row in ids])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    backwards = engine.encode(pack(ids[::-1]))
    if strategy == "NONE":
        backwards = np.concatenate(np.split(backwards, np.cumsum([len(row) for row in ids[::-1]])[:-1])[::-1])
    else:
        backwards = backwards[::-1]
    np.testing.assert_allclose(together, backwards, rtol=0, atol=1e-5)
    monkeypatch.setattr(engine, "_max_grid", 1)
    np.testing.assert_allclose(engine.encode(pack(ids)), together, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_fully_masked_sequence_is_finite(make: Make, strategy: str) -> None:
    ids = sequences([2, 9, 3])
    batch = pack(ids, [[0, 0], [1] * 9, [0, 0, 0]])
    vectors = make(pooling_strategy=strategy).encode(batch)
    assert np.isfinite(vectors).all()
    empty = {"REDUCE_MEAN": [0, 2], "REDUCE_MAX": [0, 2], "REDUCE_MEAN_MAX": [0, 2], "NONE": [0, 1, 11, 12, 13]}
    assert not vectors[empty.get(strategy, [])].any()
    alone = make(pooling_strategy=strategy).encode(pack(ids[:1], [[0, 0]]))
    np.testing.assert_allclose(vectors[: len(alone)], alone, rtol=0, atol=1e-5)


def test_first_and_last_token_are_independent_of_the_mask(make: Make) -> None:
    batch = pack(sequences([6, 4]), [[0, 1, 1, 1, 1, 0], [0, 1, 1, 0]])
    layers = [layers[-2] for layers in reference(batch, gelu)]
    for strategy, place in (("CLS_TOKEN", 0), ("SEP_TOKEN", -1)):
        vectors = make(pooling_strategy=strategy).encode(batch)
        np.testing.assert_allclose(vectors, [layer[place] for layer in layers], atol=1e-5)


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "REDUCE_MAX", "NONE"])
def test_float16_output(make: Make, strategy: str) -> None:
    batch = pack(sequences([4, 9]))
    halves = make(pooling_strategy=strategy, output_dtype="float16").encode(batch)
    assert halves.dtype == np.float16
    np.testing.assert_allclose(halves, make(pooling_strategy=strategy).encode(batch), atol=5e-3)


def test_bf16_is_close_to_fp32(make: Make, without_padding: Callable[[engine_module.TorchEngine], None]) -> None:
    batch = pack(sequences([4, 9, 30, 64]))
    engine, exact = make(dtype="bf16"), make().encode(batch)
    near = engine.encode(batch)
    assert near.dtype == np.float32
    assert not np.array_equal(near, exact)
    without_padding(engine)
    for vectors in (near, engine.encode(batch)):
        cosine = np.sum(vectors * exact, -1) / (np.linalg.norm(vectors, axis=-1) * np.linalg.norm(exact, axis=-1))
        assert cosine.min() > 0.999


def test_no_position_embeddings(make: Make) -> None:
    engine = make(use_position_embeddings=False)
    one, zeros, ones, length = sequences([6])[0], np.zeros(6, np.int32), np.ones(6, np.int32), np.array([6], np.int32)
    vectors = engine.encode(Batch(one, zeros, ones, length))
    turned = engine.encode(Batch(one[::-1].copy(), zeros, ones, length))
    np.testing.assert_allclose(vectors, turned, rtol=0, atol=1e-5)
    assert engine.encode(pack(sequences([100]))).shape == (1, 32)  # no table, no limit


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "types", "lengths", "message"),
    [
        ([1, 124], [0, 0], [2], "token ids must be in 0 to 123"),
        ([1, -1], [0, 0], [2], "token ids must be in 0 to 123"),
        ([1, 2], [0, 2], [2], "token types must be in 0 to 1"),
        ([1] * 65, [0] * 65, [65], "65 tokens exceeds the 64 positions"),
        ([1, 2], [0, 0], [2, 0], "at least one token"),
    ],
)
def test_invalid_batch_is_rejected(
    make: Make, ids: list[int], types: list[int], lengths: list[int], message: str
) -> None:
    batch = Batch(*(np.array(values, np.int32) for values in (ids, types, np.ones(len(ids)), lengths)))
    with pytest.raises(EngineError, match=message):
        make().encode(batch)
    assert make().encode(pack(sequences([3]))).shape == (1, 32)  # the engine still works


def test_out_of_memory_is_distinguished_from_other_errors(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The errors are raised by the test, which does not exhaust the memory of the machine."""
    engine = make()
    raised: list[Exception] = []

    def fail(*_: object) -> None:
        raise raised[-1]

    fail.packed_attention = None  # type: ignore[attr-defined]
    fail.dense = engine._encoder.dense  # type: ignore[attr-defined]
    monkeypatch.setattr(engine, "_encoder", fail)
    for error, lost, expected in (
        (torch.OutOfMemoryError("CUDA out of memory"), False, OutOfMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), False, OutOfMemory),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), False, OutOfMemory),
        (MemoryError(), False, OutOfMemory),
        (RuntimeError("illegal memory access"), True, DeviceLost),
        (RuntimeError("shapes do not match"), False, EngineError),
    ):
        raised.append(error)
        monkeypatch.setattr(engine, "_is_lost", lambda _, lost=lost: lost)
        with pytest.raises(EngineError, match="1 sequences of up to 3 tokens") as caught:
            engine.encode(pack(sequences([3])))
        assert type(caught.value) is expected


def test_closed_engine_raises(cache_dir: str) -> None:
    engine = engine_module.create(EngineSpec(MODEL, cache_dir), Device())
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode(pack(sequences([3])))


# -- loading ----------------------------------------------------------------------------------------------------------


def test_prepare_writes_once_and_create_restores_a_deleted_cache(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = EngineSpec(MODEL, str(tmp_path / "cache"))
    engine_module.prepare(spec, lines.append)
    assert [line.split(" ", 2)[:2] for line in lines] == [["load", "parameters"], ["write", "weights"]]
    engine_module.prepare(spec, lines.append)
    assert len(lines) == 2
    for entry in Cache(spec.cache_dir).root.glob("torch-*/*"):
        entry.unlink()
    assert engine_module.create(spec, Device()).encode(pack(sequences([3]))).shape == (1, 32)


def test_cache_has_no_layer_above_the_highest_pooling_layer(cache_dir: str) -> None:
    from safetensors import safe_open

    path = engine_module.torch_weights.write(EngineSpec(MODEL, cache_dir, pooling_layers=(-4, -3)), lambda _: None)
    with safe_open(str(path), framework="np") as file:
        names = set(file.keys())
    assert "encoder/layer_1/attention/self/qkv/weight" in names
    assert not any("layer_2" in name or "pooler" in name for name in names)


def test_availability_by_device_and_dtype(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_module.unavailable("cpu", "fp32") is None
    assert "float16" in str(engine_module.unavailable("cpu", "fp16"))
    assert "not int8" in str(engine_module.unavailable("gpu", "int8"))
    assert "no bf16 instructions" in str(engine_module.unavailable("cpu", "bf16", frozenset({"avx2"})))
    assert engine_module.unavailable("cpu", "bf16", frozenset({"avx2", "avx512_bf16"})) is None
    assert engines.available("cpu", "fp32")[-1] == engine_module.INFO
    with pytest.raises(EngineUnavailable, match="engine torch cannot run on cpu with dtype int8"):
        engines.choose("torch", "cpu", "int8")
    monkeypatch.setattr(engine_module, "_is_cpu_build", lambda _: False)
    assert engines.choose("auto", "gpu", "bf16") == "torch"
    with pytest.raises(ValueError, match="pooling layer -5 does not exist: the model has 4 layers"):
        engine_module.prepare(EngineSpec(MODEL, str(tmp_path), pooling_layers=(-5,)), lambda _: None)


@pytest.mark.parametrize(
    ("line", "expected"), [("cuda: Optional[str] = None", True), ("cuda: Optional[str] = '13.0'", False), ("", False)]
)
def test_build_without_cuda_is_detected_by_version_py(tmp_path: Path, line: str, expected: bool) -> None:
    (tmp_path / "version.py").write_text(f"__version__ = '2.13.0'\n{line}\n")
    assert engine_module._is_cpu_build(str(tmp_path / "__init__.py")) is expected
    assert not engine_module._is_cpu_build(None)


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch was built without CUDA")
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_raises(cache_dir: str) -> None:
    with pytest.raises(EngineUnavailable, match="finds no GPU, but gpu: 99 is configured"):
        engine_module.create(EngineSpec(MODEL, cache_dir), Device("gpu", 99))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this PyTorch was built with CUDA")
def test_build_without_cuda_selects_another_engine_for_the_gpu(cache_dir: str) -> None:
    assert "built without CUDA" in str(engine_module.unavailable("gpu", "bf16"))
    assert engine_module.INFO not in engines.available("gpu", "bf16")
    with pytest.raises(EngineUnavailable, match="finds no GPU, but gpu: 0 is configured"):
        torch_device.open_device(Device("gpu"), "bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("dtype", "least"), [("fp32", 0.999999), ("bf16", 0.999), ("fp16", 0.9999)])
@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_gpu_gives_the_same_vectors(make: Make, cache_dir: str, strategy: str, dtype: str, least: float) -> None:
    spec = EngineSpec(MODEL, cache_dir, pooling_strategy=strategy, dtype=dtype)
    engine = engine_module.create(spec, Device("gpu"))
    print(engine.startup_notes)
    for batch in (pack(sequences([4, 12, 1, 64])), pack(sequences([5, 3]), [[0, 1, 1, 1, 0], [0, 1, 0]])):
        vectors, exact = engine.encode(batch), make(pooling_strategy=strategy).encode(batch)
        shown = np.any(exact != 0, -1)
        assert not vectors[~shown].any()
        vectors, exact = vectors[shown], exact[shown]
        cosine = np.sum(vectors * exact, -1) / (np.linalg.norm(vectors, axis=-1) * np.linalg.norm(exact, axis=-1))
        assert cosine.min() > least


def test_worker_process_writes_no_stderr_and_maps_the_weights(cache_dir: str) -> None:
    """Runs in a separate process, like a worker: stderr is empty, and the weights are pages of the file."""
    engine_module.prepare(EngineSpec(MODEL, cache_dir), lambda _: None)
    code = (
        "import json, numpy as np\n"
        "from bert_serving.server.engines.torch import engine as t\n"
        "from bert_serving.server.engines.base import *\n"
        "from bert_serving.server.model.config import load_model_config\n"
        f"spec = EngineSpec(load_model_config({str(TINY)!r}), {cache_dir!r})\n"
        "engine = t.create(spec, Device(threads=1))\n"
        "ones = np.ones(5, np.int32)\n"
        "shape = engine.encode(Batch(ones, ones * 0, ones, np.array([2, 3], np.int32))).shape\n"
        "try: maps = open('/proc/self/maps').read()\n"
        "except OSError: maps = 'weights.safetensors'\n"
        "print(json.dumps([shape, 'weights.safetensors' in maps, engine.startup_notes]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert json.loads(done.stdout) == [[2, 32], True, [ONEDNN]]
    assert load_model_config(TINY) == MODEL
