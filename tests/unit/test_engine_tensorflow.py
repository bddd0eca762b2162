"""Tests the engine tensorflow: vectors, independence of the batch, loading and errors."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, EngineError, EngineSpec, EngineUnavailable, OutOfMemory
from bert_serving.server.engines.batch import Batch
from bert_serving.server.engines.layout import make_layout
from bert_serving.server.engines.tensorflow import engine as engine_module
from bert_serving.server.engines.tensorflow import graph_api, runtime, saved_graph
from bert_serving.server.engines.tensorflow.graph import FEEDS
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.errors import ReaderMissing
from bert_serving.server.model.tensorflow_import import import_tensorflow
from bert_serving.server.model.weights import load_weights
from model_folders import TINY, copy_tiny
from oracle import MODEL, gelu, gelu_new, pack, reference, sequences
from poolings import ENGINE_POOLINGS

pytestmark = pytest.mark.skipif(
    engine_module.unavailable("cpu", "fp32") is not None, reason=str(engine_module.unavailable("cpu", "fp32"))
)
Make = Callable[..., engine_module.TensorflowEngine]


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def make(cache_dir: str) -> Make:
    """Returns engines of the tiny model by the fields of their spec, each created once."""
    made: dict[EngineSpec, engine_module.TensorflowEngine] = {}

    def of(**fields: object) -> engine_module.TensorflowEngine:
        spec = EngineSpec(**{"model": MODEL, "cache_dir": cache_dir, **fields})  # type: ignore[arg-type]
        if spec not in made:
            engine_module.prepare(spec, lambda _: None)
            made[spec] = engine_module.create(spec, Device(threads=2))
        return made[spec]

    return of


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


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_vector_is_independent_of_the_batch(make: Make, strategy: str) -> None:
    """Alone, among 63 others of mixed lengths, and in another order: equal within 1e-5."""
    engine = make(pooling_strategy=strategy)
    ids = sequences([1, 2, 3, 64, 40, 12, 12, 5, *[1 + (7 * number) % 60 for number in range(56)]])
    together = engine.encode(pack(ids))
    backwards = engine.encode(pack(ids[::-1]))
    if strategy == "NONE":
        alone = np.concatenate([engine.encode(pack([row])) for row in ids])
        ends = np.cumsum([len(row) for row in ids[::-1]])[:-1]
        backwards = np.concatenate(np.split(backwards, ends)[::-1])
    else:
        alone = np.concatenate([engine.encode(pack([row])) for row in ids])
        backwards = backwards[::-1]
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_allclose(together, backwards, rtol=0, atol=1e-5)


def test_split_batch_keeps_its_order(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = sequences([30, 2, 64, 5, 5, 41])
    for strategy in ("REDUCE_MEAN", "NONE"):
        engine = make(pooling_strategy=strategy)
        whole = engine.encode(pack(ids))
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_max_grid", 1)
            np.testing.assert_allclose(engine.encode(pack(ids)), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_fully_masked_sequence_is_finite(make: Make, strategy: str) -> None:
    ids = sequences([2, 9, 3])
    batch = pack(ids, [[0, 0], [1] * 9, [0, 0, 0]])
    vectors = make(pooling_strategy=strategy).encode(batch)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors).max() < 100
    empty = {"REDUCE_MEAN": [0, 2], "REDUCE_MAX": [0, 2], "REDUCE_MEAN_MAX": [0, 2], "NONE": [0, 1, 11, 12, 13]}
    assert not vectors[empty.get(strategy, [])].any()
    alone = make(pooling_strategy=strategy).encode(pack(ids[:1], [[0, 0]]))
    np.testing.assert_allclose(vectors[: len(alone)], alone, rtol=0, atol=1e-5)


def test_first_and_last_token_are_independent_of_the_mask(make: Make) -> None:
    """The original used the second-last word for [SEP] with -mask_cls_sep."""
    batch = pack(sequences([6, 4]), [[0, 1, 1, 1, 1, 0], [0, 1, 1, 0]])
    layers = [layers[-2] for layers in reference(batch, gelu)]
    for strategy, place in (("CLS_TOKEN", 0), ("SEP_TOKEN", -1)):
        vectors = make(pooling_strategy=strategy).encode(batch)
        np.testing.assert_allclose(vectors, [layer[place] for layer in layers], atol=1e-5)


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "REDUCE_MAX", "NONE"])
def test_float16_output(make: Make, strategy: str) -> None:
    """The original returned -inf for the maximum."""
    batch = pack(sequences([4, 9]))
    halves = make(pooling_strategy=strategy, output_dtype="float16").encode(batch)
    assert halves.dtype == np.float16
    assert np.isfinite(halves).all()
    np.testing.assert_allclose(halves, make(pooling_strategy=strategy).encode(batch), atol=5e-3)


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE", "SEP_TOKEN"])
def test_xla_gives_the_same_vectors(make: Make, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "XLA_COUNTS", (1, 4))  # compiling all of them takes twice as long
    batch = pack(sequences([4, 11, 1, 7, 30]), [[1] * 4, [0, *[1] * 10], [1], [1] * 7, [1] * 30])
    plain = make(pooling_strategy=strategy).encode(batch)
    compiled = make(pooling_strategy=strategy, xla=True, max_seq_len=30)
    np.testing.assert_allclose(compiled.encode(batch), plain, rtol=0, atol=1e-5)


#: Prints the number of modules that XLA has dumped after the start, and after batches of many shapes.
_COUNT_COMPILATIONS = """
import sys
from pathlib import Path
import numpy as np
from bert_serving.server.engines.tensorflow import engine as engine_module
from bert_serving.server.engines.base import Device, EngineSpec
from oracle import MODEL, pack, sequences

spec = EngineSpec(MODEL, sys.argv[1], xla=True, max_seq_len=20)
engine_module.prepare(spec, lambda _: None)
count = lambda: len(list(Path(sys.argv[2]).glob("*before_optimizations.txt")))
engine = engine_module.create(spec, Device(threads=1))
before = count()
random = np.random.default_rng(0)
for number in (1, 2, 3, 5, 16, 17, 40, 64, 100, *random.integers(1, 200, 20)):
    engine.encode(pack(sequences(random.integers(1, 21, number).tolist())))
print(before, count(), *engine.startup_notes)
"""


def test_xla_compiles_nothing_after_the_start(cache_dir: str, tmp_path: Path) -> None:
    env = {
        **os.environ,
        # Optimization changes the duration of a compilation, not the number of compilations.
        "XLA_FLAGS": f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text --xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-c", _COUNT_COMPILATIONS, cache_dir, str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    before, after, note = done.stdout.split(maxsplit=2)
    assert int(before) >= 8
    assert after == before
    assert note.startswith("XLA: compiled 8 shapes in ")
    assert "1/4/16/64 x 16, 1/4/16/64 x 20 tokens" in note


@given(st.integers(1, 2000), st.integers(1, 512), st.integers(1, 1 << 23))
@settings(max_examples=300, deadline=None)
def test_batches_fit_the_shapes_of_xla(number: int, longest: int, max_grid: int) -> None:
    shapes = engine_module.xla_shapes(longest, max_grid)
    assert sum(map(len, shapes.values())) <= 24
    for length in {1, longest // 2 + 1, longest}:
        width, counts = engine_module.xla_bucket(length, shapes)
        assert length <= width
        assert width < 2 * length or width == min(16, longest)
        pieces = engine_module.split_into_buckets(number, counts)
        assert set(pieces) <= set(counts)
        assert sum(pieces[:-1]) < number <= sum(pieces)
        assert all(count == 1 or count * width**2 <= max_grid for count in pieces)
        assert sum(pieces) < 2 * number


@pytest.mark.skipif(
    engine_module.unavailable("cpu", "bf16") is not None, reason=str(engine_module.unavailable("cpu", "bf16"))
)
def test_bf16_is_close_to_fp32(make: Make) -> None:
    batch = pack(sequences([4, 9, 30, 64]))
    near, exact = make(dtype="bf16").encode(batch), make().encode(batch)
    assert near.dtype == np.float32
    cosine = np.sum(near * exact, -1) / (np.linalg.norm(near, axis=-1) * np.linalg.norm(exact, axis=-1))
    assert cosine.min() > 0.999
    assert not np.array_equal(near, exact)


def test_no_position_embeddings(make: Make) -> None:
    engine = make(use_position_embeddings=False)
    one = sequences([6])[0]
    batch = Batch(one, np.zeros(6, np.int32), np.ones(6, np.int32), np.array([6], np.int32))
    turned = Batch(one[::-1].copy(), np.zeros(6, np.int32), np.ones(6, np.int32), np.array([6], np.int32))
    np.testing.assert_allclose(engine.encode(batch), engine.encode(turned), rtol=0, atol=1e-5)
    assert engine.encode(pack(sequences([100]))).shape == (1, 32)  # no table, no limit


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
    import tensorflow as tf

    engine = make()
    raised: list[Exception] = []

    def fail(*_: object) -> None:
        raise raised[-1]

    monkeypatch.setattr(engine, "_function", fail)
    for error, expected in (
        (tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor"), OutOfMemory),
        (tf.errors.InternalError(None, None, "CUDA_ERROR_OUT_OF_MEMORY"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (tf.errors.InternalError(None, None, "illegal memory access"), EngineError),
    ):
        raised.append(error)
        with pytest.raises(EngineError, match="1 sequences of up to 3 tokens") as caught:
            engine.encode(pack(sequences([3])))
        assert type(caught.value) is expected


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_graph_without_the_api_gives_the_same_bits(cache_dir: str, dtype: str) -> None:
    if (reason := engine_module.unavailable("cpu", dtype)) is not None:
        pytest.skip(reason)
    batch = pack(sequences([4, 12, 1]), [[0, 1, 1, 1], [1] * 12, [1]])
    for strategy in ("REDUCE_MEAN_MAX", "CLS_POOLED"):
        spec = EngineSpec(MODEL, cache_dir, pooling_strategy=strategy, dtype=dtype, output_dtype="float16")
        engine_module.prepare(spec, lambda _: None)
        folders = saved_graph.find(spec)
        assert folders is not None
        feeds = [getattr(make_layout(batch), name) for name in FEEDS]
        runtimes = (runtime.CpuRuntime(Device(), folders), runtime.ApiRuntime(Device(), folders, xla=False))
        for fused, output in ((True, "vectors"), (False, "vectors"), (True, "tokens")):
            alone, traced = (each.load(fused, output)(feeds) for each in runtimes)
            np.testing.assert_array_equal(alone, traced)
            assert alone.dtype == (np.float16 if output == "vectors" else np.float32)


def test_the_graph_is_that_of_the_api(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("gelu", "REDUCE_MEAN_MAX", "fp32"), ("gelu_new", "NONE", "bf16"), ("relu", "CLS_POOLED", "fp16")
    for act, strategy, dtype in (*names, ("tanh", "SEP_TOKEN", "fp32")):
        model = dataclasses.replace(MODEL, hidden_act=act)
        spec = EngineSpec(model, "", pooling_strategy=strategy, pooling_layers=(-1, -2), dtype=dtype)
        for fused in (True, False):
            of_parts = saved_graph._graph(graph_api._import_parts("this test"), spec, fused)
            assert of_parts == saved_graph._graph(import_tensorflow("this test"), spec, fused)

    def lacks(purpose: str, *names: str) -> None:
        raise ReaderMissing(f"no module {names[0]}")

    monkeypatch.setattr(graph_api, "import_modules", lacks)
    assert graph_api.import_graph_api("this test") is import_tensorflow("this test")


def test_preparing_imports_no_api(tmp_path: Path) -> None:
    """Runs in a separate process, like that which prepares the model."""
    code = (
        "import sys\n"
        "from bert_serving.server.engines.tensorflow import engine as t\n"
        "from bert_serving.server.engines.base import *\n"
        "from bert_serving.server.model.config import load_model_config\n"
        f"spec = EngineSpec(load_model_config({str(TINY)!r}), {str(tmp_path / 'cache')!r})\n"
        "t.prepare(spec, lambda _: None)\n"
        "print(*(name for name in sys.modules if name.startswith('tensorflow._api')))\n"
        "print(t.saved_graph.find(spec) is not None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("\nTrue\n", "")


def test_the_api_is_used_where_it_is_needed(
    cache_dir: str, monkeypatch: pytest.MonkeyPatch, make: Make, tmp_path: Path
) -> None:
    make()
    folders = saved_graph.find(EngineSpec(MODEL, cache_dir))
    assert folders is not None
    assert isinstance(runtime.open_runtime(Device(), folders, False), runtime.CpuRuntime)
    assert isinstance(runtime.open_runtime(Device(), folders, True), runtime.ApiRuntime)
    (tmp_path / "tensorflow-plugins").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))  # plugins for other devices: the package loads them
    assert isinstance(runtime.open_runtime(Device(), folders, False), runtime.ApiRuntime)


def test_a_version_without_the_modules_uses_the_api(
    cache_dir: str, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    make()
    folders = saved_graph.find(EngineSpec(MODEL, cache_dir))
    assert folders is not None

    def lacks(purpose: str, *names: str) -> None:
        raise ReaderMissing(f"no module {names[0]}")

    monkeypatch.setattr(runtime, "import_modules", lacks)
    assert isinstance(runtime.open_runtime(Device(), folders, False), runtime.ApiRuntime)


def test_closed_engine_raises(cache_dir: str) -> None:
    engine = engine_module.create(EngineSpec(MODEL, cache_dir), Device())
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode(pack(sequences([3])))


def test_missing_pooling_layer_raises(cache_dir: str) -> None:
    with pytest.raises(ValueError, match="pooling layer -5 does not exist: the model has 4 layers"):
        engine_module.prepare(EngineSpec(MODEL, cache_dir, pooling_layers=(-5,)), lambda _: None)


def test_prepare_writes_once_and_create_restores_a_deleted_cache(tmp_path: Path) -> None:
    lines: list[str] = []
    spec = EngineSpec(MODEL, str(tmp_path / "cache"))
    engine_module.prepare(spec, lines.append)
    assert [line.split(" ", 2)[:2] for line in lines] == [["load", "parameters"], ["build", "graph"]]
    engine_module.prepare(spec, lines.append)
    assert len(lines) == 2
    for entry in Cache(spec.cache_dir).root.glob("tensorflow-*/*"):
        entry.unlink()
    assert engine_module.create(spec, Device()).encode(pack(sequences([3]))).shape == (1, 32)


def test_changed_weights_invalidate_the_cache(tmp_path: Path) -> None:
    folder = copy_tiny(tmp_path)
    spec = EngineSpec(load_model_config(folder), str(tmp_path / "cache"))
    batch = pack(sequences([5]))
    engine_module.prepare(spec, lambda _: None)
    before = engine_module.create(spec, Device()).encode(batch)
    data = next((folder.parents[0] / "tiny").glob("*.data-*"))
    tuned = next((TINY.parent / "tiny_tuned").glob("*.data-*"))
    index = next((TINY.parent / "tiny_tuned").glob("*.index"))
    data.write_bytes(tuned.read_bytes())
    (folder / "bert_model.ckpt.index").write_bytes(index.read_bytes())
    engine_module.prepare(spec, lambda _: None)
    assert np.abs(engine_module.create(spec, Device()).encode(batch) - before).max() > 1e-3


def test_availability_by_device_and_dtype() -> None:
    assert engine_module.unavailable("cpu", "fp32") is None
    assert "float16" in str(engine_module.unavailable("cpu", "fp16"))
    assert "not int8" in str(engine_module.unavailable("gpu", "int8"))
    assert "no bf16 instructions" in str(engine_module.unavailable("cpu", "bf16", frozenset({"avx2"})))
    assert engine_module.unavailable("cpu", "bf16", frozenset({"avx2", "avx512_bf16"})) is None
    assert engine_module.INFO in engines.available("cpu", "fp32")
    with pytest.raises(EngineUnavailable, match="engine tensorflow cannot run on cpu with dtype int8"):
        engines.choose("tensorflow", "cpu", "int8")


def test_missing_gpu_raises(cache_dir: str) -> None:
    """Runs in a separate process, since devices can be set once per process."""
    code = (
        "from bert_serving.server.engines.tensorflow import engine as t\n"
        "from bert_serving.server.engines.base import *\n"
        "from bert_serving.server.model.config import load_model_config\n"
        f"spec = EngineSpec(load_model_config({str(TINY)!r}), {cache_dir!r})\n"
        "try: t.create(spec, Device('gpu', 99))\n"
        "except EngineUnavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "finds no GPU, but gpu: 99 is configured" in done.stdout, done.stderr


def test_worker_process_writes_no_stderr_and_maps_the_weights(cache_dir: str) -> None:
    """Runs in a separate process, like a worker: stderr is empty, and the weights are pages of the file."""
    engine_module.prepare(EngineSpec(MODEL, cache_dir), lambda _: None)
    code = (
        "import numpy as np, sys\n"
        "from bert_serving.server.engines.tensorflow import engine as t\n"
        "from bert_serving.server.engines.base import *\n"
        "from bert_serving.server.model.config import load_model_config\n"
        f"spec = EngineSpec(load_model_config({str(TINY)!r}), {cache_dir!r})\n"
        "engine = t.create(spec, Device(threads=1))\n"
        "ones = np.ones(5, np.int32)\n"
        "print(engine.encode(Batch(ones, ones * 0, ones, np.array([2, 3], np.int32))).shape)\n"
        "if sys.platform == 'linux': print('weights.bin' in open('/proc/self/maps').read())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["(2, 32)", "True" if sys.platform == "linux" else ""]
