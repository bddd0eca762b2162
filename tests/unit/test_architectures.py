"""Checks what is read of the families that compute more than BERT: configuration, weights, tables, digests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import family_models
import numpy as np
import pytest
from family_models import ARCHITECTURES
from hypothesis import given, settings
from hypothesis import strategies as st

from bert_serving.server import engines
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.engines.base import EngineUnavailable
from bert_serving.server.model import relative_positions
from bert_serving.server.model.architecture import BERT, Disentangled, Feature, Rope
from bert_serving.server.model.config import ModelConfig, load_model_config, parse_config
from bert_serving.server.model.digest import model_digest
from bert_serving.server.model.errors import ModelConfigError, ModelError, ModelUnsupported
from bert_serving.server.model.rejections import reject_folder
from bert_serving.server.model.weights import expected_shapes, load_weights
from bert_serving.server.supervisor.preflight import read_model

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
MODERN = SIZES | {"model_type": "modernbert", "hidden_activation": "gelu", "norm_eps": 1e-6}
NOMIC = {
    "model_type": "nomic_bert",
    "activation_function": "swiglu",
    "n_embd": 32,
    "n_head": 4,
    "n_inner": 48,
    "n_layer": 4,
    "n_positions": 8192,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 1000,
    "vocab_size": 60,
}
GTE = SIZES | {"model_type": "new", "position_embedding_type": "rope", "rope_theta": 20000}
JINA = SIZES | {"position_embedding_type": "alibi", "feed_forward_type": "geglu", "max_position_embeddings": 8192}
DEBERTA = SIZES | {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": "p2c|c2p"}
ALBERT = SIZES | {"model_type": "albert", "num_hidden_groups": 2}
MPNET = SIZES | {"model_type": "mpnet", "max_position_embeddings": 514}


def parse(values: dict[str, Any]) -> ModelConfig:
    return ModelConfig("", "", "", "", "safetensors", False, **parse_config(values, "config.json"))


def test_the_most_tokens_and_the_activation_of_each_family() -> None:
    found = {values.get("model_type", "bert"): parse(values) for values in (MODERN, NOMIC, GTE, JINA, DEBERTA, MPNET)}
    assert {name: (model.max_tokens, model.hidden_act) for name, model in found.items()} == {
        "modernbert": (8192, "gelu"),
        "nomic_bert": (8192, "silu"),
        "new": (8192, "gelu"),
        "bert": (8192, "gelu"),
        "deberta-v2": (512, "gelu"),
        "mpnet": (512, "gelu"),
    }
    assert (found["modernbert"].layer_norm_eps, found["deberta-v2"].layer_norm_eps) == (1e-6, 1e-7)
    assert found["bert"].family == "jina-bert"
    assert parse(JINA | {"feed_forward_type": "reglu"}).hidden_act == "relu"


def test_old_and_new_keys_mean_the_same() -> None:
    kinds = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    full, sliding = Rope(160000.0), Rope(10000.0)
    old = MODERN | {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    new = MODERN | {
        "layer_types": kinds,
        "rope_parameters": {
            "full_attention": {"rope_theta": 160000.0, "rope_type": "default"},
            "sliding_attention": {"rope_theta": 10000.0},
        },
    }
    assert parse(old) == parse(new) == parse(MODERN)
    assert parse(MODERN).architecture.rope == (full, sliding, sliding, full)
    assert parse(MODERN).architecture.windows == (0, 64, 64, 0)
    assert parse(MODERN | {"local_rope_theta": None}).architecture.rope == (full,) * 4
    new_nomic = SIZES | {
        "model_type": "nomic_bert",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    }
    assert parse(NOMIC) == parse(new_nomic)
    assert parse(NOMIC | {"rotary_scaling_factor": 2, "max_trained_positions": 2048}).max_tokens == 2048
    scaled = parse(GTE | {"rope_scaling": {"type": "ntk", "factor": 8.0}}).architecture.rope[0]
    assert scaled == Rope(160000.0, 8 ** (2 / 8))
    linear = {"rope_type": "linear", "factor": scaled.factor, "rope_theta": 160000.0}
    assert parse(SIZES | {"model_type": "gte", "rope_parameters": linear}).architecture.rope[0] == scaled
    assert parse(SIZES | {"model_type": "gte"}).architecture.rope[0] == Rope(160000.0)


def test_layers_share_weights_as_albert_groups_them() -> None:
    model = parse(ALBERT | {"num_hidden_layers": 5, "num_hidden_groups": 2})
    assert model.architecture.layer_weights == (0, 0, 0, 1, 1)
    shapes = expected_shapes(model, 5, need_pooler=False)
    assert {name.split("/")[1] for name in shapes if name.startswith("encoder/")} == {"layer_0", "layer_1"}
    assert shapes["embeddings/word_embeddings"] == (60, 128)
    assert shapes["embeddings/projection/kernel"] == (128, 32)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (MODERN | {"layer_types": ["full_attention"]}, "layer_types is"),
        (MODERN | {"local_attention": 1}, "local_attention is 1"),
        (MODERN | {"norm_bias": "no"}, "norm_bias is 'no'; it must be true or false"),
        (MODERN | {"global_rope_theta": -1}, "rope_theta is -1"),
        (MODERN | {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "rope type 'yarn' is not supported"),
        (NOMIC | {"activation_function": "gelu"}, "activation 'gelu' of a Nomic model"),
        (NOMIC | {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction 0.5 is not supported; it must be 1"),
        (NOMIC | {"num_experts": 8}, "num_experts 8"),
        (GTE | {"layer_norm_type": "rms_norm"}, "layer_norm_type 'rms_norm'"),
        (
            GTE | {"position_embedding_type": "absolute"},
            "position_embedding_type 'absolute' is not supported; it must be 'rope'",
        ),
        (GTE | {"rope_scaling": {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}}, "mixed_b 0.6"),
        (GTE | {"rope_scaling": "ntk"}, "rope parameters 'ntk'"),
        (JINA | {"feed_forward_type": "swiglu"}, "feed_forward_type 'swiglu'"),
        (DEBERTA | {"relative_attention": False}, "relative_attention"),
        (SIZES | {"model_type": "deberta-v2"}, "relative_attention is missing"),
        (DEBERTA | {"pos_att_type": "p2p"}, "pos_att_type"),
        (DEBERTA | {"conv_kernel_size": 4}, "conv_kernel_size is 4"),
        (DEBERTA | {"attention_head_size": 16}, "attention_head_size 16"),
        (ALBERT | {"inner_group_num": 2}, "inner_group_num 2"),
        (ALBERT | {"num_hidden_groups": 9}, "num_hidden_groups is 9"),
        (MPNET | {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets 16"),
        (MPNET | {"max_position_embeddings": 2}, "pad_token_id is 1"),
    ],
)
def test_other_variants_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ModelConfigError, ModelUnsupported), match=message):
        parse(values)


JUNK = st.none() | st.booleans() | st.integers(-2, 10**12) | st.floats() | st.text(max_size=4)
JUNK = JUNK | st.lists(JUNK, max_size=2) | st.dictionaries(st.sampled_from(["type", "rope_theta", "factor"]), JUNK)
KEYS = {
    "albert": ["embedding_size", "num_hidden_groups", "inner_group_num", "type_vocab_size"],
    "deberta-v2": ["pos_att_type", "conv_kernel_size", "conv_act", "norm_rel_ebd", "max_relative_positions"],
    "modernbert": ["layer_types", "rope_parameters", "local_attention", "norm_bias", "global_attn_every_n_layers"],
    "mpnet": ["relative_attention_num_buckets", "max_position_embeddings", "hidden_act"],
    "new": ["rope_scaling", "rope_theta", "position_embedding_type", "type_vocab_size", "rope_parameters"],
    "nomic_bert": ["rotary_emb_base", "rotary_scaling_factor", "max_trained_positions", "activation_function"],
    "bert": ["position_embedding_type", "feed_forward_type", "layer_norm_eps", "num_attention_heads"],
}


@pytest.mark.parametrize("values", [ALBERT, DEBERTA, MODERN, MPNET, GTE, NOMIC, JINA])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_value_is_read_or_refused(values: dict[str, Any], data: st.DataObject) -> None:
    keys = KEYS[values.get("model_type", "bert")]
    changes = data.draw(st.dictionaries(st.sampled_from([*keys, *values]), JUNK, max_size=3))
    with contextlib.suppress(ModelError):
        model = parse(values | changes)
        assert model.max_tokens <= 1 << 17
        assert ModelConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(model)))) == model


def test_known_code_of_a_model_is_computed_and_other_code_refused(tmp_path: Path) -> None:
    source = tmp_path / "config.json"
    for values, code in (
        (NOMIC, "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"),
        (GTE, "Alibaba-NLP/new-impl--modeling.NewModel"),
        (JINA, "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"),
    ):
        reject_folder(tmp_path, values | {"auto_map": {"AutoModel": code}}, source)
    for values, code in (
        (JINA, "jinaai/jina-bert-v2-qk-post-norm--modeling_bert.JinaBertModel"),
        (NOMIC, "me/mine--modeling.MyModel"),
        (SIZES, "me/mine--modeling.NomicBertModel"),
    ):
        with pytest.raises(ModelUnsupported, match="auto_map"):
            reject_folder(tmp_path, values | {"auto_map": {"AutoModel": code}}, source)


def test_the_log_says_that_the_code_of_a_folder_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    code = "nomic-ai/nomic-bert-2048--modeling_hf_nomic_bert.NomicBertModel"
    (tmp_path / "config.json").write_text(json.dumps(NOMIC | {"auto_map": {"AutoModel": code}}))
    (tmp_path / "vocab.txt").write_text("\n".join(["[UNK]", "[CLS]", "[SEP]", *map(str, range(57))]))
    (tmp_path / "model.safetensors").touch()  # no weight is read
    read_model(ServerConfig(model_dir=str(tmp_path)), logging.getLogger())
    assert f"the code of the model (auto_map {code}) is not run: this server computes nomic_bert itself" in caplog.text


def test_a_configuration_crosses_processes_as_json() -> None:
    for values in (SIZES, MODERN, DEBERTA | {"conv_kernel_size": 3}):
        model = parse(values)
        assert ModelConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(model)))) == model


def test_an_engine_refuses_what_it_does_not_compute_and_names_the_remedy() -> None:
    needs = frozenset({Feature.RELATIVE_BIAS, Feature.ROPE})
    with pytest.raises(EngineUnavailable, match=r"tensorflow.*relative position bias, rotary embeddings \(RoPE\)"):
        engines.choose("tensorflow", "cpu", "fp32", None, needs)
    with pytest.raises(EngineUnavailable, match=r"no engine can run on gpu.*tensorflow: it does not compute"):
        engines.choose("auto", "gpu", "fp16", None, needs)
    assert engines.choose("zeros", "cpu", "fp32", None, needs) == "zeros"
    assert parse(SIZES).features == frozenset()


def test_every_field_that_changes_a_vector_is_in_the_digest(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"x")
    of_bert = dataclasses.replace(parse(SIZES), checkpoint=str(weights))
    others: dict[str, Any] = {
        field.name: field.default + 1 if isinstance(field.default, int) else (1,) for field in dataclasses.fields(BERT)
    }
    others |= {name: not field for name, field in dataclasses.asdict(BERT).items() if isinstance(field, bool)}
    others |= {"rope": (Rope(1.0),), "disentangled": Disentangled(True, True, 1, 1, True, True)}
    digests = {model_digest(of_bert, None)}
    for name, value in others.items():
        changed = dataclasses.replace(of_bert, architecture=dataclasses.replace(BERT, **{name: value}))
        digests.add(model_digest(changed, None))
    assert len(digests) == 1 + len(others)


#: family → canonical name, name in the model's state, part and number of the parts of the tensor.
SAMPLES = {
    "mpnet": [
        ("encoder/layer_1/attention/self/key/kernel", "encoder.layer.1.attention.attn.k.weight"),
        ("encoder/layer_1/attention/output/dense/bias", "encoder.layer.1.attention.attn.o.bias"),
        ("encoder/layer_1/attention/output/LayerNorm/gamma", "encoder.layer.1.attention.LayerNorm.weight"),
        ("encoder/relative_attention_bias", "encoder.relative_attention_bias.weight"),
        ("pooler/dense/kernel", "pooler.dense.weight"),
    ],
    "electra": [
        ("embeddings/projection/kernel", "embeddings_project.weight"),
        ("embeddings/projection/bias", "embeddings_project.bias"),
        ("embeddings/position_embeddings", "embeddings.position_embeddings.weight"),
    ],
    "albert": [
        ("embeddings/projection/kernel", "encoder.embedding_hidden_mapping_in.weight"),
        (
            "encoder/layer_1/output/LayerNorm/beta",
            "encoder.albert_layer_groups.1.albert_layers.0.full_layer_layer_norm.bias",
        ),
        ("encoder/layer_0/output/dense/kernel", "encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight"),
        (
            "encoder/layer_0/attention/self/query/bias",
            "encoder.albert_layer_groups.0.albert_layers.0.attention.query.bias",
        ),
        ("pooler/dense/bias", "pooler.bias"),
    ],
    "modernbert": [
        ("embeddings/word_embeddings", "embeddings.tok_embeddings.weight"),
        ("embeddings/LayerNorm/gamma", "embeddings.norm.weight"),
        ("encoder/layer_1/attention/LayerNorm/gamma", "layers.1.attn_norm.weight"),
        ("encoder/layer_0/intermediate/LayerNorm/gamma", "layers.0.mlp_norm.weight"),
        ("encoder/layer_1/attention/self/value/kernel", "layers.1.attn.Wqkv.weight", 2, 3),
        ("encoder/layer_1/intermediate/dense/kernel", "layers.1.mlp.Wi.weight", 0, 2),
        ("encoder/layer_1/intermediate/up/kernel", "layers.1.mlp.Wi.weight", 1, 2),
        ("encoder/LayerNorm/gamma", "final_norm.weight"),
    ],
    "nomic_bert": [
        ("embeddings/LayerNorm/beta", "embeddings.LayerNorm.bias"),
        ("encoder/layer_2/attention/self/query/kernel", "layers.2.self_attn.q_proj.weight"),
        ("encoder/layer_2/intermediate/dense/kernel", "layers.2.mlp.gate_proj.weight"),
        ("encoder/layer_2/intermediate/up/kernel", "layers.2.mlp.up_proj.weight"),
        ("encoder/layer_2/output/LayerNorm/gamma", "layers.2.post_mlp_layernorm.weight"),
    ],
    "gte": [
        ("encoder/layer_2/attention/self/key/bias", "layers.2.self_attn.k_proj.bias"),
        ("encoder/layer_2/intermediate/dense/kernel", "layers.2.mlp.gate_proj.weight"),
        ("encoder/layer_2/intermediate/up/kernel", "layers.2.mlp.up_proj.weight"),
        ("encoder/layer_2/output/dense/bias", "layers.2.mlp.down_proj.bias"),
    ],
    "deberta-v2": [
        ("embeddings/LayerNorm/gamma", "embeddings.LayerNorm.weight"),
        ("encoder/rel_embeddings", "encoder.rel_embeddings.weight"),
        ("encoder/rel_embeddings/LayerNorm/beta", "encoder.LayerNorm.bias"),
        ("encoder/layer_2/attention/self/query/kernel", "encoder.layer.2.attention.self.query_proj.weight"),
    ],
}


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_weights_have_canonical_names(tmp_path: Path, family: str, head: str) -> None:
    pytest.importorskip("transformers")
    saved = family_models.save(tmp_path, ARCHITECTURES[family], head)
    state = (saved if head == "Model" else saved.base_model).state_dict()
    model = load_model_config(tmp_path)
    has_pooler = head == "Model" and family in ("mpnet", "albert")
    weights = load_weights(model, need_pooler=has_pooler)
    assert {name: weight.shape for name, weight in weights.items()} == expected_shapes(
        model, model.num_hidden_layers, has_pooler
    )
    for name, source, *part in SAMPLES[family]:
        if name.startswith("pooler/") and not has_pooler:
            continue
        expected = state[source].numpy()
        if part:
            expected = np.split(expected, part[1])[part[0]]
        np.testing.assert_array_equal(weights[name], expected.T if name.endswith("/kernel") else expected, name)


def test_a_tensor_that_a_layer_of_the_family_does_not_have_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    import torch

    saved = family_models.save(tmp_path, ARCHITECTURES["modernbert"])
    saved.layers[1].adapter = torch.nn.Linear(2, 2)
    saved.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"layers\.1\.adapter"):
        load_weights(load_model_config(tmp_path), need_pooler=False)


def test_only_one_type_of_tokens_is_repeated_for_pairs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    family_models.save(tmp_path, ARCHITECTURES["gte"])
    weights = load_weights(load_model_config(tmp_path), need_pooler=False)
    types = weights["embeddings/token_type_embeddings"]
    assert types.shape == (2, 32)
    np.testing.assert_array_equal(types[0], types[1])


def test_buckets_are_those_of_transformers() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from transformers.models.deberta_v2 import modeling_deberta_v2
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    offsets = np.arange(-600, 601)
    expected = MPNetEncoder.relative_position_bucket(torch.tensor(offsets)).numpy()
    np.testing.assert_array_equal(relative_positions.relative_buckets(offsets, 32, 128), expected)
    longest = 600
    model = dataclasses.replace(parse(SIZES), max_position_embeddings=longest)
    for buckets, distance in ((256, 512), (8, 40), (0, 512), (64, 600), (32, 128)):
        found = relative_positions.position_rows(model, Disentangled(True, True, buckets, distance, True, True))
        distances = torch.arange(1 - longest, longest).flip(0)  # query - key
        if buckets:
            distances = modeling_deberta_v2.make_log_bucket_position(distances, buckets, distance).long()
        span = buckets or distance
        np.testing.assert_array_equal(found, torch.clamp(distances + span, 0, 2 * span - 1).numpy())


def test_slopes_of_any_number_of_heads() -> None:
    for heads in range(1, 33):
        slopes = relative_positions.alibi_slopes(heads)
        assert len(slopes) == len(set(slopes)) == heads
        assert max(slopes) < 1
    np.testing.assert_allclose(relative_positions.alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(relative_positions.alibi_slopes(12)[8:], [2 ** (-i / 2) for i in (1, 3, 5, 7)])
