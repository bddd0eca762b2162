"""Compares families that compute more than BERT with transformers: tiny random models, on each engine that has them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import family_models
import jina_bert
import numpy as np
import pytest
from family_models import ARCHITECTURES, batch_of, hidden_states

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, EngineError, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.weights import load_weights

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

#: Sequences of one token, of different lengths, and of all positions: longer than windows and buckets.
LENGTHS = [1, 7, family_models.LONG, 23]
DEBERTA = ARCHITECTURES["deberta-v2"]
#: Further variants: name → family, changes of its configuration.
VARIANTS: dict[str, tuple[tuple[str, dict[str, Any]], dict[str, Any]]] = {
    **{name: (family, {}) for name, family in ARCHITECTURES.items()},
    "modernbert with biases": (
        ARCHITECTURES["modernbert"],
        {"attention_bias": True, "mlp_bias": True, "norm_bias": True},
    ),
    "gte without types": (ARCHITECTURES["gte"], {"type_vocab_size": 0}),
    "gte with scaled rotations": (
        ARCHITECTURES["gte"],
        {"rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 20000.0}},
    ),
    "deberta with all its parts": (
        DEBERTA,
        {
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            "embedding_size": 16,
            "share_att_key": False,
            "position_buckets": -1,
            "type_vocab_size": 2,
            "position_biased_input": True,
            "norm_rel_ebd": "none",
        },
    ),
    "deberta with content to position": (DEBERTA, {"pos_att_type": "c2p", "share_att_key": False}),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, ModelConfig, Path]]:
    """Returns a function from a variant to the model of transformers, its configuration here, and a folder."""

    @functools.cache
    def save(variant: str) -> tuple[Any, ModelConfig, Path]:
        folder = tmp_path_factory.mktemp("model")
        if variant == "jina-bert":
            return jina_bert.write(folder / "model"), load_model_config(folder / "model"), folder
        family, changes = VARIANTS[variant]
        reference = family_models.save(folder / "model", family, **changes)
        return reference, load_model_config(folder / "model"), folder

    return save


Saved = Callable[[str], tuple[Any, ModelConfig, Path]]


def engines_of(model: ModelConfig) -> list[str]:
    """Returns the installed engines that compute the model."""
    found = engines.available("cpu", "fp32", None, model.features)
    return [info.name for info in found]


def encoded(model: ModelConfig, cache: Path, engine: str, batch: Batch, **options: Any) -> np.ndarray:
    module = engines.load(engine)
    spec = EngineSpec(model=model, cache_dir=str(cache), **({"pooling_layers": (-1,)} | options))
    module.prepare(spec, lambda _: None)
    found: np.ndarray = module.create(spec, Device(threads=1)).encode(batch)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_states_are_those_of_transformers(saved: Saved, variant: str) -> None:
    reference, model, folder = saved(variant)
    assert model.max_tokens == family_models.LONG
    batch = batch_of(LENGTHS)
    names = engines_of(model)
    assert names, "no engine computes this family"
    for engine in names:
        for layer in (-1, -2):
            found = encoded(model, folder, engine, batch, pooling_layers=(layer,), pooling_strategy="NONE")
            expected = np.concatenate(hidden_states(reference, batch, layer))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=f"{engine}, layer {layer}")


@pytest.mark.parametrize(("kind", "act"), [("geglu", None), ("reglu", lambda x: np.maximum(x, 0))])
def test_hidden_states_of_jina_bert(tmp_path: Path, kind: str, act: Any) -> None:
    weights = jina_bert.write(tmp_path / "model", feed_forward_type=kind)
    model = load_model_config(tmp_path / "model")
    batch = batch_of(LENGTHS)
    for engine in engines_of(model):
        found = encoded(model, tmp_path / "cache", engine, batch, pooling_strategy="NONE")
        given = () if act is None else (act,)
        expected = np.concatenate(jina_bert.hidden_states(weights, batch, 2, *given))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=engine)


def pooled(rows: np.ndarray, strategy: str) -> np.ndarray:
    mean, highest = rows.mean(0), rows.max(0)
    return {
        "REDUCE_MEAN": mean,
        "REDUCE_MAX": highest,
        "REDUCE_MEAN_MAX": np.concatenate([mean, highest]),
        "CLS_TOKEN": rows[0],
        "SEP_TOKEN": rows[-1],
    }[strategy]


@pytest.mark.parametrize("variant", ["albert", "modernbert", "deberta with all its parts"])
def test_every_strategy_of_the_last_and_the_first_layer(saved: Saved, variant: str) -> None:
    reference, model, folder = saved(variant)
    batch = batch_of([9, 30])
    layers = (-1, -model.num_hidden_layers)
    states = zip(*(hidden_states(reference, batch, layer) for layer in layers), strict=True)
    rows = [np.concatenate(both, axis=-1) for both in states]
    for engine in engines_of(model):
        for strategy in ("REDUCE_MEAN", "REDUCE_MAX", "REDUCE_MEAN_MAX", "CLS_TOKEN", "SEP_TOKEN"):
            found = encoded(model, folder, engine, batch, pooling_strategy=strategy, pooling_layers=layers)
            expected = np.stack([pooled(row, strategy) for row in rows])
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=f"{engine}, {strategy}")
        first = encoded(model, folder, engine, batch, pooling_strategy="CLS_TOKEN", pooling_layers=layers[1:])
        width = model.hidden_size
        np.testing.assert_allclose(first, [row[0, width:] for row in rows], rtol=0, atol=1e-5, err_msg=engine)


@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_the_pooler_of_a_model_that_has_one(saved: Saved, family: str) -> None:
    reference, model, folder = saved(family)
    batch = batch_of([9])
    with torch.no_grad():
        expected = reference(torch.tensor(batch.input_ids[None].astype(np.int64))).pooler_output.numpy()
    for engine in engines_of(model):
        found = encoded(model, folder, engine, batch, pooling_strategy="CLS_POOLED")
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5, err_msg=engine)


@pytest.mark.parametrize("variant", ["mpnet", "modernbert", "gte", "deberta with all its parts"])
def test_a_vector_depends_neither_on_the_batch_nor_on_masked_tokens(saved: Saved, variant: str) -> None:
    reference, model, folder = saved(variant)
    whole = batch_of([5, 40, 12])
    ends = np.cumsum(whole.lengths)
    mask = whole.mask.copy()
    mask[ends - 1] = mask[ends - whole.lengths] = 0  # as -mask_cls_sep does
    masked = Batch(whole.input_ids, whole.type_ids, mask, whole.lengths)
    for engine in engines_of(model):
        found = encoded(model, folder, engine, whole, pooling_strategy="NONE")
        of_masked = encoded(model, folder, engine, masked, pooling_strategy="NONE")
        for end, length in zip(ends, whole.lengths, strict=True):
            part = slice(end - length, end)
            ids = whole.input_ids[part]
            alone = Batch(ids, whole.type_ids[part], np.ones_like(ids), np.array([length], np.int32))
            single = encoded(model, folder, engine, alone, pooling_strategy="NONE")
            np.testing.assert_allclose(found[part], single, rtol=0, atol=5e-6, err_msg=engine)
            tensors = (torch.tensor(row[None].astype(np.int64)) for row in (ids, mask[part]))
            with torch.no_grad():
                expected = reference(*tensors).last_hidden_state[0].numpy()
            kept = mask[part] == 1
            np.testing.assert_allclose(of_masked[part][kept], expected[kept], rtol=0, atol=1e-5, err_msg=engine)


@pytest.mark.parametrize("family", [*ARCHITECTURES, "jina-bert"])
def test_int8_is_close_to_fp32(saved: Saved, family: str) -> None:
    _, model, folder = saved(family)
    batch = batch_of([30, 60, 90])
    for info in engines.available("cpu", "int8", None, model.features):
        exact = encoded(model, folder, info.name, batch, pooling_strategy="NONE")
        found = encoded(model, folder, info.name, batch, pooling_strategy="NONE", dtype="int8")
        cosines = (exact * found).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(found, axis=1)
        assert cosines.min() > 0.99, family


def test_tokens_beyond_the_tables_are_refused(saved: Saved) -> None:
    _, model, folder = saved("jina-bert")
    for engine in engines_of(model):
        with pytest.raises(EngineError, match="exceeds the 200 positions"):
            encoded(model, folder, engine, batch_of([201]), use_position_embeddings=False)


@pytest.mark.parametrize(("hidden", "heads"), [(18, 3), (20, 4)])
@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_onnx_computes_sizes_that_are_no_multiples_of_a_register(
    tmp_path: Path, hidden: int, heads: int, dtype: str
) -> None:
    if not any(info.name == "onnx" for info in engines.available("cpu", dtype)):
        pytest.skip("the engine onnx is not installed")
    sizes = {"hidden_size": hidden, "num_attention_heads": heads, "intermediate_size": 46}
    values = family_models.SIZES | {"max_position_embeddings": 41} | sizes
    reference = family_models.save(tmp_path / "model", ("Bert", values))
    model = load_model_config(tmp_path / "model")
    batch = batch_of([7, 30])
    found = encoded(model, tmp_path, "onnx", batch, pooling_strategy="NONE", dtype=dtype)
    expected = np.concatenate(hidden_states(reference, batch, -1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if dtype == "fp32" else 0.2)


def test_layers_with_the_same_weights_share_them_in_the_graph(saved: Saved) -> None:
    encoder = pytest.importorskip("bert_serving.server.engines.onnx.encoder")
    _, model, folder = saved("albert")
    spec = EngineSpec(model=model, cache_dir=str(folder), pooling_layers=(-1,))
    graph = encoder.build(spec, load_weights(model, need_pooler=False)).graph
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert sum(node.op_type == "MultiHeadAttention" for node in graph.node) == 5
    assert shapes.count((32, 96)) == shapes.count((48, 32)) == 2  # of two groups
