"""Loads the weights of a checkpoint under canonical names, as float32, with validated shapes.

Canonical names are those of Google's TF1 checkpoints without ``bert/``. A dense kernel is ``[in, out]``, the transpose
of PyTorch's ``weight``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from .config import ModelConfig
from .errors import WeightError
from .families import FAMILIES, bert_name
from .readers import Reader, open_reader
from .rejections import reject_unused_tensors

WORD_EMBEDDINGS = "embeddings/word_embeddings"
POSITION_EMBEDDINGS = "embeddings/position_embeddings"
TYPE_EMBEDDINGS = "embeddings/token_type_embeddings"


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
    reader = open_reader(config.checkpoint, config.checkpoint_format)
    all_names = list(reader.names())
    names = source_names(all_names, config)
    reject_extra_layers(names, config)
    known = expected_shapes(config, config.num_hidden_layers, need_pooler=True)
    scope = names[WORD_EMBEDDINGS].partition("embeddings")[0]
    reject_unused_tensors(all_names, scope, {names[name] for name in known if name in names}, config.checkpoint)
    return {
        name: _read(reader, names, name, shape, config)
        for name, shape in expected_shapes(config, layers, need_pooler).items()
    }


def expected_shapes(config: ModelConfig, need_layers: int, need_pooler: bool) -> dict[str, tuple[int, ...]]:
    """Returns canonical name → shape for an encoder with ``need_layers`` layers."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        WORD_EMBEDDINGS: (config.vocab_size, hidden),
        POSITION_EMBEDDINGS: (config.max_position_embeddings, hidden),
        TYPE_EMBEDDINGS: (config.type_vocab_size, hidden),
        "embeddings/LayerNorm/gamma": (hidden,),
        "embeddings/LayerNorm/beta": (hidden,),
    }
    for layer in range(need_layers):
        scope = f"encoder/layer_{layer}"
        for dense, (inputs, outputs) in {
            "attention/self/query": (hidden, hidden),
            "attention/self/key": (hidden, hidden),
            "attention/self/value": (hidden, hidden),
            "attention/output/dense": (hidden, hidden),
            "intermediate/dense": (hidden, inner),
            "output/dense": (inner, hidden),
        }.items():
            shapes[f"{scope}/{dense}/kernel"] = (inputs, outputs)
            shapes[f"{scope}/{dense}/bias"] = (outputs,)
        for norm in ("attention/output/LayerNorm", "output/LayerNorm"):
            shapes[f"{scope}/{norm}/gamma"] = (hidden,)
            shapes[f"{scope}/{norm}/beta"] = (hidden,)
    if need_pooler:
        shapes["pooler/dense/kernel"] = (hidden, hidden)
        shapes["pooler/dense/bias"] = (hidden,)
    return shapes


def source_names(names: Iterable[str], config: ModelConfig) -> dict[str, str]:
    """Returns canonical name → name in the checkpoint for the tensors in the scope of the word embeddings.

    Raises:
        WeightError: the checkpoint has no word embeddings, or several encoders.
    """
    is_tf1 = config.checkpoint_format == "tf1"
    scopes: dict[str, dict[str, str]] = {}
    all_names = sorted(names)
    for name in all_names:
        if found := canonical_tf1(name) if is_tf1 else canonical_hf(bert_name(name, config.family)):
            scope, tensor = found
            scopes.setdefault(scope, {})[tensor] = name
    encoders = [scope for scope, tensors in scopes.items() if WORD_EMBEDDINGS in tensors]
    if not encoders:
        raise WeightError(
            f"{config.checkpoint} has no word embeddings, so it is not a BERT model; its tensors are "
            f"{', '.join(all_names[:5])}{' ...' if len(all_names) > 5 else ''}"
        )
    usual = [scope for scope in ("bert/", FAMILIES[config.family].prefix, "") if scope in encoders]
    if not usual and len(encoders) > 1:
        raise WeightError(f"{config.checkpoint} has several encoders ({', '.join(encoders)}); save one of them alone")
    return scopes[(usual or encoders)[0]]


_TF1 = re.compile(
    r"^(?P<scope>(?:.*/)?)(?P<tensor>embeddings/(?:word|position|token_type)_embeddings|embeddings/LayerNorm/(?:gamma|beta)"
    r"|encoder/layer_\d+/.+/(?:kernel|bias|gamma|beta)|pooler/dense/(?:kernel|bias))$"
)
_HF = re.compile(
    r"^(?P<scope>(?:.*\.)?)(?P<tensor>embeddings\.(?:word|position|token_type)_embeddings\.weight"
    r"|(?:embeddings|encoder\.layer\.\d+|pooler)\..*(?:weight|bias|gamma|beta))$"
)


def canonical_tf1(name: str) -> tuple[str, str] | None:
    """Returns ``(scope, canonical name)`` of a TF1 tensor; None if it is not a weight of an encoder.

    Optimizer slots (``.../kernel/adam_m``) are not weights.
    """
    found = _TF1.match(name)
    return (found["scope"], found["tensor"]) if found else None


def canonical_hf(name: str) -> tuple[str, str] | None:
    """Returns ``(scope, canonical name)`` of a tensor with a Hugging Face name, new or old; None if it is no weight."""
    found = _HF.match(name)
    if not found:
        return None
    tensor = found["tensor"].replace(".", "/").replace("encoder/layer/", "encoder/layer_")
    stem, _, kind = tensor.rpartition("/")
    if stem.endswith("_embeddings"):
        return found["scope"], stem
    if stem.endswith("LayerNorm"):
        return found["scope"], f"{stem}/{ {'weight': 'gamma', 'bias': 'beta'}.get(kind, kind) }"
    return found["scope"], f"{stem}/{ {'weight': 'kernel'}.get(kind, kind) }"


def reject_extra_layers(names: Iterable[str], config: ModelConfig) -> None:
    """Raises ``WeightError`` if the checkpoint has more layers than the configuration."""
    numbers = {int(found.group(1)) for name in names if (found := re.match(r"encoder/layer_(\d+)/", name))}
    if numbers and max(numbers) >= config.num_hidden_layers:
        raise WeightError(
            f"{config.checkpoint} has {max(numbers) + 1} layers, but num_hidden_layers in {config.config_path} is "
            f"{config.num_hidden_layers}; the two belong to different models"
        )


def _read(reader: Reader, names: dict[str, str], name: str, shape: tuple[int, ...], config: ModelConfig) -> np.ndarray:
    source = names.get(name)
    if name == TYPE_EMBEDDINGS and not FAMILIES[config.family].has_types:
        return np.zeros(shape, np.float32)
    if source is None:
        remedy = (
            "this model has no pooler: set another pooling strategy than CLS_POOLED"
            if name.startswith("pooler/")
            else f"check that the checkpoint belongs to {config.config_path}"
        )
        raise WeightError(f"{config.checkpoint} has no weight {name}, expected with shape {list(shape)}; {remedy}")
    is_transposed = config.checkpoint_format != "tf1" and name.endswith("/kernel")
    expected = shape[::-1] if is_transposed else shape
    found = reader.shape(source)
    has_one_type = name == TYPE_EMBEDDINGS and config.position_offset > 0 and found[:1] == (1,)
    if has_one_type:
        expected = (1, *shape[1:])
    elif name == POSITION_EMBEDDINGS:
        expected = (shape[0] + config.position_offset, *shape[1:])
    if found != expected:
        raise WeightError(
            f"weight {source} of {config.checkpoint} has shape {list(found)}, but {config.config_path} requires "
            f"{list(expected)}; the two belong to different models"
        )
    weight = reader.read(source)
    if not np.isfinite(weight).all():
        raise WeightError(
            f"weight {source} of {config.checkpoint} contains NaN or infinity; the file is damaged: copy it again"
        )
    if has_one_type:
        weight = np.repeat(weight, shape[0], 0)
    elif name == POSITION_EMBEDDINGS:
        weight = weight[config.position_offset :]
    return np.ascontiguousarray(weight.T if is_transposed else weight)
