"""Loads the weights of a checkpoint under canonical names, as float32, with validated shapes.

Canonical names are those of Google's TF1 checkpoints without ``bert/``. A dense kernel is ``[in, out]``, the transpose
of PyTorch's ``weight``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from .config import ModelConfig
from .errors import WeightError
from .families import FAMILIES, bert_name
from .merged_reader import open_checkpoint
from .readers import Reader
from .rejections import reject_unused_tensors
from .sources import WORD_EMBEDDINGS, Source, find_sources

POSITION_EMBEDDINGS = "embeddings/position_embeddings"
TYPE_EMBEDDINGS = "embeddings/token_type_embeddings"
#: Maximum number of threads that convert weights.
_MAX_THREADS = 4


def load_weights(
    config: ModelConfig, need_layers: int | None = None, need_pooler: bool = True
) -> dict[str, np.ndarray]:
    """Loads the weights of the embeddings, the first ``need_layers`` encoder layers and the pooler.

    Other tensors (optimizer slots, heads, higher layers) are not read.

    Args:
        need_layers: number of layers from the first, None for all.
        need_pooler: also load ``pooler/dense``.

    Returns:
        canonical name → float32 array in C order, with the names and shapes of ``expected_shapes``.

    Raises:
        WeightError: a weight is missing, has an unexpected shape, or contains NaN or infinity; or the checkpoint has
            more layers than the configuration. The message names the tensor.
        ReaderMissing: the library that reads this format is not installed.
    """
    layers = config.num_hidden_layers if need_layers is None else need_layers
    reader, sources = _open_encoder(config)
    shapes = expected_shapes(config, layers, need_pooler)
    # The reader of TensorFlow is not thread-safe.
    threads = 1 if config.checkpoint_format == "tf1" else min(_MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        weights = pool.map(lambda name: _read(reader, sources, name, shapes[name], config), shapes)
        return dict(zip(shapes, weights, strict=True))


def check_weights(config: ModelConfig, need_layers: int, need_pooler: bool) -> None:
    """Checks names, shapes and types of the tensors that ``load_weights`` reads, without reading them.

    Raises:
        WeightError, ReaderMissing: as ``load_weights``, but for values that are not finite.
    """
    reader, sources = _open_encoder(config)
    for name, shape in expected_shapes(config, need_layers, need_pooler).items():
        if (source := _find(reader, sources, name, shape, config)) is not None:
            reader.require_float(source.name)


def _open_encoder(config: ModelConfig) -> tuple[Reader, dict[str, Source]]:
    """Opens a checkpoint, and returns the places of the weights of its encoder.

    Raises:
        WeightError: the encoder has more layers or other tensors than its architecture.
        ReaderMissing: the library that reads this format is not installed.
    """
    reader = open_checkpoint(config)
    all_names = list(reader.names())
    sources = find_sources(all_names, config)
    reject_extra_layers(sources, config)
    known = expected_shapes(config, config.num_hidden_layers, need_pooler=True)
    scope = sources[WORD_EMBEDDINGS].name.partition("embeddings")[0]
    used = {sources[name].name for name in known if name in sources}
    reject_unused_tensors(all_names, scope, used, config.checkpoint, lambda name: bert_name(name, config.family))
    return reader, sources


def expected_shapes(config: ModelConfig, need_layers: int, need_pooler: bool) -> dict[str, tuple[int, ...]]:
    """Returns canonical name → shape for an encoder with ``need_layers`` layers.

    ``architecture.Architecture`` names the weights that other families add, share or lack.
    """
    architecture, hidden = config.architecture, config.hidden_size
    width = architecture.embedding_size or hidden
    is_projected = architecture.embedding_size > 0
    shapes: dict[str, tuple[int, ...]] = {WORD_EMBEDDINGS: (config.vocab_size, width)}
    if architecture.has_positions:
        shapes[POSITION_EMBEDDINGS] = (config.max_position_embeddings, width)
    if architecture.has_types:
        shapes[TYPE_EMBEDDINGS] = (config.type_vocab_size, width)
    norm_width = width if architecture.norm_before_projection else hidden
    shapes |= _norm("embeddings/LayerNorm", norm_width, architecture.norm_bias)
    if is_projected:
        shapes |= _dense("embeddings/projection", width, hidden, architecture.projection_bias)
    if architecture.relative_buckets:
        shapes["encoder/relative_attention_bias"] = (architecture.relative_buckets, config.num_attention_heads)
    if disentangled := architecture.disentangled:
        shapes["encoder/rel_embeddings"] = (2 * disentangled.span, hidden)
        if disentangled.has_norm:
            shapes |= _norm("encoder/rel_embeddings/LayerNorm", hidden)
    if (convolution := architecture.convolution) and need_layers:
        shapes["encoder/convolution/kernel"] = (convolution.width, hidden // convolution.groups, hidden)
        shapes["encoder/convolution/bias"] = (hidden,)
        shapes |= _norm("encoder/convolution/LayerNorm", hidden)
    done: set[int] = set()
    for layer in range(need_layers):
        number = architecture.weights_of(layer)
        if number not in done:
            shapes |= _layer_shapes(
                config, f"encoder/layer_{number}", has_first_norm=layer > 0 or architecture.first_norm
            )
        done.add(number)
    if architecture.final_norm and need_layers == config.num_hidden_layers:
        shapes |= _norm("encoder/LayerNorm", hidden, architecture.norm_bias)
    if need_pooler:
        shapes |= _dense("pooler/dense", hidden, hidden)
    return shapes


def _layer_shapes(config: ModelConfig, scope: str, has_first_norm: bool) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of one layer."""
    architecture, hidden, inner = config.architecture, config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {}
    for name in ("query", "key", "value"):
        shapes |= _dense(f"{scope}/attention/self/{name}", hidden, hidden, architecture.attention_bias)
    if (disentangled := architecture.disentangled) and not disentangled.shares_projection:
        if disentangled.content_to_position:
            shapes |= _dense(f"{scope}/attention/self/position_key", hidden, hidden)
        if disentangled.position_to_content:
            shapes |= _dense(f"{scope}/attention/self/position_query", hidden, hidden)
    shapes |= _dense(f"{scope}/attention/output/dense", hidden, hidden, architecture.attention_output_bias)
    shapes |= _dense(f"{scope}/intermediate/dense", hidden, inner, architecture.intermediate_bias)
    if architecture.gated:
        shapes |= _dense(f"{scope}/intermediate/up", hidden, inner, architecture.intermediate_bias)
    shapes |= _dense(f"{scope}/output/dense", inner, hidden, architecture.output_bias)
    norms: tuple[str, ...] = ("attention/output/LayerNorm", "output/LayerNorm")
    if architecture.pre_norm:
        norms = ("attention/LayerNorm", "intermediate/LayerNorm") if has_first_norm else ("intermediate/LayerNorm",)
    for norm in norms:
        shapes |= _norm(f"{scope}/{norm}", hidden, architecture.norm_bias)
    return shapes


def _dense(scope: str, inputs: int, outputs: int, has_bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{scope}/kernel": (inputs, outputs)}
    return {**shapes, f"{scope}/bias": (outputs,)} if has_bias else shapes


def _norm(scope: str, width: int, has_bias: bool = True) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{scope}/gamma": (width,)}
    return {**shapes, f"{scope}/beta": (width,)} if has_bias else shapes


def reject_extra_layers(names: Iterable[str], config: ModelConfig) -> None:
    """Raises ``WeightError`` if the checkpoint has more layers than the configuration."""
    numbers = {int(found.group(1)) for name in names if (found := re.match(r"encoder/layer_(\d+)/", name))}
    layers = range(config.num_hidden_layers)
    expected = 1 + max(config.architecture.weights_of(layer) for layer in layers)
    if numbers and max(numbers) >= expected:
        key = "num_hidden_groups" if config.architecture.layer_weights else "num_hidden_layers"
        raise WeightError(
            f"{config.checkpoint} has {max(numbers) + 1} layers, but {key} in {config.config_path} is "
            f"{expected}; the two belong to different models"
        )


def _find(
    reader: Reader, sources: dict[str, Source], name: str, shape: tuple[int, ...], config: ModelConfig
) -> Source | None:
    """Returns the place of a weight; None for types of tokens that the family lacks, which are zeros.

    Raises:
        WeightError: the weight is missing, or has another shape.
    """
    source = sources.get(name)
    family = FAMILIES[config.family]
    if name == TYPE_EMBEDDINGS and not family.has_types:
        return None
    if source is None:
        remedy = (
            "this model has no pooler: set another pooling strategy than CLS_POOLED"
            if name.startswith("pooler/")
            else f"check that the checkpoint belongs to {config.config_path}"
        )
        raise WeightError(f"{config.checkpoint} has no weight {name}, expected with shape {list(shape)}; {remedy}")
    expected = shape[::-1] if _is_transposed(name, config) else shape
    expected = (source.parts * expected[0], *expected[1:])  # the outputs come first
    found = reader.shape(source.name)
    if _has_one_type(name, found, config):
        expected = (1, *shape[1:])
    elif name == POSITION_EMBEDDINGS:
        expected = (shape[0] + config.position_offset, *shape[1:])
    if found != expected:
        raise WeightError(
            f"weight {source.name} of {config.checkpoint} has shape {list(found)}, but {config.config_path} requires "
            f"{list(expected)}; the two belong to different models"
        )
    return source


def _is_transposed(name: str, config: ModelConfig) -> bool:
    return config.checkpoint_format != "tf1" and name.endswith("/kernel")


def _has_one_type(name: str, found: tuple[int, ...], config: ModelConfig) -> bool:
    return name == TYPE_EMBEDDINGS and FAMILIES[config.family].repeats_type and found[:1] == (1,)


def _read(
    reader: Reader, sources: dict[str, Source], name: str, shape: tuple[int, ...], config: ModelConfig
) -> np.ndarray:
    source = _find(reader, sources, name, shape, config)
    if source is None:
        return np.zeros(shape, np.float32)
    weight = reader.read(source.name)
    if not np.isfinite(weight).all():
        raise WeightError(
            f"weight {source.name} of {config.checkpoint} contains NaN or infinity; the file is damaged: copy it again"
        )
    if _has_one_type(name, weight.shape, config):
        weight = np.repeat(weight, shape[0], 0)
    elif name == POSITION_EMBEDDINGS:
        weight = weight[config.position_offset :]
    elif source.parts > 1:
        weight = np.split(weight, source.parts)[source.part]
    # A copy, because the file may change later.
    return np.array(weight.T if _is_transposed(name, config) else weight, order="C")
