"""Sparse vectors and vectors of tokens of folders in the layout of BGE-M3, compared with their definition."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from output_encoders import encoder_of, message_of
from output_models import TEXTS, write_m3

from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.model.errors import WeightError
from bert_serving.server.model.token_heads import MULTI_BIT, NO_DENSE_BIT, SPARSE_BIT
from bert_serving.server.worker.token_head_weights import check_token_heads

pytest.importorskip("sentence_transformers.base.modules")


@pytest.mark.parametrize(
    ("family", "suffix", "dims"), [("xlm-roberta", ".pt", 32), ("bert", ".safetensors", 5)], ids=["xlm-roberta", "bert"]
)
def test_outputs_are_those_of_the_definition(tmp_path: Path, family: str, suffix: str, dims: int) -> None:
    model, heads = write_m3(tmp_path / "model", family, suffix, dims)
    encoder, tokenizer = encoder_of(tmp_path / "model", tmp_path / "cache")
    dense = model.encode(TEXTS)
    both, only = SPARSE_BIT | MULTI_BIT, NO_DENSE_BIT
    codes = [both, SPARSE_BIT | only, MULTI_BIT, 0, both | only, both]
    array, _, outputs = encoder.encode(message_of(tokenizer, TEXTS, codes))
    np.testing.assert_allclose(array, dense, atol=1e-5)
    without, _, nothing = encoder.encode(message_of(tokenizer, TEXTS, []))
    np.testing.assert_allclose(without, dense, atol=1e-5)
    assert nothing is None
    assert outputs is not None
    assert outputs.problem(len(TEXTS), len(tokenizer.ids), dims, np.dtype(np.float32)) == ""
    sparse = np.split(np.stack([outputs.sparse_ids, outputs.sparse_weights], 1), np.cumsum(outputs.sparse_counts)[:-1])
    multi = np.split(outputs.multi, np.cumsum(outputs.multi_counts)[:-1])
    for text, code, weights, vectors in zip(TEXTS, codes, sparse, multi, strict=True):
        expected, rows = heads.encode(text)
        wanted: dict[Any, Any] = expected if code & SPARSE_BIT else {}
        assert dict(weights.tolist()) == pytest.approx(wanted, abs=1e-5)
        np.testing.assert_allclose(vectors, rows if code & MULTI_BIT else rows[:0], atol=1e-5)


def test_heads_are_left_out_for_other_layers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_m3(tmp_path)
    for option in ({"pooling_layer": [-2]}, {"pooling_strategy": "CLS_POOLED"}, {"pooling_strategy": "NONE"}):
        config, _ = apply_model_folder(
            ServerConfig.from_dict({"model_dir": str(tmp_path), **option}), logging.getLogger()
        )
        assert config.outputs == ("dense",)
        assert "(sparse, multi) are left out" in caplog.text
        caplog.clear()
    config, _ = apply_model_folder(
        ServerConfig.from_dict({"model_dir": str(tmp_path), "pooling_strategy": "REDUCE_MEAN"}), logging.getLogger()
    )
    assert config.outputs == ("dense", "sparse", "multi")


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    write_m3(tmp_path, dims=5)  # of a file for PyTorch, the size is known when it is read
    config, model = apply_model_folder(ServerConfig(model_dir=str(tmp_path)), logging.getLogger())
    assert config.pipeline is not None
    with pytest.raises(WeightError, match=r"colbert_linear\.pt: weight has shape \(5, 32\), expected \(32, 32\)"):
        check_token_heads(config.pipeline, model)
