"""Caches the weights of the engine torch in one safetensors file, in the layout of its encoder.

Every worker maps the file. On the CPU all workers of a machine share its pages. On a GPU the file is read once into the
memory of the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...model.cache import Cache
from ...model.weights import load_weights
from ..base import EngineSpec, Log

#: PyTorch's names of the dtypes of ``EngineSpec``.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_KIND = "torch-weights"
_FILE = "weights.safetensors"


def write(spec: EngineSpec, log: Log) -> Path:
    """Writes the weights to the cache if they are missing or damaged, and returns the path of the file.

    Raises:
        ModelError: the model cannot be read, see ``load_weights``.
        CacheError: the cache cannot be written.
        ValueError: the model has no such pooling layer.
    """
    cache = spec.cache()
    return cache.entry(_KIND, _cache_key(spec, cache), lambda folder: _write(spec, folder, log)) / _FILE


def find(spec: EngineSpec) -> Path | None:
    """Returns the path of the weights, or None if they are missing."""
    cache = spec.cache()
    folder = cache.find(_KIND, _cache_key(spec, cache))
    return folder / _FILE if folder else None


def load(path: Path, device: Any) -> dict[str, Any]:
    """Returns the tensors of a file by name: mapped on the CPU, copied to a GPU."""
    import torch
    from safetensors import safe_open

    # All tensors of the encoder are made in inference mode. The compiler treats others as a different type.
    with torch.inference_mode(), safe_open(str(path), framework="pt", device="cpu") as file:
        return {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118, not a dict


def fuse_weights(weights: dict[str, np.ndarray], dtype: Any) -> dict[str, Any]:
    """Converts canonical weights to the tensors of the encoder, each dense kernel as ``weight`` ``[out, in]``.

    Query, key and value become one kernel, ``.../qkv/weight`` ``[3 hidden, hidden]``. All encoder weights get
    ``dtype``,
    also those of LayerNorm: the CUDA kernel needs the dtype of its input. Embeddings and pooler stay float32, since
    each
    computes a token once.
    """
    import torch

    tensors = {}
    for name, value in weights.items():
        scope, _, kind = name.rpartition("/")
        if scope.endswith(("/self/key", "/self/value")):
            continue
        if scope.endswith("/self/query"):
            base = scope[: -len("/query")]
            value = np.concatenate([weights[f"{base}/{part}/{kind}"] for part in ("query", "key", "value")], axis=-1)
            name = f"{base}/qkv/{kind}"
        if kind == "kernel":
            name, value = f"{name[: -len('kernel')]}weight", value.T
        tensor = torch.tensor(np.ascontiguousarray(value))
        tensors[name] = tensor.to(dtype) if scope.startswith("encoder/") else tensor
    return tensors


def _cache_key(spec: EngineSpec, cache: Cache) -> dict[str, object]:
    return {
        "model": spec.digest(cache),
        "dtype": spec.dtype,
        "layers": max(spec.layers) + 1,
        "pooler": spec.needs_pooler,
    }


def _write(spec: EngineSpec, folder: Path, log: Log) -> None:
    import torch
    from safetensors.torch import save_file

    log(f"load parameters from checkpoint {spec.model.checkpoint}")
    weights = load_weights(spec.model, max(spec.layers) + 1, spec.needs_pooler)
    log(f"write weights for PyTorch, {spec.dtype}")
    save_file(fuse_weights(weights, getattr(torch, DTYPES[spec.dtype])), str(folder / _FILE))
