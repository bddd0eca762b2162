"""Tiny random models of each family, saved by transformers, and their hidden states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.config import ModelConfig, load_model_config

WORDS = 60
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.15,
}
#: Most tokens of the models whose results depend on distances, longer than their windows and buckets.
LONG = 200
#: family → prefix of its classes in transformers, configuration.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mpnet": ("MPNet", SIZES | {"max_position_embeddings": LONG + 2}),
    "electra": ("Electra", SIZES | {"embedding_size": 16, "max_position_embeddings": LONG}),
    "albert": (
        "Albert",
        SIZES | {"num_hidden_layers": 5, "embedding_size": 16, "num_hidden_groups": 2, "max_position_embeddings": LONG},
    ),
    "modernbert": (
        "ModernBert",
        SIZES
        | {
            "num_hidden_layers": 5,
            "local_attention": 6,
            "max_position_embeddings": LONG,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        },
    ),
    "nomic_bert": ("NomicBert", SIZES | {"max_position_embeddings": LONG}),
    "gte": ("Gte", SIZES | {"max_position_embeddings": LONG}),
    "deberta-v2": (
        "DebertaV2",
        SIZES
        | {
            "max_position_embeddings": LONG,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
        },
    ),
}


def save(folder: Path, family: tuple[str, dict[str, Any]], head: str = "Model", **changes: Any) -> Any:
    """Saves a random model with a vocabulary of the right size and returns it."""
    import torch
    import transformers

    name, values = family
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}{head}")(getattr(transformers, f"{name}Config")(**(values | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # transformers begins with biases of zero and norms of one
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    write_vocabulary(folder)
    return model


def save_and_load(folder: Path, family: str, **changes: Any) -> ModelConfig:
    """Saves the model of a family, and returns its configuration as the server reads it."""
    save(folder / "model", ARCHITECTURES[family], **changes)
    return load_model_config(folder / "model")


def write_vocabulary(folder: Path) -> None:
    """Writes a ``tokenizer.json`` with the right number of tokens."""
    vocab = {f"w{number}": number for number in range(WORDS)}
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}))


def change(path: Path, **values: Any) -> None:
    """Sets keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | values), "utf-8")


def batch_of(lengths: list[int], type_of_second: int = 0) -> Batch:
    """Returns a batch of random tokens; the second half of each sequence has the given type."""
    # The id of padding changes the positions of transformers.
    ids = np.random.default_rng(1).integers(5, WORDS, sum(lengths), np.int32)
    types = np.concatenate([np.arange(length) > length // 2 for length in lengths]).astype(np.int32) * type_of_second
    return Batch(ids, types, np.ones_like(ids), np.array(lengths, np.int32))


def hidden_states(model: Any, batch: Batch, layer: int) -> list[np.ndarray]:
    """Returns the outputs of a layer of transformers, computed for each sequence alone."""
    import torch

    rows = np.split(batch.input_ids, np.cumsum(batch.lengths)[:-1])
    with torch.no_grad():
        found = [model(torch.tensor(row[None].astype(np.int64)), output_hidden_states=True) for row in rows]
    return [states.hidden_states[layer][0].numpy() for states in found]
