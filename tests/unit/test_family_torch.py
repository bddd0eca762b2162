"""Tests how the engine torch computes families beyond BERT: without padding, and in 16 bits."""

# ruff: noqa: E402 (imports follow the check for the libraries)

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from family_models import ARCHITECTURES, LONG, batch_of, save_and_load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.torch import device as torch_device
from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.engines.torch.attention import needs_bias
from bert_serving.server.model.config import ModelConfig

CPU = torch.device("cpu")
LENGTHS = [1, 7, LONG, 23, 90]
WITHOUT_BIAS = ["electra", "albert", "modernbert", "nomic_bert", "gte"]


def by_definition(query: Any, key: Any, value: Any, ends: Any, longest: int, window: int = 0) -> Any:
    """Computes the result of the kernel for packed sequences."""
    parts = torch.stack([query, key, value], 1).split(ends.diff().tolist())
    return torch.cat([torch_device._plain_attention(part, window) for part in parts])


def make(model: ModelConfig, folder: Path, **fields: Any) -> engine_module.TorchEngine:
    spec = EngineSpec(model=model, cache_dir=str(folder / "cache"), pooling_layers=(-1,), **fields)
    engine_module.prepare(spec, lambda _: None)
    # create() rejects emulated bf16, which is slower but gives the same vectors.
    return engine_module.TorchEngine(spec, Device(threads=1))


@pytest.mark.parametrize("family", WITHOUT_BIAS)
def test_packed_sequences_give_the_same_vectors(tmp_path: Path, family: str) -> None:
    engine = make(save_and_load(tmp_path, family), tmp_path, pooling_strategy="NONE")
    expected = engine.encode(batch_of(LENGTHS))
    engine._encoder.packed_attention = by_definition
    np.testing.assert_allclose(engine.encode(batch_of(LENGTHS)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_attention_without_padding_is_for_scores_without_bias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = save_and_load(tmp_path, family)
    monkeypatch.setattr(torch_device, "varlen_attention", by_definition)
    found, note = torch_device.find_packed_attention(CPU, torch.bfloat16, model)
    assert needs_bias(model.architecture) == (family not in WITHOUT_BIAS)
    if family in WITHOUT_BIAS:
        assert found is by_definition
        # A kernel that ignores windows is not used for a model that has them.
        monkeypatch.setattr(torch_device, "varlen_attention", lambda *inputs: by_definition(*inputs[:5]))
        assert ("wrong result" in torch_device.find_packed_attention(CPU, torch.bfloat16, model)[1]) == (
            family == "modernbert"
        )
    else:
        assert found is None
        assert "packed sequences take no bias of the scores" in note


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_bf16_is_close(tmp_path: Path, family: str) -> None:
    model = save_and_load(tmp_path, family)
    exact = make(model, tmp_path).encode(batch_of(LENGTHS))
    found = make(model, tmp_path, dtype="bf16").encode(batch_of(LENGTHS))
    cosines = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
    assert cosines.min() > 0.999


@pytest.mark.parametrize("family", ["mpnet", "modernbert", "deberta-v2"])
@pytest.mark.parametrize("max_scores", [1, 2_000, 60_000])
def test_blocks_of_queries_give_the_same_vectors(tmp_path: Path, family: str, max_scores: int) -> None:
    engine = make(save_and_load(tmp_path, family), tmp_path, pooling_strategy="NONE")
    batch = batch_of(LENGTHS)
    expected = engine.encode(batch)
    engine._encoder.attention.max_scores = max_scores
    np.testing.assert_allclose(engine.encode(batch), expected, rtol=0, atol=1e-5)
