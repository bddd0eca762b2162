"""Tests which kernels and graphs the engine torch uses: each only if it gives the right vectors.

GPU kernels do not run on the CPU. The tests replace the kernel for packed sequences by attention by definition, and
use kernels that are missing or wrong.
"""

# ruff: noqa: E402 (imports follow the check for the library)

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from bert_serving.server.engines.base import (
    Device,
    EngineSpec,
)
from bert_serving.server.engines.torch import cuda_graphs, onednn, prepacked
from bert_serving.server.engines.torch import device as torch_device
from bert_serving.server.engines.torch import encoder as torch_encoder
from bert_serving.server.engines.torch import engine as engine_module
from oracle import MODEL, pack, sequences
from poolings import ENGINE_POOLINGS
from torch_engines import CPU, ONEDNN, Make, by_definition, is_private, make_weights


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[engine_module.TorchEngine], torch_encoder.DenseLayers]:
    """Lets an engine compute dense layers as on a GPU."""

    def give(engine: engine_module.TorchEngine) -> torch_encoder.DenseLayers:
        layers = torch_encoder.DenseLayers(engine._spec, engine._encoder._weights)
        monkeypatch.setattr(engine._encoder, "dense", layers)
        return layers

    return give


@pytest.fixture
def stance() -> Iterator[None]:
    yield
    torch.compiler.set_stance("default")


def test_compiled_norm_serves_all_row_counts_without_recompilation(
    stance: None, cache_dir: str, make: Make, plain: Callable[[engine_module.TorchEngine], torch_encoder.DenseLayers]
) -> None:
    """The compiler of the test only traces; PyTorch compiles the trace."""
    compiled: list[object] = []
    calls: list[int] = []

    def trace(graph: Any, _: object) -> Any:
        compiled.append(graph)

        def run(*inputs: Any) -> Any:
            calls.append(1)
            return graph(*inputs)

        return run

    with torch.inference_mode():
        found, note = torch_device.compile_add_norm(CPU, torch.float32, 32, 1e-12, Path(cache_dir), trace)
    assert note == "layer normalization is compiled"
    assert len(compiled) == 1
    engine = make()
    batches = [pack(sequences(lengths)) for lengths in ([1], [2], [3, 40], [1, 1], [64] * 6)]
    expected = [engine.encode(batch) for batch in batches]
    plain(engine).add_norm = found
    for batch, vectors in zip(batches, expected, strict=True):
        calls.clear()
        np.testing.assert_allclose(engine.encode(batch), vectors, rtol=0, atol=1e-5)
        assert len(calls) == (0 if batch.num_tokens == 1 else 2 * 3)  # twice in each layer up to the pooled one
    assert len(compiled) == 1


@pytest.mark.parametrize("fits", [True, False])
def test_gpu_kernels_are_enabled_at_the_start(
    stance: None,
    cache_dir: str,
    fits: bool,
    plain: Callable[[engine_module.TorchEngine], torch_encoder.DenseLayers],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Runs the start of a GPU on the CPU, with attention by definition and a function compiled for other tensors."""
    calls: list[int] = []

    def trace(graph: Any, _: object) -> Any:
        return lambda *inputs: (calls.append(1), graph(*inputs))[1]

    def compile_here(plain_compile: Any, *args: Any) -> Any:
        with torch.inference_mode(fits):
            return plain_compile(*args, trace)

    for name in ("compile_add_norm", "compile_embed"):
        monkeypatch.setattr(torch_device, name, partial(compile_here, getattr(torch_device, name)))
    monkeypatch.setattr(torch_device, "varlen_attention", by_definition)
    torch.compiler.reset()
    engine = engine_module.TorchEngine(EngineSpec(MODEL, cache_dir, dtype="bf16"), Device(threads=1))
    batch = pack(sequences([4, 12, 1, 7]))
    before = engine.encode(batch)
    plain(engine)
    engine._enable_gpu_kernels()
    _, attention, gelu, *compiled, graphs = engine.startup_notes
    assert attention == "attention over packed sequences, no padding"
    assert gelu == "GELU in the kernel of its dense layer"
    assert graphs.startswith("small batches without CUDA graphs (")  # the CPU has none
    calls.clear()
    np.testing.assert_allclose(engine.encode(batch), before, rtol=0, atol=0.05)
    if fits:
        assert compiled == ["layer normalization is compiled", "embeddings are compiled"]
        assert len(calls) == 1 + 2 * 3
    else:
        assert compiled[0].startswith("no kernel is compiled (EngineError: ")
        assert "recompile" in compiled[0]
        assert not calls


def test_failed_or_wrong_compilation_is_not_used(stance: None, cache_dir: str) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError("no working compiler\nand many lines")

    def double(graph: Any, _: object) -> Any:
        return lambda *inputs: tuple(2 * output for output in graph(*inputs))

    for compiler, reason in ((fail, "no working compiler"), (double, "wrong result")):
        torch.compiler.reset()
        found, note = torch_device.compile_add_norm(CPU, torch.float32, 32, 1e-12, Path(cache_dir), compiler)
        assert found is torch_encoder.add_norm
        assert note.startswith("layer normalization is not compiled")
        assert reason in note
        assert "\n" not in note
        tables = [torch.randn(rows, 32) for rows in (97, 2, 31)] + [torch.randn(32) for _ in range(2)]
        found, note = torch_device.compile_embed(CPU, torch.float32, tables, 1e-12, Path(cache_dir), compiler)
        assert found is torch_encoder.embed
        assert note.startswith("embeddings are not compiled")
        assert reason in note


def test_packed_attention_is_used_only_if_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, note = torch_device.find_packed_attention(CPU, torch.bfloat16, MODEL)
    assert attention is None  # there is none for the CPU
    assert note.startswith("attention over padded groups: packed sequences are not available here (")
    assert "need bf16 or fp16" in torch_device.find_packed_attention(CPU, torch.float32, MODEL)[1]
    monkeypatch.setattr(torch_device, "varlen_attention", by_definition)
    assert torch_device.find_packed_attention(CPU, torch.bfloat16, MODEL) == (
        by_definition,
        "attention over packed sequences, no padding",
    )
    monkeypatch.setattr(torch_device, "varlen_attention", lambda query, *_: query)
    assert "wrong result" in torch_device.find_packed_attention(CPU, torch.bfloat16, MODEL)[1]


def test_onednn_layers_are_used_only_if_correct(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    spec, weights = engine._spec, engine._encoder._weights
    layers = torch_encoder.DenseLayers(spec, weights)
    with torch.inference_mode():
        found, note = onednn.select_dense_layers(spec, weights, layers)
        assert (type(found), note) == (onednn.OneDnnLayers, ONEDNN)
        for method in ("product", "activate", "normalize"):
            with monkeypatch.context() as patch:
                right = getattr(onednn.OneDnnLayers, method)
                patch.setattr(onednn.OneDnnLayers, method, lambda *args, right=right: 1.001 * right(*args))
                found, note = onednn.select_dense_layers(spec, weights, layers)
                assert found is layers
                assert note == (
                    "dense layers by plain PyTorch: oneDNN is not available here (ValueError: wrong result)"
                )
        monkeypatch.setattr(torch.ops, "mkldnn", object())  # as in a release that has them no longer
        found, note = onednn.select_dense_layers(spec, weights, layers)
    assert found is layers
    assert "AttributeError" in note


@pytest.mark.parametrize("strategy", ["REDUCE_MEAN", "NONE", "CLS_POOLED"])
def test_partitioned_batch_gives_the_same_vectors(cache_dir: str, make: Make, strategy: str) -> None:
    engine = engine_module.create(EngineSpec(MODEL, cache_dir, pooling_strategy=strategy), Device(threads=3))
    batch = pack(sequences([1 + (7 * number) % 60 for number in range(100)]))
    expected = make(pooling_strategy=strategy).encode(batch)
    try:
        assert len(engine._thread_pool.partition(batch.lengths)) == 3
        np.testing.assert_allclose(engine.encode(batch), expected, rtol=0, atol=1e-5)
    finally:
        engine.close()
        torch.set_num_threads(1)  # as the other tests have it


def over_slots(query: Any, key: Any, value: Any, ends: Any, longest: int, window: int = 0) -> Any:
    """As ``by_definition``, but sequences may be empty, and rows behind them are undefined."""
    result = torch.full_like(query, float("nan"))
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert end - start <= longest
        if end > start:
            qkv = torch.stack([query[start:end], key[start:end], value[start:end]], 1)
            result[start:end] = torch_device._plain_attention(qkv, window)
    return result


def repeat(compute: cuda_graphs.Compute) -> tuple[Callable[[], None], Any]:
    """Captures a computation as a CUDA graph does: its tensors stay where they are."""
    result = compute()

    def replay() -> None:
        result.copy_(compute())

    return replay, result


@pytest.mark.parametrize("strategy", ENGINE_POOLINGS)
def test_graphs_give_the_vectors_of_the_encoder(
    cache_dir: str, make: Make, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of any shape, one after the other, by graphs whose results are repeated computations here."""
    monkeypatch.setattr(cuda_graphs, "SIZES", (16, 64, 256))
    monkeypatch.setitem(cuda_graphs._TOLERANCE, torch.float32, 1e-5)
    spec = EngineSpec(MODEL, cache_dir, pooling_strategy=strategy)
    engine = engine_module.TorchEngine(spec, Device(threads=1))
    engine._encoder.dense = torch_encoder.DenseLayers(spec, engine._encoder._weights)
    engine._encoder.packed_attention = over_slots
    engine._graphs = cuda_graphs.capture_graphs(engine._encoder, spec, CPU, repeat)
    assert [(graph.max_tokens, graph.longest) for graph in engine._graphs.all] == [(16, 16), (64, 64), (256, 64)]
    used = []
    for lengths in ([3], [16], [17], [64], [1] * 4, [1] * 5, [60, 4], [64] * 4, [2] * 65, [64] * 5, [9, 1, 33]):
        batch = pack(sequences(lengths))
        graph = engine._graphs.find(batch)
        used.append(graph.max_tokens if graph else None)
        np.testing.assert_allclose(
            engine._start(batch)(), make(pooling_strategy=strategy).encode(batch), rtol=0, atol=1e-5
        )
    assert used == [16, 16, 64, 64, 16, 64, 64, 256, None, None, 64]
    engine.close()


def test_a_wrong_graph_is_not_used(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "SIZES", (16,))
    monkeypatch.setitem(cuda_graphs._TOLERANCE, torch.float32, 1e-5)
    engine = make()
    monkeypatch.setattr(engine._encoder, "packed_attention", over_slots)

    def stale(compute: cuda_graphs.Compute) -> tuple[Callable[[], None], Any]:
        return lambda: None, compute()

    with pytest.raises(ValueError, match="a graph of 16 tokens gives wrong vectors"):
        cuda_graphs.capture_graphs(engine._encoder, engine._spec, CPU, stale)


def test_gelu_in_the_kernel_of_its_layer_is_used_only_if_correct(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator computes on the CPU too."""
    found, note = torch_device.find_linear_gelu(CPU, torch.bfloat16, MODEL)
    assert (found, note) == (torch_device.linear_gelu, "GELU in the kernel of its dense layer")
    for dtype, act in ((torch.float16, "gelu"), (torch.bfloat16, "relu")):
        model = dataclasses.replace(MODEL, hidden_act=act)
        assert torch_device.find_linear_gelu(CPU, dtype, model) == (None, None)
    monkeypatch.setattr(torch_device, "linear_gelu", lambda inputs, weight, bias: inputs @ weight.t() + bias)
    found, note = torch_device.find_linear_gelu(CPU, torch.bfloat16, MODEL)
    assert (found, note) == (None, "GELU in a kernel of its own (ValueError: wrong result)")


def test_numbers_of_threads_share_equal_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout is written once. A worker maps that of its own number of threads, and none for another number."""
    weights, given = make_weights(), torch.get_num_threads()
    try:
        prepacked.write_prepacked(weights, tmp_path, [1, 3, 16])
        index = json.loads((tmp_path / "index.json").read_text())["threads"]
        places = {(place["offset"], place["layout"]) for layers in index.values() for place in layers.values()}
        assert len(places) == len({place for place, _ in places})
        assert (tmp_path / "prepacked.bin").stat().st_size < 4096 + max(place for place, _ in places) + (1 << 16)
        for number in (1, 3, 16):
            torch.set_num_threads(number)
            assert prepacked.open_prepacked(weights, tmp_path)[1] == "prepacked weights that all workers share"
        torch.set_num_threads(2)
        assert is_private(tmp_path, "the file has no layout for 2 threads")
        real = prepacked._layout
        monkeypatch.setattr(prepacked, "_layout", lambda kernel: real(kernel) + torch.get_num_threads())
        other = tmp_path / "each has its own layout"
        other.mkdir()
        prepacked._write(weights, other, [1, 3])
        index = json.loads((other / "index.json").read_text())["threads"]
        assert not {place["offset"] for place in index["1"].values()} & {
            place["offset"] for place in index["3"].values()
        }
    finally:
        torch.set_num_threads(given)
