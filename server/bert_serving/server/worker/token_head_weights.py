"""Reads the weights of the heads that work on token vectors, and keeps them in the cache of prepared models.

The decoder of a masked language model is as large as its word embeddings. So each weight is a file of its own, which
all workers map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..model.cache import Cache
from ..model.config import ModelConfig
from ..model.errors import WeightError
from ..model.merged_reader import MergedReader
from ..model.pipeline import SentencePipeline
from ..model.readers import Reader
from ..model.sources import WORD_EMBEDDINGS, find_sources
from ..model.token_heads import Tensor, all_files, describe
from .head_weights import adapter_key, open_head, read_finite

_KIND = "token-heads"

#: ``<head>/<weight>`` → float32 array.
TokenHeadWeights = Mapping[str, np.ndarray]


def prepare_token_heads(pipeline: SentencePipeline, model: ModelConfig, cache: Cache) -> Path | None:
    """Returns the cache entry with the weights of the heads; None without heads.

    Raises:
        WeightError: see :func:`read_token_heads`.
        CacheError: the cache cannot be written.
    """
    if not pipeline.has_token_heads:
        return None
    heads = {name: describe(head) for name, head in pipeline.token_heads.items()}
    files = all_files(pipeline.token_heads.values())

    def write(folder: Path) -> None:
        for place, weight in read_token_heads(pipeline, model):
            np.save(folder / _file(place), weight, allow_pickle=False)

    return cache.entry(_KIND, {"files": cache.file_digests(files), "heads": heads} | adapter_key(model, cache), write)


def load_token_heads(entry: str | None) -> TokenHeadWeights:
    """Maps the weights in the cache entry of :func:`prepare_token_heads`."""
    if entry is None:
        return {}
    paths = Path(entry).glob("*.npy")
    return {path.stem.replace(".", "/"): np.load(path, mmap_mode="r", allow_pickle=False) for path in paths}


def read_token_heads(pipeline: SentencePipeline, model: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yields place and value of each weight from the files of the model.

    Raises:
        WeightError: a tensor is missing, not finite, or of the wrong shape; the message names it.
    """
    for place, reader, name, source in _tensors(pipeline, model):
        yield place, np.ascontiguousarray(read_finite(reader, name, source), np.float32)


def check_token_heads(pipeline: SentencePipeline, model: ModelConfig) -> None:
    """Checks the tensors that :func:`read_token_heads` reads, without reading them.

    Raises:
        WeightError: as :func:`read_token_heads`, but for values that are not finite.
    """
    for _, reader, name, _ in _tensors(pipeline, model):
        reader.require_float(name)


def _tensors(pipeline: SentencePipeline, model: ModelConfig) -> Iterator[tuple[str, Reader, str, str]]:
    """Yields the place, the reader, the name and the file of each tensor, which has the right shape.

    Raises:
        WeightError: see :func:`read_token_heads`.
    """
    readers: dict[str, Reader] = {}
    for head_name, head in pipeline.token_heads.items():
        for weight_name, tensor in head.tensors.items():
            source = tensor.weights
            if source not in readers:
                readers[source] = open_head(source, tensor.checkpoint_format, model)
            name = _find(readers[source], tensor, source, model)
            if name is not None:
                yield f"{head_name}/{weight_name}", readers[source], name, source


def _find(reader: Reader, tensor: Tensor, source: str, model: ModelConfig) -> str | None:
    """Returns the name of a tensor in its file; None if an optional one is not there."""
    known = set(reader.names())
    for name in tensor.names:
        full = find_sources(known, model)[WORD_EMBEDDINGS].name if name == WORD_EMBEDDINGS else name
        if full not in known:
            continue
        if name == WORD_EMBEDDINGS and isinstance(reader, MergedReader) and reader.is_changed(full):
            raise WeightError(
                f"{source}: an adapter changes {full}, which the head of the masked language model shares; this server "
                "does not merge it: model.merge_and_unload(), then save_pretrained()"
            )
        if reader.shape(full) != tensor.shape:
            raise WeightError(f"{source}: {full} has shape {reader.shape(full)}, expected {tensor.shape}")
        return full
    if tensor.is_optional:
        return None
    raise WeightError(
        f"{source} has no tensor {tensor.names[0]}, so the model lacks a head that its folder describes; copy the "
        "folder again"
    )


def _file(place: str) -> str:
    return f"{place.replace('/', '.')}.npy"
