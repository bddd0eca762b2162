"""Reads the weights of the modules after the pooling, and keeps them in the cache of prepared models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from ..model.cache import Cache
from ..model.config import ModelConfig
from ..model.errors import WeightError
from ..model.merged_reader import open_checkpoint
from ..model.pipeline import Dense, LayerNorm, SentencePipeline
from ..model.readers import Reader, open_reader

_KIND, _FILE = "sentence-head", "weights.npz"

#: ``<index of the module>/weight`` and ``.../bias`` → float32 array.
HeadWeights = Mapping[str, np.ndarray]


def prepare_head_weights(
    pipeline: SentencePipeline, width: int, cache: Cache, model: ModelConfig | None = None
) -> Path | None:
    """Returns the cache entry with the weights of the modules; None if no module has weights.

    Args:
        width: dimensions of a pooled vector.
        model: the model with its adapter; None without an adapter.

    Raises:
        WeightError: see :func:`read_head_weights`.
        CacheError: the cache cannot be written.
    """
    files = pipeline.weight_files
    if not files:
        return None
    modules = [msgspec.to_builtins(module) | {"weights": ""} for module in pipeline.modules]
    # An entry without "surplus" is of a version that ignored surplus tensors.
    key = {"files": cache.file_digests(files), "modules": modules, "width": width, "surplus": "refused"}
    key |= adapter_key(model, cache)

    def write(folder: Path) -> None:
        weights: dict[str, np.ndarray] = dict(read_head_weights(pipeline, width, model))
        np.savez(folder / _FILE, **weights)  # type: ignore[arg-type]

    return cache.entry(_KIND, key, write)


def load_head_weights(entry: str | None) -> HeadWeights:
    """Returns the weights in the cache entry of :func:`prepare_head_weights`."""
    if entry is None:
        return {}
    with np.load(Path(entry) / _FILE, allow_pickle=False) as file:
        return dict(file)


def adapter_key(model: ModelConfig | None, cache: Cache) -> dict[str, object]:
    """Returns what an entry of the cache depends on if the model has an adapter; empty without one."""
    return {"model": cache.model_digest(model)} if model is not None and model.adapter is not None else {}


def read_head_weights(pipeline: SentencePipeline, width: int, model: ModelConfig | None = None) -> HeadWeights:
    """Reads the weights of the modules from the files of the model.

    Args:
        width: dimensions of a pooled vector.
        model: as for :func:`prepare_head_weights`.

    Raises:
        WeightError: a tensor is missing, not finite, of the wrong shape, or surplus; the message names it.
    """
    weights: dict[str, np.ndarray] = {}
    for place, reader, tensor, source in _tensors(pipeline, width, model):
        weight = read_finite(reader, tensor, source)
        weights[place] = np.ascontiguousarray(weight.T if tensor.endswith("kernel") else weight)
    return weights


def read_finite(reader: Reader, tensor: str, source: str) -> np.ndarray:
    """Returns a tensor of the file ``source``.

    Raises:
        WeightError: a value is not finite.
    """
    weight = reader.read(tensor)
    if not np.isfinite(weight).all():
        raise WeightError(f"{source}: {tensor} holds a value that is not finite")
    return weight


def open_head(source: str, checkpoint_format: str, model: ModelConfig | None) -> Reader:
    """Opens the file of a head in a checkpoint format; if that is empty, in the format that its name ends with.

    The checkpoint of a model with an adapter has its tensors merged.
    """
    if checkpoint_format and model is not None:
        return open_checkpoint(model)
    return open_reader(source, checkpoint_format or ("safetensors" if source.endswith(".safetensors") else "pytorch"))


def check_head_weights(pipeline: SentencePipeline, width: int, model: ModelConfig | None = None) -> None:
    """Checks the tensors that :func:`read_head_weights` reads, without reading them.

    Raises:
        WeightError: as :func:`read_head_weights`, but for values that are not finite.
    """
    for _, reader, tensor, _ in _tensors(pipeline, width, model):
        reader.require_float(tensor)


def _tensors(
    pipeline: SentencePipeline, width: int, model: ModelConfig | None
) -> Iterator[tuple[str, Reader, str, str]]:
    """Yields the key in ``HeadWeights``, the reader, the name and the file of each tensor, which has the right shape.

    Raises:
        WeightError: see :func:`read_head_weights`.
    """
    readers: dict[str, Reader] = {}
    for index, module in enumerate(pipeline.modules):
        if isinstance(module, Dense):
            _require_width(module.weights, "Dense", module.in_features, width)
            width = module.out_features
            shapes: list[tuple[int, ...]] = [(width, module.in_features), (width,)]
        elif isinstance(module, LayerNorm):
            _require_width(module.weights, "LayerNorm", module.dimension, width)
            shapes = [(width,), (width,)]
        else:
            continue
        path = module.weights
        if path not in readers:
            readers[path] = open_head(path, module.checkpoint_format, model)
        if not module.checkpoint_format:
            _reject_surplus(readers[path], module, path)
        for kind, name, shape in zip(("weight", "bias"), module.names, shapes, strict=True):
            if kind == "weight" or module.has_bias:
                tensor = _find(readers[path], name, shape, path, bool(module.checkpoint_format))
                yield f"{index}/{kind}", readers[path], tensor, path


def _reject_surplus(reader: Reader, module: Dense | LayerNorm, source: str) -> None:
    """Raises ``WeightError`` if the file of a module has tensors that the module does not use."""
    used = module.names if module.has_bias else module.names[:1]
    surplus = sorted(set(reader.names()) - set(used))
    if surplus:
        raise WeightError(
            f"{source} has the tensor {surplus[0]}, which {type(module).__name__} does not use: the module has another "
            "architecture, which this server does not compute, or its config.json is of another module"
        )


def _require_width(source: str, kind: str, expected: int, width: int) -> None:
    if expected != width:
        raise WeightError(f"{source}: {kind} takes {expected} dimensions, its input has {width}")


def _find(reader: Reader, name: str, shape: tuple[int, ...], source: str, is_prefixed: bool) -> str:
    """Returns the name of a tensor in its file. A ``kernel`` is transposed."""
    tensor = _full_name(reader, name, source) if is_prefixed else name
    if tensor not in set(reader.names()):
        raise WeightError(f"{source} has no tensor {name}; copy the folder again")
    expected = shape[::-1] if name.endswith("kernel") else shape
    if reader.shape(tensor) != expected:
        raise WeightError(f"{source}: {tensor} has shape {reader.shape(tensor)}, expected {expected}")
    return tensor


def _full_name(reader: Reader, name: str, source: str) -> str:
    """Returns the name of a tensor of the head in a checkpoint, which puts the prefix of the model in front."""
    found = [each for each in reader.names() if each == name or each.endswith((f".{name}", f"/{name}"))]
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightError(f"{source} has several tensors {name} ({', '.join(found[:3])}); save one model alone")
    raise WeightError(
        f"{source} has no tensor {name}, so the model has no head of its family; serve its vectors with -task embed"
    )
