"""Writes model folders for tests: the tiny model of ``tests/data`` in Hugging Face layout, whole or sharded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.weights import expected_shapes, load_weights

GOLDEN = Path(__file__).resolve().parent / "data" / "golden"
TINY = GOLDEN / "models" / "tiny"
TINY_TUNED = GOLDEN / "models" / "tiny_tuned"


def copy_tiny(folder: Path) -> Path:
    """Copies the tiny TF1 model, so that a test may change it."""
    return Path(shutil.copytree(TINY, folder / "tiny"))


def random_weights() -> dict[str, np.ndarray]:
    """Returns random weights of the shapes of the tiny model. Unlike those of the model, they need no TensorFlow."""
    model, random = load_model_config(TINY), np.random.default_rng(0)
    shapes = expected_shapes(model, model.num_hidden_layers, True)
    return {name: random.normal(scale=0.2, size=shape).astype(np.float32) for name, shape in shapes.items()}


def hf_tensors(
    prefix: str = "", old_names: bool = False, weights: dict[str, np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Returns the weights of the tiny model, or others, with the names and the layout of Hugging Face."""
    tensors = {}
    for name, weight in (load_weights(load_model_config(TINY)) if weights is None else weights).items():
        scope, _, kind = name.rpartition("/")
        stem = prefix + scope.replace("layer_", "layer.").replace("/", ".")
        if kind == "kernel":
            tensors[f"{stem}.weight"] = np.ascontiguousarray(weight.T)
        elif kind.endswith("_embeddings"):
            tensors[f"{stem}.{kind}.weight"] = weight
        elif kind in ("gamma", "beta") and not old_names:
            tensors[f"{stem}.{ {'gamma': 'weight', 'beta': 'bias'}[kind] }"] = weight
        else:
            tensors[f"{stem}.{kind}"] = weight
    return tensors


def write_hf(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: object) -> Path:
    """Writes a Hugging Face folder: config.json, vocab.txt and, if tensors are given, model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads((TINY / "bert_config.json").read_text("utf-8"))
    values |= {"model_type": "bert", "layer_norm_eps": 1e-12, **config}
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    shutil.copy(TINY / "vocab.txt", folder / "vocab.txt")
    if tensors is not None:
        save_file(tensors, str(folder / "model.safetensors"))
    return folder


def write_sharded(folder: Path, tensors: dict[str, np.ndarray], shards: int = 3) -> Path:
    """Writes a Hugging Face folder with the tensors in several files, and an index."""
    write_hf(folder)
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        shard = {name: tensors[name] for name in names[number::shards]}
        save_file(shard, str(folder / file))
        weight_map |= dict.fromkeys(shard, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}), "utf-8")
    return folder


def write_classifier(folder: Path, num_labels: int = 1, **config: object) -> Path:
    """Writes a Hugging Face folder with the encoder of the tiny model and a random head of ``num_labels`` labels."""
    random = np.random.default_rng(num_labels)
    tensors = hf_tensors("bert.")
    hidden = len(tensors["bert.pooler.dense.bias"])
    tensors["classifier.weight"] = random.normal(size=(num_labels, hidden)).astype(np.float32)
    tensors["classifier.bias"] = random.normal(size=num_labels).astype(np.float32)
    labels = {str(index): f"label{index}" for index in range(num_labels)}
    return write_hf(folder, tensors, architectures=["BertForSequenceClassification"], id2label=labels, **config)
