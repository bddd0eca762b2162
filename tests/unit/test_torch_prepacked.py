"""Tests the prepacked weights that all workers on the CPU map: equal bits, and copies where something differs."""

# ruff: noqa: E402 (imports follow the check for the library)

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra `torch` is not installed")

from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.engines.torch import prepacked, prepacked_entry
from bert_serving.server.engines.torch.prepacked import map_prepacked, prepack_weights, write_prepacked
from bert_serving.server.model.cache import NotVerified
from oracle import MODEL, pack, sequences
from torch_engines import SHAPES, is_private, make_weights

SHARED = "dense layers by oneDNN, prepacked weights that all workers share"
PRIVATE = "dense layers by oneDNN, prepacked weights"
#: The number of threads of this process.
THREADS = [torch.get_num_threads()]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets small models have shared weights."""
    monkeypatch.setattr(prepacked_entry, "MIN_BYTES", 0)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Returns a folder with the prepacked ``make_weights``."""
    write_prepacked(make_weights(), tmp_path, THREADS)
    assert "reason" not in json.loads((tmp_path / "index.json").read_text())
    return tmp_path


def test_workers_share_the_weights_that_prepare_has_written(tmp_path: Path, small: None) -> None:
    """Vectors have the bits of private weights; the pages are those of the file; nothing is written twice."""
    lines: list[str] = []
    spec = EngineSpec(MODEL, str(tmp_path), cpu_threads=(1,))
    for _ in range(2):
        engine_module.prepare(spec, lines.append)
    assert lines.count("write prepacked weights for all workers") == 1
    assert [Path(path).name.rsplit("-", 1)[0] for path in dict.fromkeys(spec.opened)] == [
        "torch-weights",
        "torch-prepacked",
    ]
    engine = engine_module.create(spec, Device(threads=1))
    assert engine.startup_notes == [SHARED]
    kernels = engine._encoder.dense._kernels  # type: ignore[attr-defined]
    assert [kernel.mapping.filename.name for kernel in kernels.values()] == ["prepacked.bin"] * len(kernels)
    private = EngineSpec(MODEL, str(tmp_path / "private"))
    engine_module.prepare(private, lines.append)
    other = engine_module.create(private, Device(threads=1))
    assert other.startup_notes == [PRIVATE]
    batch = pack(sequences([3, 30, 7, MODEL.max_tokens, 1] * 4))
    assert engine.encode(batch).tobytes() == other.encode(batch).tobytes()
    engine.close()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_equal_and_outlive_what_made_the_weights(tmp_path: Path, dtype: Any) -> None:
    weights = make_weights(dtype)
    try:
        expected = prepack_weights(weights)
    except RuntimeError as error:
        pytest.skip(str(error))
    write_prepacked(weights, tmp_path, THREADS)
    mapped = map_prepacked(weights, tmp_path)
    assert list(mapped) == list(expected) == [f"encoder/layer_0/{name}" for name in SHAPES]
    gc.collect()
    for scope, kernel in mapped.items():
        assert prepacked._equal_products(expected[scope], kernel, weights[f"{scope}/weight"])
        assert not kernel.mapping.flags.writeable


def test_small_models_gpus_and_programs_without_workers_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepacked_entry, "_run", None)
    engine_module.prepare(EngineSpec(MODEL, str(tmp_path), cpu_threads=(1,)), lambda _: None)
    monkeypatch.setattr(prepacked_entry, "MIN_BYTES", 0)
    engine_module.prepare(EngineSpec(MODEL, str(tmp_path)), lambda _: None)
    assert not list(tmp_path.glob("torch-prepacked-*"))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "ended with exit code -6 (no output)"),
        ("raise OSError('disk full')", "ended with exit code 1 (OSError: disk full)"),
        ("import os; os.write(2, b'\\xff'); os._exit(3)", "ended with exit code 3 (\ufffd)"),
        (
            "import faulthandler, time; faulthandler.dump_traceback_later(0.1, exit=True); time.sleep(60)",
            "ended with exit code 1 (Timeout (0:00:00.100000)!)",
        ),
    ],
)
def test_process_that_fails_costs_the_shared_weights_only(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch, program: str, reason: str
) -> None:
    """The start goes on. Nothing is kept of the failure, so the next start tries again."""
    monkeypatch.setattr(prepacked_entry, "_PROGRAM", program)
    lines: list[str] = []
    spec = EngineSpec(MODEL, str(tmp_path), cpu_threads=(1,))
    engine_module.prepare(spec, lines.append)
    assert lines[-1] == f"each worker prepacks a copy of the weights: the process that writes them {reason}"
    assert not list(tmp_path.glob("torch-prepacked-*"))
    engine = engine_module.create(spec, Device(threads=1))
    assert engine.startup_notes == [PRIVATE]
    engine.close()


def test_cache_that_takes_no_more_costs_the_shared_weights_only(
    tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    spec = EngineSpec(MODEL, str(tmp_path), cpu_threads=(1,))
    with monkeypatch.context() as patch:
        patch.setattr(prepacked_entry.sys, "executable", str(tmp_path / "missing"))
        engine_module.prepare(spec, lines.append)
    assert "the process that writes them cannot start ([Errno 2] No such file or directory" in lines[-1]

    def fill(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(prepacked_entry, "_run", fill)
    engine_module.prepare(spec, lines.append)
    assert lines[-1].startswith("each worker prepacks a copy of the weights: cannot write to the cache folder")
    with pytest.raises(NotVerified):
        engine_module.prepare(dataclasses.replace(spec, only_verified=True), lines.append)


def test_entry_depends_on_what_chooses_a_layout(tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepacked_entry, "_run", lambda *_: None)
    spec = EngineSpec(MODEL, str(tmp_path), cpu_threads=(1, 3))
    engine_module.prepare(spec, lambda _: None)
    assert prepacked_entry.find(spec) is not None
    assert prepacked_entry.find(dataclasses.replace(spec, cpu_threads=(1,))) is None
    changes: list[Callable[[pytest.MonkeyPatch], None]] = [
        lambda patch: patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41"),
        lambda patch: patch.setenv("DNNL_DEFAULT_FPMATH_MODE", "BF16"),
        lambda patch: patch.setattr(prepacked_entry, "describe_processor", lambda: "another processor"),
        lambda patch: patch.setattr(prepacked_entry, "_build", lambda: "another version of PyTorch"),
    ]
    for change in changes:
        with monkeypatch.context() as patch:
            change(patch)
            assert prepacked_entry.find(spec) is None
    assert prepacked_entry.find(dataclasses.replace(spec, pooling_layers=(-3,))) is None


def test_version_without_the_functions_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A later version of PyTorch has another entry."""

    def find() -> None:
        raise AttributeError("undefined symbol")

    monkeypatch.setattr(prepacked, "_find_function", find)
    write_prepacked(make_weights(), tmp_path, THREADS)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]
    reason = f"PyTorch {torch.__version__} cannot map them: AttributeError: undefined symbol"
    assert is_private(tmp_path, reason)


def test_missing_memory_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepack(weight: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(prepacked, "_prepack", prepack)
    with pytest.raises(RuntimeError, match="allocate memory"):
        write_prepacked(make_weights(), tmp_path, THREADS)


@pytest.mark.parametrize(("scope", "is_found"), [("a", True), ("b", True), ("c", True), ("d", False)])
def test_wrong_product_is_found_for_each_shape(written: Path, scope: str, is_found: bool) -> None:
    """The second layer of a shape is compared when the file is written; its digest is verified afterwards."""
    file = written / "prepacked.bin"
    place = json.loads((written / "index.json").read_text())["threads"][str(THREADS[0])][f"encoder/layer_0/{scope}"]
    data = bytearray(file.read_bytes())
    values = np.frombuffer(data, np.float32, place["bytes"] // 4, place["offset"])
    values *= 2
    file.write_bytes(data)
    reason = f"a product of mapped weights differs, encoder/layer_0/{scope}"
    if is_found:
        assert is_private(written, reason)
    with pytest.raises(prepacked.NotEqual, match=reason):
        map_prepacked(make_weights(), written, compare_all=True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layers: layers["encoder/layer_0/c"].update(layout="0"), "the layout is that of another processor"),
        (lambda layers: layers["encoder/layer_0/d"].update(layout="0"), "the layout is that of another processor"),
        (lambda layers: layers["encoder/layer_0/d"].update(bytes=4096), "the file has 4096 bytes"),
        (lambda layers: layers["encoder/layer_0/d"].update(offset=1 << 40), "the file has 0 bytes"),
        (lambda layers: layers.pop("encoder/layer_0/b"), "KeyError"),
    ],
)
def test_other_layouts_and_sizes_are_not_mapped(written: Path, change: Callable[[Any], object], reason: str) -> None:
    index = json.loads((written / "index.json").read_text())
    change(index["threads"][str(THREADS[0])])
    (written / "index.json").write_text(json.dumps(index))
    assert is_private(written, reason)
