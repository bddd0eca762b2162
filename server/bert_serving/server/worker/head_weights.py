"""Reads the weights of the modules after the pooling, and keeps them in the cache of prepared models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np

from ..model.cache import Cache
from ..model.errors import WeightError
from ..model.readers import Reader, open_reader
from ..model.sentence_transformers import Dense, LayerNorm, SentencePipeline

_KIND, _FILE = "sentence-head", "weights.npz"

#: ``<index of the module>/<name of the tensor>`` → float32 array.
HeadWeights = Mapping[str, np.ndarray]


def prepare_head_weights(pipeline: SentencePipeline, width: int, cache: Cache) -> Path | None:
    """Returns the cache entry with the weights of the modules; None if no module has weights.

    Args:
        width: dimensions of a pooled vector.

    Raises:
        WeightError: see :func:`read_head_weights`.
        CacheError: the cache cannot be written.
    """
    files = pipeline.weight_files
    if not files:
        return None
    modules = [msgspec.to_builtins(module) | {"weights": ""} for module in pipeline.modules]
    key = {"files": cache.file_digests(files), "modules": modules, "width": width}

    def write(folder: Path) -> None:
        weights: dict[str, np.ndarray] = dict(read_head_weights(pipeline, width))
        np.savez(folder / _FILE, **weights)  # type: ignore[arg-type]

    return cache.entry(_KIND, key, write)


def load_head_weights(entry: str | None) -> HeadWeights:
    """Returns the weights in the cache entry of :func:`prepare_head_weights`."""
    if entry is None:
        return {}
    with np.load(Path(entry) / _FILE, allow_pickle=False) as file:
        return dict(file)


def read_head_weights(pipeline: SentencePipeline, width: int) -> HeadWeights:
    """Reads the weights of the modules from the files of the model.

    Args:
        width: dimensions of a pooled vector.

    Raises:
        WeightError: a tensor is missing, not finite or of the wrong shape; the message names it.
    """
    weights: dict[str, np.ndarray] = {}
    for index, module in enumerate(pipeline.modules):
        if isinstance(module, Dense):
            _require_width(module.weights, "Dense", module.in_features, width)
            shapes: dict[str, tuple[int, ...]] = {"linear.weight": (module.out_features, module.in_features)}
            if module.has_bias:
                shapes["linear.bias"] = (module.out_features,)
            width = module.out_features
        elif isinstance(module, LayerNorm):
            _require_width(module.weights, "LayerNorm", module.dimension, width)
            shapes = {"norm.weight": (width,), "norm.bias": (width,)}
        else:
            continue
        path = module.weights
        reader = open_reader(path, "safetensors" if path.endswith(".safetensors") else "pytorch")
        for name, shape in shapes.items():
            weights[f"{index}/{name}"] = _read(reader, name, shape, path)
    return weights


def _require_width(source: str, kind: str, expected: int, width: int) -> None:
    if expected != width:
        raise WeightError(f"{source}: {kind} takes {expected} dimensions, its input has {width}")


def _read(reader: Reader, name: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    if name not in set(reader.names()):
        raise WeightError(f"{source} has no tensor {name}; copy the folder again")
    if reader.shape(name) != shape:
        raise WeightError(f"{source}: {name} has shape {reader.shape(name)}, expected {shape}")
    tensor = reader.read(name)
    if not np.isfinite(tensor).all():
        raise WeightError(f"{source}: {name} holds a value that is not finite")
    return tensor
