"""The weights that an adapter leaves as they are: base model and variants map one file, and vectors are the same."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, merge, write_adapter

from bert_serving.server.engines.base import Batch, Device, EngineSpec
from bert_serving.server.engines.onnx import engine
from bert_serving.server.engines.torch import engine as torch_engine
from bert_serving.server.engines.torch.shared_weights import share_prepacked
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import load_model_config
from model_folders import hf_tensors, random_weights, write_hf

needs_onnx = pytest.mark.skipif(find_spec("onnxruntime") is None, reason="needs onnxruntime")
LAYERS = [f"encoder.layer.{layer}.attention.self.query" for layer in range(4)]
IDS = np.arange(4, 20, dtype=np.int32)
BATCH = Batch(IDS, IDS * 0, np.ones_like(IDS), np.array([9, 7], np.int32))


def prepare(folder: Path, engine: Any = engine, **options: Any) -> tuple[EngineSpec, list[str]]:
    spec = EngineSpec(
        load_model_config(folder, base=options.pop("base", None)), str(folder.parent / "cache"), **options
    )
    log: list[str] = []
    engine.prepare(spec, log.append)
    return spec, log


def entry_of(spec: EngineSpec) -> Path:
    return Path(spec.opened[-1])


def vectors_of(spec: EngineSpec, engine: Any = engine) -> np.ndarray:
    return engine.create(spec, Device(threads=1)).encode(BATCH)


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    return hf_tensors(weights=random_weights())


def write_variant(folder: Path, tensors: dict[str, np.ndarray], seed: int) -> tuple[Path, Path]:
    """Writes an adapter, and the same model merged by the formula."""
    shapes = {name.removesuffix(".weight"): value.shape for name, value in tensors.items()}
    adapter = factors(shapes, LAYERS, seed=seed)
    merged = write_hf(folder.parent / f"merged-{seed}", merge(tensors, adapter, 2.0))
    return write_adapter(folder, adapter, base_model_name_or_path="../base", target_modules=["query"]), merged


@needs_onnx
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_variants_read_what_is_equal_from_the_file_of_their_base(
    tmp_path: Path, tensors: dict[str, np.ndarray], dtype: str
) -> None:
    write_hf(tmp_path / "base", tensors)
    variants = [write_variant(tmp_path / f"variant-{seed}", tensors, seed) for seed in (1, 2)]
    specs = [prepare(folder, dtype=dtype)[0] for folder, _ in variants]
    base, log = prepare(tmp_path / "base", dtype=dtype)
    assert log == []  # the first variant has prepared it
    weights = entry_of(base) / "weights.bin"
    for spec, (_, merged) in zip(specs, variants, strict=True):
        assert os.path.samefile(entry_of(spec) / "base.bin", weights)
        wanted, _ = prepare(merged, dtype=dtype)
        assert not (entry_of(wanted) / "base.bin").exists()
        np.testing.assert_array_equal(vectors_of(spec), vectors_of(wanted))
    # Links change the stamps of a file that is verified under several names.
    assert all(Cache(base.cache_dir)._is_verified(entry_of(spec)) for spec in (base, *specs))


@needs_onnx
def test_without_links_or_a_base_of_its_own_a_variant_has_all_weights(
    tmp_path: Path, tensors: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no links")

    write_hf(tmp_path / "base", tensors)
    folder, merged = write_variant(tmp_path / "variant", tensors, 1)
    wanted = vectors_of(prepare(merged)[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", fail)
        spec, log = prepare(folder)
    assert log[-1] == "0 MiB of the weights are those of the base model, in the same memory"
    assert sorted(os.listdir(entry_of(spec))) == ["files.json", "model.onnx", "weights.bin"]
    np.testing.assert_array_equal(vectors_of(spec), wanted)

    pooler = {name: tensors[name] for name in ("pooler.dense.weight", "pooler.dense.bias")}
    write_hf(tmp_path / "base", {name: value for name, value in tensors.items() if name not in pooler})
    write_adapter(folder, pooler, base_model_name_or_path="../base", modules_to_save=["pooler"])
    spec, log = prepare(folder, pooling_strategy="CLS_POOLED")
    assert "shares no weights with its base model" in "\n".join(log)
    assert np.isfinite(vectors_of(spec)).all()


def test_torch_reads_what_is_equal_from_the_file_of_the_base(tmp_path: Path, tensors: dict[str, np.ndarray]) -> None:
    safetensors = pytest.importorskip("safetensors")
    pytest.importorskip("torch")
    write_hf(tmp_path / "base", tensors)
    folder, merged = write_variant(tmp_path / "variant", tensors, 1)
    spec, log = prepare(folder, torch_engine)
    assert "prepare the base model" in log
    base = entry_of(prepare(tmp_path / "base", torch_engine)[0])
    assert os.path.samefile(entry_of(spec) / "base.safetensors", base / "weights.safetensors")
    with safetensors.safe_open(str(entry_of(spec) / "weights.safetensors"), "np") as file:
        assert set(file.keys()) == {f"encoder/layer_{layer}/attention/self/qkv/weight" for layer in range(3)}
    wanted = vectors_of(prepare(merged, torch_engine)[0], torch_engine)
    np.testing.assert_array_equal(vectors_of(spec, torch_engine), wanted)


def test_prepacked_weights_that_are_equal_are_those_of_the_base(tmp_path: Path) -> None:
    layouts = {"1": {"a": (0, 8), "b": (4096, 16)}, "2": {"a": (0, 8), "b": (8192, 16)}}
    index = {
        number: {scope: {"offset": offset, "bytes": size, "layout": "x"} for scope, (offset, size) in places.items()}
        for number, places in layouts.items()
    }
    data = np.random.default_rng(0).integers(1, 255, 8208).astype(np.uint8)
    cache = Cache(tmp_path / "cache")
    for name in ("base", "variant"):
        folder = cache.root / name
        folder.mkdir()
        (folder / "index.json").write_text(json.dumps({"threads": index}))
        (folder / "prepacked.bin").write_bytes(data.tobytes())
        data[4096:4112] += 1  # of b with one thread
    share_prepacked(folder, cache.root / "base", cache)
    found = json.loads((folder / "index.json").read_text())["threads"]
    files = {(number, scope): place.get("file") for number, places in found.items() for scope, place in places.items()}
    assert files == {("1", "a"): "base.bin", ("2", "a"): "base.bin", ("1", "b"): None, ("2", "b"): "base.bin"}
    assert os.path.samefile(folder / "base.bin", cache.root / "base" / "prepacked.bin")
    own = np.fromfile(folder / "prepacked.bin", np.uint8)
    assert len(own) == 8208
    assert np.flatnonzero(own).tolist() == list(range(4096, 4112))
