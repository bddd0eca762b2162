"""Writes a random JinaBERT and computes it in numpy: BERT with ALiBi and gated units.

The library transformers has no such model.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from family_models import LONG, SIZES, WORDS, write_vocabulary
from safetensors.numpy import save_file

from bert_serving.server.engines.batch import Batch
from oracle import gelu

HEADS, HIDDEN, INNER, LAYERS = 6, 48, 40, 3
#: For 6 heads: those of 4 heads, and every other one of 8.
SLOPES = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]


def write(folder: Path, **changes: Any) -> dict[str, np.ndarray]:
    """Writes a model with the configuration and the names of the hub's code; returns its weights."""
    folder.mkdir()
    config = SIZES | {
        "model_type": "bert",
        "architectures": ["JinaBertForMaskedLM"],
        "auto_map": {"AutoModel": "jinaai/jina-bert-implementation--modeling_bert.JinaBertModel"},
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": LONG,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    write_vocabulary(folder)
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        scope = f"encoder.layer.{layer}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{scope}.attention.{name}.weight"] = (HIDDEN, HIDDEN)
            shapes[f"{scope}.attention.{name}.bias"] = (HIDDEN,)
        shapes[f"{scope}.mlp.gated_layers.weight"] = (2 * INNER, HIDDEN)
        shapes[f"{scope}.mlp.wo.weight"] = (HIDDEN, INNER)
        shapes[f"{scope}.mlp.wo.bias"] = (HIDDEN,)
        norms += [f"{scope}.attention.output.LayerNorm", f"{scope}.mlp.layernorm"]
    weights = {name: (random.normal(size=shape) * 0.15).astype(np.float32) for name, shape in shapes.items()}
    for norm in norms:
        weights[f"{norm}.weight"] = (1 + random.normal(size=HIDDEN) * 0.05).astype(np.float32)
        weights[f"{norm}.bias"] = (random.normal(size=HIDDEN) * 0.05).astype(np.float32)
    save_file(weights, str(folder / "model.safetensors"))
    return weights


def hidden_states(
    weights: dict[str, np.ndarray], batch: Batch, layer: int, act: Callable[[np.ndarray], np.ndarray] = gelu
) -> list[np.ndarray]:
    """Returns the outputs of a layer, counted from 0, for each sequence."""
    ends = np.cumsum(batch.lengths)
    return [
        _encode(weights, batch.input_ids[end - length : end], layer, act)
        for end, length in zip(ends, batch.lengths, strict=True)
    ]


def _encode(
    weights: dict[str, np.ndarray], ids: np.ndarray, last: int, act: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def norm(x: np.ndarray, scope: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return np.asarray(x * w[f"{scope}.weight"] + w[f"{scope}.bias"])

    def linear(x: np.ndarray, scope: str) -> np.ndarray:
        return np.asarray(x @ w[f"{scope}.weight"].T + w.get(f"{scope}.bias", 0))

    x = norm(
        w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm",
    )
    length = len(ids)
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None])
    for layer in range(last + 1):
        scope = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{scope}.attention.self.{name}").reshape(length, HEADS, -1).swapaxes(0, 1)
            for name in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / np.sqrt(HIDDEN / HEADS) - np.array(SLOPES)[:, None, None] * distance
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        context = (scores / scores.sum(-1, keepdims=True)) @ value
        context = context.swapaxes(0, 1).reshape(length, HIDDEN)
        x = norm(x + linear(context, f"{scope}.attention.output.dense"), f"{scope}.attention.output.LayerNorm")
        inner = linear(x, f"{scope}.mlp.gated_layers")
        x = norm(x + linear(act(inner[:, :INNER]) * inner[:, INNER:], f"{scope}.mlp.wo"), f"{scope}.mlp.layernorm")
    return x
