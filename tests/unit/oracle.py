"""Computes the token vectors of the tiny model by the formulas of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bert_serving.server.engines.batch import Batch
from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.weights import load_weights
from model_folders import TINY

MODEL = load_model_config(TINY)


def sequences(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.integers(0, MODEL.vocab_size, length).astype(np.int32) for length in lengths]


def pack(ids: list[np.ndarray], masks: list[list[int]] | None = None) -> Batch:
    """Returns a batch; the second half of every sequence has type 1."""
    types = [(np.arange(len(row)) >= len(row) / 2).astype(np.int32) for row in ids]
    mask = [np.ones(len(row)) for row in ids] if masks is None else [np.array(row) for row in masks]
    lengths = np.array([len(row) for row in ids], np.int32)
    return Batch(np.concatenate(ids), np.concatenate(types), np.concatenate(mask).astype(np.int32), lengths)


def reference(batch: Batch, act: Callable[[np.ndarray], np.ndarray]) -> list[list[np.ndarray]]:
    """Returns the token vectors of all layers of each sequence, float64, one sequence at a time."""
    weights = {name: weight.astype(np.float64) for name, weight in load_weights(MODEL).items()}

    def dense(x: np.ndarray, scope: str) -> np.ndarray:
        return x @ weights[f"{scope}/kernel"] + weights[f"{scope}/bias"]

    def norm(x: np.ndarray, scope: str) -> np.ndarray:
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + MODEL.layer_norm_eps)
        return normal * weights[f"{scope}/gamma"] + weights[f"{scope}/beta"]

    results = []
    ends = np.cumsum(batch.lengths)
    for end, length in zip(ends, batch.lengths, strict=True):
        part = slice(end - length, end)
        x = weights["embeddings/word_embeddings"][batch.input_ids[part]]
        x = x + weights["embeddings/token_type_embeddings"][batch.type_ids[part]]
        x = norm(x + weights["embeddings/position_embeddings"][:length], "embeddings/LayerNorm")
        layers = []
        for layer in range(MODEL.num_hidden_layers):
            scope = f"encoder/layer_{layer}"
            heads = [
                dense(x, f"{scope}/attention/self/{name}").reshape(length, MODEL.num_attention_heads, -1)
                for name in ("query", "key", "value")
            ]
            scores = np.einsum("qhd,khd->hqk", heads[0], heads[1]) / math.sqrt(MODEL.head_size)
            scores = np.exp(scores + (1 - batch.mask[part]) * -10000.0 - scores.max(-1, keepdims=True))
            if not batch.mask[part].any():
                scores = np.exp(np.einsum("qhd,khd->hqk", heads[0], heads[1]) / math.sqrt(MODEL.head_size))
            context = np.einsum("hqk,khd->qhd", scores / scores.sum(-1, keepdims=True), heads[2]).reshape(length, -1)
            x = norm(x + dense(context, f"{scope}/attention/output/dense"), f"{scope}/attention/output/LayerNorm")
            inner = act(dense(x, f"{scope}/intermediate/dense"))
            x = norm(x + dense(inner, f"{scope}/output/dense"), f"{scope}/output/LayerNorm")
            layers.append(x)
        results.append(layers)
    return results


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_new(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
