"""Compares the families that compute more than BERT with transformers, on each engine that computes them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import family_models
import numpy as np
import pytest
from family_models import ARCHITECTURES, LONG, SIZES, batch_of

from bert_serving.server import engines
from bert_serving.server.engines.base import Device, EngineSpec
from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.architecture import Feature
from bert_serving.server.model.config import ModelConfig, load_model_config
from bert_serving.server.model.relative_positions import alibi_slopes
from poolings import SENTENCE_POOLINGS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

DEBERTA = ARCHITECTURES["deberta-v2"][1]
#: Variants of the families: other settings of the same code.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "albert, one group": ("Albert", ARCHITECTURES["albert"][1] | {"num_hidden_groups": 1}),
    "modernbert with biases": (
        "ModernBert",
        ARCHITECTURES["modernbert"][1]
        | {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "hidden_activation": "silu"},
    ),
    "gte without types, scaled": (
        "Gte",
        ARCHITECTURES["gte"][1]
        | {"type_vocab_size": 0, "rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 20000.0}},
    ),
    "gte, one row of types": ("Gte", ARCHITECTURES["gte"][1] | {"hidden_act": "silu", "type_vocab_size": 1}),
    "deberta with positions, types and convolution": (
        "DebertaV2",
        DEBERTA
        | {
            "conv_kernel_size": 3,
            "conv_act": "gelu",
            "position_biased_input": True,
            "type_vocab_size": 2,
            "share_att_key": False,
            "embedding_size": 16,
        },
    ),
    "deberta, c2p without buckets": (
        "DebertaV2",
        DEBERTA | {"pos_att_type": "c2p", "position_buckets": -1, "max_relative_positions": 20, "norm_rel_ebd": "none"},
    ),
    "deberta, p2c": ("DebertaV2", DEBERTA | {"pos_att_type": "p2c", "conv_kernel_size": 5, "conv_groups": 2}),
}
FAMILIES = [*ARCHITECTURES, *VARIANTS, "jina-bert"]
ENGINES = [info.name for info in engines.available("cpu", "fp32") if info.name != "zeros" and info.features]
#: Sequences of one token, shorter and longer than buckets and windows, and of all positions.
LENGTHS = [1, 7, LONG, 23, 90]


class Saved(NamedTuple):
    """A model in a folder, and a function to its hidden states: one array of each layer per sequence."""

    model: ModelConfig
    states: Callable[[Batch], list[list[np.ndarray]]]
    reference: Any


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    made: dict[str, Saved] = {}

    def of(name: str) -> Saved:
        if name not in made:
            folder = tmp_path_factory.mktemp("model")
            if name == "jina-bert":
                reference: Any = JinaBert()
                reference.save_pretrained(folder)
            else:
                reference = family_models.save(folder, ARCHITECTURES.get(name) or VARIANTS[name])
            made[name] = Saved(load_model_config(folder), lambda batch: hidden_states(reference, batch), reference)
        return made[name]

    return of


@pytest.fixture(scope="module")
def encode(tmp_path_factory: pytest.TempPathFactory, saved: Callable[[str], Saved]) -> Callable[..., np.ndarray]:
    cache = tmp_path_factory.mktemp("cache")
    made: dict[EngineSpec, Any] = {}

    def of(engine: str, name: str, batch: Batch, strategy: str = "NONE", layers: tuple[int, ...] = (-1,)) -> np.ndarray:
        """Returns the vectors of a batch; skips a family that the engine does not compute."""
        module, model = engines.load(engine), saved(name).model
        if missing := model.features - module.INFO.features:
            pytest.skip(f"{engine} does not compute {', '.join(feature.value for feature in missing)}")
        folder = cache / engine
        spec = EngineSpec(model=model, cache_dir=str(folder), pooling_layers=layers, pooling_strategy=strategy)
        if spec not in made:
            module.prepare(spec, lambda _: None)
            made[spec] = module.create(spec, Device(threads=1))
        found: np.ndarray = made[spec].encode(batch)
        return found

    return of


def hidden_states(reference: Any, batch: Batch) -> list[list[np.ndarray]]:
    """Returns the hidden states of each sequence, computed alone; masked tokens are no keys."""
    found = []
    ends = np.cumsum(batch.lengths)
    for start, end in zip(ends - batch.lengths, ends, strict=True):
        ids, mask = (torch.tensor(part[None, start:end].astype(np.int64)) for part in (batch.input_ids, batch.mask))
        with torch.no_grad():
            states = reference(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        found.append([state[0].numpy() for state in states])
    return found


def test_every_feature_is_in_a_family(saved: Callable[[str], Saved]) -> None:
    needed: set[Feature] = set()
    for name in FAMILIES:
        needed |= saved(name).model.features
    assert needed == set(Feature)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_are_those_of_transformers(
    saved: Callable[[str], Saved], encode: Callable[..., np.ndarray], family: str, engine: str
) -> None:
    batch = batch_of(LENGTHS)
    states = saved(family).states(batch)
    count = saved(family).model.num_hidden_layers
    layers = tuple(range(count))
    expected = np.concatenate([np.concatenate([of_one[1 + layer] for layer in layers], -1) for of_one in states])
    found = encode(engine, family, batch, layers=layers)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # A middle layer alone is computed without the layers above it.
    middle = np.concatenate([of_one[count - 1] for of_one in states])
    np.testing.assert_allclose(encode(engine, family, batch, layers=(-2,)), middle, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "family", ["albert", "modernbert", "mpnet", "jina-bert", "deberta with positions, types and convolution"]
)
def test_each_strategy_pools_the_hidden_states(
    saved: Callable[[str], Saved], encode: Callable[..., np.ndarray], family: str, engine: str
) -> None:
    batch = batch_of(LENGTHS)
    rows = [states[-1] for states in saved(family).states(batch)]
    mean, highest = np.stack([row.mean(0) for row in rows]), np.stack([row.max(0) for row in rows])
    first, last = np.stack([row[0] for row in rows]), np.stack([row[-1] for row in rows])
    expected = (mean, highest, np.concatenate([mean, highest], -1), first, last)
    for strategy, vectors in zip(SENTENCE_POOLINGS, expected, strict=True):
        found = encode(engine, family, batch, strategy)
        np.testing.assert_allclose(found, vectors, rtol=0, atol=1e-5, err_msg=strategy)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", ["mpnet", "albert"])
def test_the_pooler_is_that_of_transformers(
    saved: Callable[[str], Saved], encode: Callable[..., np.ndarray], family: str, engine: str
) -> None:
    batch = batch_of([9])
    with torch.no_grad():
        expected = saved(family).reference(torch.tensor(batch.input_ids[None].astype(np.int64))).pooler_output.numpy()
    np.testing.assert_allclose(encode(engine, family, batch, "CLS_POOLED"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_masked_tokens_are_no_keys(
    saved: Callable[[str], Saved], encode: Callable[..., np.ndarray], family: str, engine: str
) -> None:
    batch = batch_of([5, 60, 30])
    ends = np.cumsum(batch.lengths)
    batch.mask[ends - 1] = batch.mask[ends - batch.lengths] = 0
    is_seen = batch.mask == 1
    found = encode(engine, family, batch)
    assert not found[~is_seen].any()
    if "convolution" not in family and family != "deberta, p2c":  # transformers hides masked tokens from it
        expected = np.concatenate([states[-1] for states in saved(family).states(batch)])
        np.testing.assert_allclose(found[is_seen], expected[is_seen], rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_does_not_depend_on_its_batch(encode: Callable[..., np.ndarray], family: str, engine: str) -> None:
    batch = batch_of(LENGTHS)
    together = np.split(encode(engine, family, batch), np.cumsum(LENGTHS)[:-1])
    for ids, expected in zip(np.split(batch.input_ids, np.cumsum(LENGTHS)[:-1]), together, strict=True):
        alone = Batch(ids, ids * 0, np.ones_like(ids), np.array([len(ids)], np.int32))
        np.testing.assert_allclose(encode(engine, family, alone), expected, rtol=0, atol=5e-6)


class JinaBert(torch.nn.Module):
    """BERT with ALiBi and GEGLU, by definition; the code of the authors is no part of transformers."""

    def __init__(self) -> None:
        super().__init__()
        values = SIZES | {"max_position_embeddings": LONG}
        self.config = transformers.BertConfig(**values, position_embedding_type="alibi", feed_forward_type="geglu")
        torch.manual_seed(0)
        self.bert = transformers.BertModel(self.config).eval()
        del self.bert.embeddings.position_embeddings
        for layer in self.bert.encoder.layer:
            del layer.intermediate, layer.output
            hidden, inner = self.config.hidden_size, self.config.intermediate_size
            layer.mlp = torch.nn.Module()
            layer.mlp.gated_layers = torch.nn.Linear(hidden, 2 * inner, bias=False)
            layer.mlp.wo = torch.nn.Linear(inner, hidden)
            layer.mlp.layernorm = torch.nn.LayerNorm(hidden, eps=self.config.layer_norm_eps)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.05)

    def save_pretrained(self, folder: Path) -> None:
        self.config.save_pretrained(folder)
        family_models.change(folder / "config.json", position_embedding_type="alibi", feed_forward_type="geglu")
        torch.save(self.bert.state_dict(), folder / "pytorch_model.bin")
        family_models.write_vocabulary(folder)

    def forward(self, ids: Any, attention_mask: Any, output_hidden_states: bool) -> Any:
        embeddings, heads = self.bert.embeddings, self.config.num_attention_heads
        hidden = embeddings.LayerNorm(
            embeddings.word_embeddings(ids) + embeddings.token_type_embeddings(torch.zeros_like(ids))
        )
        positions = torch.arange(ids.shape[1])
        distance = (positions[:, None] - positions).abs()
        bias = -torch.tensor(alibi_slopes(heads))[:, None, None] * distance
        bias = bias.masked_fill(attention_mask[0] == 0, -1e9)
        states = [hidden]
        for layer in self.bert.encoder.layer:
            query, key, value = (
                getattr(layer.attention.self, name)(hidden)[0].view(len(positions), heads, -1).transpose(0, 1)
                for name in ("query", "key", "value")
            )
            weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
            hidden = layer.attention.output((weights @ value).transpose(0, 1).flatten(1)[None], hidden)
            first, second = layer.mlp.gated_layers(hidden).chunk(2, -1)
            inner = torch.nn.functional.gelu(first) * second
            hidden = layer.mlp.layernorm(layer.mlp.wo(inner) + hidden)
            states.append(hidden)
        return transformers.modeling_outputs.BaseModelOutput(hidden_states=tuple(states))
