"""Caches the weights of the engine torch in one safetensors file, in the layout of its encoder.

Every worker maps the file. On the CPU all workers of a machine share its pages. On a GPU the file is read once into the
memory of the device.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...model.architecture import Architecture
from ...model.cache import Cache
from ...model.config import ModelConfig
from ...model.errors import ModelError
from ...model.relative_positions import (
    POSITIONS,
    RELATIVE_BIAS,
    position_projections,
    position_rows,
    relative_bias,
    rotations,
)
from ...model.weights import load_weights
from ..base import EngineSpec, Log

#: PyTorch's names of the dtypes of ``EngineSpec``.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

_KIND = "torch-weights"
_FILE = "weights.safetensors"
#: Name of a link to the file of the base model: ``_FILE`` of a variant has only the tensors that differ from it.
_BASE = "base.safetensors"
#: Tables by relative position, see ``model.relative_positions``: rows of the table of positions.
POSITION_ROWS = "attention/position_rows"
#: Weights that only the tables need, and layers that become part of another one or of a table.
_IN_TABLES = (RELATIVE_BIAS, POSITIONS)
_IN_OTHERS = ("/self/key", "/self/value", "/self/position_key", "/self/position_query", "/intermediate/up")


def write(spec: EngineSpec, log: Log) -> Path:
    """Writes the weights to the cache if they are missing or damaged, and returns the path of the file.

    Raises:
        ModelError: the model cannot be read, see ``load_weights``.
        CacheError: the cache cannot be written.
        ValueError: the model has no such pooling layer.
    """
    cache = spec.cache()
    key = cache_key(spec, cache)
    base = None
    if (base_spec := base_of(spec)) and cache.find(_KIND, key) is None:
        log("prepare the base model")
        try:
            base = write(base_spec, log)
        except ModelError as error:  # the adapter may bring a layer that it lacks
            log(f"the variant shares no weights with its base model: {error}")
    return cache.entry(_KIND, key, lambda folder: _write(spec, folder, log, base)) / _FILE


def base_of(spec: EngineSpec) -> EngineSpec | None:
    """Returns the base model of a variant that may be prepared; None for other models."""
    if spec.model.adapter is None or spec.only_verified:
        return None
    return replace(spec, model=replace(spec.model, adapter=None), model_digest="")


def size_of(path: Path) -> int:
    """Returns the bytes of the weights in a file and in that of the base model."""
    return sum(each.stat().st_size for each in (path, path.with_name(_BASE)) if each.exists())


def find(spec: EngineSpec) -> Path | None:
    """Returns the path of the weights, or None if they are missing."""
    cache = spec.cache()
    folder = cache.find(_KIND, cache_key(spec, cache))
    return folder / _FILE if folder else None


def load(path: Path, device: Any) -> dict[str, Any]:
    """Returns the tensors of a file by name: mapped on the CPU, copied to a GPU."""
    import torch
    from safetensors import safe_open

    tensors: dict[str, Any] = {}
    for file in (path, path.with_name(_BASE)):
        if file.exists():
            # All tensors of the encoder are made in inference mode. The compiler treats others as a different type.
            with torch.inference_mode(), safe_open(str(file), framework="pt", device="cpu") as opened:
                names = [name for name in opened.keys() if name not in tensors]  # noqa: SIM118, not a dict
                tensors |= {name: opened.get_tensor(name).to(device) for name in names}
    return dict(sorted(tensors.items()))  # a variant has the order of its base


def bias_name(window: int) -> str:
    """Returns the name of what layers with this window add to their scores; float32."""
    return f"attention/bias_{window}"


def rotation_names(architecture: Architecture, layer: int) -> tuple[str, str]:
    """Returns the names of cosine and sine of the rotary embeddings of a layer; float32."""
    number = architecture.rope.index(architecture.rope[layer])
    return f"attention/cosine_{number}", f"attention/sine_{number}"


def position_tables(config: ModelConfig, weights: dict[str, np.ndarray], layers: int) -> dict[str, np.ndarray]:
    """Returns the tables by relative position of the first ``layers`` layers; empty for BERT."""
    architecture = config.architecture
    tables: dict[str, np.ndarray] = {}
    for layer in range(layers):
        name = bias_name(architecture.window_of(layer))
        if name not in tables and (bias := relative_bias(config, weights, layer)) is not None:
            tables[name] = bias
        if rope := architecture.rope_of(layer):
            tables.update(zip(rotation_names(architecture, layer), rotations(config, rope), strict=True))
        if architecture.disentangled:
            scope = f"encoder/layer_{architecture.weights_of(layer)}/attention/self"
            projections = position_projections(config, weights, layer)
            for name, values in zip(("position_key", "position_query"), projections, strict=True):
                if values is not None:
                    by_head = values.reshape(-1, config.num_attention_heads, config.head_size)
                    tables[f"{scope}/{name}"] = by_head.transpose(1, 0, 2)
    if architecture.disentangled:
        tables[POSITION_ROWS] = position_rows(config, architecture.disentangled).astype(np.int32)
    return tables


def fuse_weights(weights: dict[str, np.ndarray], dtype: Any) -> dict[str, Any]:
    """Converts canonical weights to the tensors of the encoder, each dense kernel as ``weight`` ``[out, in]``.

    Query, key and value become one kernel, ``.../qkv/weight`` ``[3 hidden, hidden]``, and so do the two of gated units,
    ``.../gated/weight`` ``[2 intermediate, hidden]``. All encoder weights get ``dtype``, also those of LayerNorm: the
    CUDA kernel needs the dtype of its input. Embeddings, pooler and ``attention/...`` keep theirs.
    """
    import torch

    tensors = {}
    for name, value in weights.items():
        scope, _, kind = name.rpartition("/")
        if scope.endswith(_IN_OTHERS) or name.startswith(_IN_TABLES):
            continue
        if scope.endswith("/self/query"):
            base = scope[: -len("/query")]
            value = np.concatenate([weights[f"{base}/{part}/{kind}"] for part in ("query", "key", "value")], axis=-1)
            name = f"{base}/qkv/{kind}"
        elif scope.endswith("/intermediate/dense") and f"{(base := scope[: -len('/dense')])}/up/{kind}" in weights:
            value = np.concatenate([value, weights[f"{base}/up/{kind}"]], axis=-1)
            name = f"{base}/gated/{kind}"
        if kind == "kernel":
            name, value = f"{name[: -len('kernel')]}weight", value.T
        tensor = torch.tensor(np.ascontiguousarray(value))
        tensors[name] = tensor.to(dtype) if scope.startswith("encoder/") else tensor
    return tensors


def cache_key(spec: EngineSpec, cache: Cache) -> dict[str, object]:
    """Returns all that the weights depend on."""
    return {
        "model": spec.digest(cache),
        "dtype": spec.dtype,
        "layers": max(spec.layers) + 1,
        "pooler": spec.needs_pooler,
    }


def _write(spec: EngineSpec, folder: Path, log: Log, base: Path | None) -> None:
    import torch
    from safetensors.torch import save_file

    log(f"load parameters from checkpoint {spec.model.checkpoint}")
    weights = load_weights(spec.model, max(spec.layers) + 1, spec.needs_pooler)
    log(f"write weights for PyTorch, {spec.dtype}")
    weights |= position_tables(spec.model, weights, max(spec.layers) + 1)
    tensors = fuse_weights(weights, getattr(torch, DTYPES[spec.dtype]))
    if base is not None and spec.cache().link(base, folder / _BASE):
        known = load(base, torch.device("cpu"))
        tensors = {
            name: each for name, each in tensors.items() if name not in known or not torch.equal(each, known[name])
        }
    save_file(tensors, str(folder / _FILE))
