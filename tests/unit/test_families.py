"""Compares the relatives of BERT with transformers: tiny random models, on each engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import family_models
import numpy as np
import pytest
from family_models import SIZES, WORDS, batch_of, change, hidden_states

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.digest import model_digest
from bert_serving.server.model.errors import ModelError
from bert_serving.server.model.weights import load_weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

ENGINES = [info.name for info in engines.available("cpu", "fp32") if info.name != "zeros"]
POSITIONS = 40
OF_ROBERTA = SIZES | {"max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("Roberta", OF_ROBERTA),
    "xlm-roberta": ("XLMRoberta", OF_ROBERTA | {"hidden_act": "gelu_new"}),
    "camembert": ("Camembert", OF_ROBERTA | {"pad_token_id": 4, "max_position_embeddings": POSITIONS + 5}),
    "electra": ("Electra", SIZES | {"embedding_size": 32, "max_position_embeddings": POSITIONS}),
    "distilbert": (
        "DistilBert",
        {
            "vocab_size": WORDS,
            "dim": 32,
            "n_layers": 3,
            "n_heads": 4,
            "hidden_dim": 48,
            "max_position_embeddings": POSITIONS,
            "initializer_range": 0.15,
        },
    ),
}
#: Sequences of one token, of different lengths, and of all positions.
LENGTHS = [1, 7, POSITIONS, 23]


def save(folder: Path, family: str, head: str = "Model", **changes: Any) -> Any:
    return family_models.save(folder, CONFIGS[family], head, **changes)


def encoded(model: ModelConfig, cache: Path, engine: str, layer: int, strategy: str, batch: Batch) -> Any:
    module = engines.load(engine)
    spec = EngineSpec(model=model, cache_dir=str(cache), pooling_layers=(layer,), pooling_strategy=strategy)
    module.prepare(spec, lambda _: None)
    return module.create(spec, Device(threads=1)).encode(batch)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", CONFIGS)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, family: str, engine: str) -> None:
    reference = save(tmp_path / "model", family)
    model = load_model_config(tmp_path / "model")
    assert (model.family, model.max_position_embeddings) == (family, POSITIONS)
    batch = batch_of(LENGTHS)
    for layer in (-1, -2):
        found = encoded(model, tmp_path / "cache", engine, layer, "NONE", batch)
        np.testing.assert_allclose(found, np.concatenate(hidden_states(reference, batch, layer)), rtol=0, atol=1e-5)


def test_positions_begin_behind_that_of_padding(tmp_path: Path) -> None:
    reference = save(tmp_path / "model", "camembert")
    weights = load_weights(load_model_config(tmp_path / "model"), need_pooler=False)
    table = reference.embeddings.position_embeddings.weight.detach().numpy()
    assert len(table) == POSITIONS + 5
    np.testing.assert_array_equal(weights["embeddings/position_embeddings"], table[5:])


@pytest.mark.parametrize("family", CONFIGS)
def test_the_second_text_of_a_pair_has_no_type_of_its_own(tmp_path: Path, family: str) -> None:
    save(tmp_path / "model", family)
    model = load_model_config(tmp_path / "model")
    first, second = (
        encoded(model, tmp_path / "cache", ENGINES[0], -1, "REDUCE_MEAN", batch_of(LENGTHS, types)) for types in (0, 1)
    )
    if family == "electra":  # as BERT
        assert np.abs(first - second).max() > 1e-3
    else:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("family", CONFIGS)
def test_a_classifier_is_served_without_its_head(tmp_path: Path, family: str) -> None:
    reference = save(tmp_path / "model", family, "ForSequenceClassification").base_model
    model = load_model_config(tmp_path / "model")
    assert model.head_class is not None
    assert model.head_class.endswith("ForSequenceClassification")
    batch = batch_of([9, 3])
    found = encoded(model, tmp_path / "cache", ENGINES[0], -1, "NONE", batch)
    np.testing.assert_allclose(found, np.concatenate(hidden_states(reference, batch, -1)), rtol=0, atol=1e-5)


def test_the_pooler_of_a_model_that_has_one(tmp_path: Path) -> None:
    reference = save(tmp_path / "model", "roberta")
    batch = batch_of([9])
    found = encoded(load_model_config(tmp_path / "model"), tmp_path / "cache", ENGINES[0], -1, "CLS_POOLED", batch)
    with torch.no_grad():
        expected = reference(torch.tensor(batch.input_ids[None].astype(np.int64))).pooler_output.numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["distilbert", "electra"])
def test_the_pooler_of_a_model_that_has_none_is_missed(tmp_path: Path, family: str) -> None:
    save(tmp_path / "model", family)
    with pytest.raises(ModelError, match="no pooler: set another pooling strategy than CLS_POOLED"):
        load_weights(load_model_config(tmp_path / "model"), need_pooler=True)


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        ("roberta", {"pad_token_id": None}, "pad_token_id is None; it must be an integer from 0 to 40"),
        ("roberta", {"pad_token_id": 41}, "pad_token_id is 41"),
        ("roberta", {"is_decoder": True}, "only encoders"),
        ("roberta", {"embedding_size": 16}, "embedding_size 16 differs from hidden_size 32"),
        ("distilbert", {"dim": None}, "'hidden_size'|hidden_size is None"),
        ("roberta", {"model_type": "xlnet"}, "model_type is 'xlnet'; this server computes bert, roberta"),
        ("roberta", {"model_type": ["roberta"]}, "model_type is"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path: Path, family: str, values: dict[str, Any], message: str) -> None:
    save(tmp_path / "model", family)
    change(tmp_path / "model" / "config.json", **values)
    with pytest.raises(ModelError, match=message):
        load_model_config(tmp_path / "model")


def test_unknown_tensors_in_a_layer_are_refused(tmp_path: Path) -> None:
    reference = save(tmp_path / "model", "distilbert")
    reference.transformer.layer[1].adapter = torch.nn.Linear(2, 2)
    reference.save_pretrained(tmp_path / "model")
    with pytest.raises(ModelError, match=r"transformer\.layer\.1\.adapter"):
        load_weights(load_model_config(tmp_path / "model"), need_pooler=False)


def test_the_digest_depends_on_the_family_and_the_offset(tmp_path: Path) -> None:
    save(tmp_path / "model", "roberta")
    digests = []
    for values in ({}, {"pad_token_id": 0}, {"model_type": "camembert", "pad_token_id": 1}):
        change(tmp_path / "model" / "config.json", **values)
        digests.append(model_digest(load_model_config(tmp_path / "model"), None))
    assert len(set(digests)) == 3
