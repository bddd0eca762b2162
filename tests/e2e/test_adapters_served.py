"""Adapters of a base model as variants of it: each name gives the vectors of its own merged weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from adapters import factors, merge, write_adapter

from bert_serving.client import BertClient
from bert_serving.server.engines import load
from bert_serving.server.engines.base import Batch, Device, EngineSpec
from bert_serving.server.model.config import load_model_config
from model_folders import hf_tensors, random_weights, write_hf
from servers import CACHE, ENGINE, Server, serving

TEXTS = ["hello world", "the world ! hello", "hello"]
LAYERS = [f"encoder.layer.{layer}.attention.self.{name}" for layer in (0, 1) for name in ("query", "value")]


def vectors_of(folder: Path) -> np.ndarray:
    """Returns the vectors of ``TEXTS`` of a model folder, computed in this process."""
    words = (folder / "vocab.txt").read_text("utf-8").split("\n")
    rows = [[words.index(word) for word in ("[CLS]", *text.split(), "[SEP]")] for text in TEXTS]
    ids = np.concatenate(rows).astype(np.int32)
    spec = EngineSpec(load_model_config(folder), CACHE)
    engine = load(ENGINE)
    engine.prepare(spec, lambda _: None)
    batch = Batch(ids, ids * 0, np.ones_like(ids), np.array(list(map(len, rows)), np.int32))
    return engine.create(spec, Device(threads=1)).encode(batch)


def test_a_base_model_and_its_variants_are_served_by_name(tmp_path: Path) -> None:
    tensors = hf_tensors(weights=random_weights())
    shapes = {name.removesuffix(".weight"): value.shape for name, value in tensors.items()}
    base = write_hf(tmp_path / "base", tensors)
    settings = {"target_modules": ["query", "value"], "layers_to_transform": [0, 1]}
    french, legal = (factors(shapes, LAYERS, seed=seed) for seed in (1, 2))
    write_adapter(tmp_path / "french", french, base_model_name_or_path="../base", **settings)
    write_adapter(tmp_path / "legal", legal, base_model_name_or_path="organization/model", **settings)
    expected = {"base": vectors_of(base)}
    for name, adapter in {"french": french, "legal": legal}.items():
        expected[name] = vectors_of(write_hf(tmp_path / f"merged-{name}", merge(tensors, adapter, 2.0)))
    variants = [f"french={tmp_path / 'french'}", f"legal={tmp_path / 'legal'},base={base}"]
    spaces = set()
    with serving("-model", variants[0], "-model", variants[1], "-threads", "1", model_dir=base) as server:
        for name, vectors in expected.items():
            with BertClient(port=server.port, port_out=server.port_out, model=name, timeout=60_000) as client:
                np.testing.assert_allclose(client.encode(TEXTS), vectors, atol=1e-5)
                spaces.add(client.vector_space)
        assert f"adapter, merged into the checkpoint: {tmp_path / 'legal'}" in server.log
    assert len(spaces) == 3
    for one, other in (("base", "french"), ("base", "legal"), ("french", "legal")):
        assert np.abs(expected[one] - expected[other]).max() > 0.01


def test_an_adapter_without_its_base_ends_the_start_with_the_remedy(tmp_path: Path) -> None:
    adapter = factors({LAYERS[0]: (4, 4)}, LAYERS[:1])
    folder = write_adapter(tmp_path / "adapter", adapter, base_model_name_or_path="organization/model")
    server = Server(model_dir=folder)
    assert server.process.wait(60) == 3, server.log
    assert "base_model_name_or_path 'organization/model'" in server.log
    assert "add -base FOLDER" in server.log
