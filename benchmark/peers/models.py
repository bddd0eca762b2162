"""Writes the same weights for all peers: random BERT-base as a TF1 checkpoint and as a Hugging Face folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
from install import OFFLINE
from original import BASE, CACHE, write_checkpoint

from bert_serving.server.model.config import load_model_config
from bert_serving.server.model.default import default_model_dir
from bert_serving.server.model.weights import load_weights

DRIVERS = Path(__file__).resolve().parent / "drivers"
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


def onnx_model(python: str, hf: str, name: str) -> Path:
    """Exports ``fp32.onnx`` and ``int8.onnx`` once with ``python``, which has torch; returns their folder.

    Raises:
        subprocess.CalledProcessError: the export failed.
    """
    return _exported(python, "export_onnx.py", hf, CACHE / f"onnx-{name}")


def optimum_model(python: str, hf: str, name: str) -> Path:
    """Exports the folders ``fp32`` and ``int8`` once with ``python``, which has optimum; returns their parent folder.

    Raises:
        subprocess.CalledProcessError: the export failed.
    """
    return _exported(python, "export_optimum.py", hf, CACHE / f"optimum-{name}")


def _exported(python: str, exporter: str, hf: str, folder: Path) -> Path:
    if not (folder / ".complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        command = [python, str(DRIVERS / exporter), hf, str(folder)]
        subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **OFFLINE})
        (folder / ".complete").touch()
    return folder
