"""Sparse vectors of SPLADE folders, compared with those of sentence-transformers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from family_models import change
from output_encoders import encoder_of, message_of
from output_models import TEXTS, write_splade

from bert_serving.server.config.model_folder import apply_model_folder
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.errors import ConfigError
from bert_serving.server.model.cache import Cache
from bert_serving.server.model.errors import ModelConfigError, ModelUnsupported, WeightError
from bert_serving.server.model.sentence_transformers import read_pipeline
from bert_serving.server.model.token_heads import NO_DENSE_BIT, SPARSE_BIT
from bert_serving.server.model.token_names import read_token_names
from bert_serving.server.worker import masked_lm
from bert_serving.server.worker.token_head_weights import prepare_token_heads

pytest.importorskip("sentence_transformers.sparse_encoder")
LOG = logging.getLogger("test")


@pytest.mark.parametrize(
    ("family", "pooling"),
    [
        ("bert", {}),
        ("distilbert", {"pooling_strategy": "sum"}),
        ("roberta", {"activation_function": "log1p_relu"}),
        ("modernbert", {"limit": 7}),
    ],
)
def test_weights_are_those_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, pooling: dict[str, Any]
) -> None:
    model = write_splade(tmp_path / "model", family, **pooling)
    expected = model.encode(TEXTS).to_dense().numpy()
    encoder, tokenizer = encoder_of(tmp_path / "model", tmp_path / "cache")
    codes = [SPARSE_BIT | NO_DENSE_BIT] * len(TEXTS)
    codes[2] = NO_DENSE_BIT  # of a request without this output
    for max_logits in (masked_lm._MAX_LOGITS, 5 * expected.shape[1]):  # the second splits texts
        monkeypatch.setattr(masked_lm, "_MAX_LOGITS", max_logits)
        encoder, tokenizer = encoder_of(tmp_path / "model", tmp_path / "cache")
        array, _, outputs = encoder.encode(message_of(tokenizer, TEXTS, codes))
        assert array.shape == (len(TEXTS), 0)
        assert outputs is not None
        assert outputs.sparse_counts[2] == 0
        rows = np.repeat(np.arange(len(TEXTS)), outputs.sparse_counts)
        found = np.zeros_like(expected)
        found[rows, outputs.sparse_ids] = outputs.sparse_weights
        wanted = np.where(np.arange(len(TEXTS))[:, None] == 2, 0, expected)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)  # sums exceed 40
        assert (outputs.sparse_weights > 0).all()
    names = read_token_names(str(next((tmp_path / "model").glob("tokenizer.json"))))
    assert names[: len(model.tokenizer)] == model.tokenizer.convert_ids_to_tokens(range(len(model.tokenizer)))


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splade")
    write_splade(folder)
    return folder


def changed(splade: Path, folder: Path, file: str, **values: Any) -> Path:
    import shutil

    shutil.copytree(splade, folder, dirs_exist_ok=True)
    change(folder / file, **values)
    return folder


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("1_SpladePooling/config.json", {"pooling_strategy": "mean"}, "pooling_strategy 'mean'"),
        ("1_SpladePooling/config.json", {"activation_function": "gelu"}, "activation_function 'gelu'"),
        ("1_SpladePooling/config.json", {"temperature": 2}, "temperature 2"),
        ("config_sentence_transformers.json", {"model_type": "SentenceTransformer"}, "model_type"),
        ("sentence_bert_config.json", {"transformer_task": "feature-extraction"}, "must be 'fill-mask'"),
        ("config.json", {"hidden_act": "gelu_new"}, "hidden_act 'gelu_new' is not computed in the head"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    splade: Path, tmp_path: Path, file: str, values: dict[str, Any], named: str
) -> None:
    folder = changed(splade, tmp_path / "model", file, **values)
    with pytest.raises(ModelUnsupported, match=named):
        apply_model_folder(ServerConfig(model_dir=str(folder)), LOG)


def test_a_limit_of_weights_that_is_no_number_is_refused(splade: Path, tmp_path: Path) -> None:
    folder = changed(splade, tmp_path / "model", "config_sentence_transformers.json", max_active_dims=0)
    with pytest.raises(ModelConfigError, match="max_active_dims must be a whole number"):
        read_pipeline(folder)


@pytest.mark.parametrize("option", ["normalize", "dimensions", "pooling_strategy", "deterministic"])
def test_options_of_dense_vectors_are_refused(splade: Path, option: str) -> None:
    values = {"normalize": "on", "dimensions": 8, "pooling_strategy": "REDUCE_MEAN", "deterministic": True}
    with pytest.raises(ConfigError, match=f"-{option} .*sparse"):
        apply_model_folder(ServerConfig.from_dict({"model_dir": str(splade), option: values[option]}), LOG)


def test_a_missing_head_is_named(splade: Path, tmp_path: Path) -> None:
    config, model = apply_model_folder(ServerConfig(model_dir=str(splade)), LOG)
    pipeline = config.pipeline
    assert pipeline is not None
    assert pipeline.sparse is not None
    tensors = dict(pipeline.sparse.tensors)
    tensors["dense"] = msgspec.structs.replace(tensors["dense"], names=("cls.absent.weight",))
    head = msgspec.structs.replace(pipeline.sparse, tensors=tensors)
    with pytest.raises(WeightError, match=r"no tensor cls\.absent\.weight"):
        prepare_token_heads(msgspec.structs.replace(pipeline, sparse=head), model, Cache(tmp_path))
