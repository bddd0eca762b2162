"""The weights that an adapter leaves as they are: base model and variants map one file, and vectors are the same."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, merge, write_adapter

from bert_serving.server.engines.base import Batch, Device, EngineSpec
from bert_serving.server.engines.onnx import engine
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.config import load_model_config
from model_folders import hf_tensors, random_weights, write_hf

pytest.importorskip("onnxruntime")
LAYERS = [f"encoder.layer.{layer}.attention.self.query" for layer in range(4)]
IDS = np.arange(4, 20, dtype=np.int32)
BATCH = Batch(IDS, IDS * 0, np.ones_like(IDS), np.array([9, 7], np.int32))


def prepare(folder: Path, **options: Any) -> tuple[EngineSpec, list[str]]:
    spec = EngineSpec(
        load_model_config(folder, base=options.pop("base", None)), str(folder.parent / "cache"), **options
    )
    log: list[str] = []
    engine.prepare(spec, log.append)
    return spec, log


def entry_of(spec: EngineSpec) -> Path:
    return Path(spec.opened[-1])


def vectors_of(spec: EngineSpec) -> np.ndarray:
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
