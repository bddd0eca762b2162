"""A checkpoint of either style becomes canonical weights: Google's names, float32, every shape checked.

The names are those of Google's TF1 checkpoints without ``bert/``. A dense kernel is ``[in, out]``, the transpose of
PyTorch's ``weight``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from .config import ModelConfig
from .errors import WeightError
from .readers import Reader, open_reader

WORD_EMBEDDINGS = "embeddings/word_embeddings"


def load_weights(
    config: ModelConfig, need_layers: int | None = None, need_pooler: bool = True
) -> dict[str, np.ndarray]:
    """Weights of the embeddings, the first ``need_layers`` encoder layers and the pooler.

    What else the checkpoint holds (optimizer slots, heads, the layers above) is not read.

    Args:
        need_layers: number of layers counted from the first, None for all.
        need_pooler: read ``pooler/dense`` as well.

    Returns:
        canonical name → float32 array, in C order; the names and shapes are those of ``expected_shapes``.

    Raises:
        WeightError: a weight is missing, has another shape than the configuration says, holds NaN or infinity, or
            the checkpoint has more layers than the configuration; the message names the tensor.
        ReaderMissing: the library that reads this format is not installed.
    """
    layers = config.num_hidden_layers if need_layers is None else need_layers
    reader = open_reader(config.checkpoint, config.checkpoint_format)
    names = source_names(reader.names(), config)
    refuse_further_layers(names, config)
    return {
        name: _read(reader, names, name, shape, config)
        for name, shape in expected_shapes(config, layers, need_pooler).items()
    }


def expected_shapes(config: ModelConfig, need_layers: int, need_pooler: bool) -> dict[str, tuple[int, ...]]:
    """Canonical name → shape of the weights of an encoder with ``need_layers`` layers."""
    hidden, inner = config.hidden_size, config.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        WORD_EMBEDDINGS: (config.vocab_size, hidden),
        "embeddings/position_embeddings": (config.max_position_embeddings, hidden),
        "embeddings/token_type_embeddings": (config.type_vocab_size, hidden),
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
    """Canonical name → name in the checkpoint, for the tensors that lie in the same scope as the word embeddings.

    Raises:
        WeightError: there are no word embeddings, or more than one encoder has some.
    """
    canonical = canonical_tf1 if config.checkpoint_format == "tf1" else canonical_hf
    scopes: dict[str, dict[str, str]] = {}
    all_names = sorted(names)
    for name in all_names:
        if found := canonical(name):
            scope, tensor = found
            scopes.setdefault(scope, {})[tensor] = name
    encoders = [scope for scope, tensors in scopes.items() if WORD_EMBEDDINGS in tensors]
    if not encoders:
        raise WeightError(
            f"{config.checkpoint} holds no word embeddings, so it is not a BERT model; its tensors are "
            f"{', '.join(all_names[:5])}{' ...' if len(all_names) > 5 else ''}"
        )
    usual = [scope for scope in ("bert/", "bert.", "") if scope in encoders]
    if not usual and len(encoders) > 1:
        raise WeightError(f"{config.checkpoint} holds several encoders ({', '.join(encoders)}); save one of them alone")
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
    """``(scope, canonical name)`` of a tensor of a TF1 checkpoint, None where it is no weight of an encoder.

    Optimizer slots (``.../kernel/adam_m``) end otherwise and are none.
    """
    found = _TF1.match(name)
    return (found["scope"], found["tensor"]) if found else None


def canonical_hf(name: str) -> tuple[str, str] | None:
    """``(scope, canonical name)`` of a tensor with a Hugging Face name, new or old, None where it is no weight."""
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


def refuse_further_layers(names: Iterable[str], config: ModelConfig) -> None:
    """Raises ``WeightError`` where the checkpoint has layers that the configuration does not count."""
    numbers = {int(found.group(1)) for name in names if (found := re.match(r"encoder/layer_(\d+)/", name))}
    if numbers and max(numbers) >= config.num_hidden_layers:
        raise WeightError(
            f"{config.checkpoint} has {max(numbers) + 1} layers, but num_hidden_layers in {config.config_path} is "
            f"{config.num_hidden_layers}; the two belong to different models"
        )


def _read(reader: Reader, names: dict[str, str], name: str, shape: tuple[int, ...], config: ModelConfig) -> np.ndarray:
    source = names.get(name)
    if source is None:
        remedy = (
            "choose another pooling strategy than CLS_POOLED, this model has no pooler"
            if name.startswith("pooler/")
            else f"does the checkpoint belong to {config.config_path}?"
        )
        raise WeightError(f"{config.checkpoint} has no weight {name}, expected with shape {list(shape)}; {remedy}")
    is_transposed = config.checkpoint_format != "tf1" and name.endswith("/kernel")
    expected = shape[::-1] if is_transposed else shape
    found = reader.shape(source)
    if found != expected:
        raise WeightError(
            f"weight {source} of {config.checkpoint} has shape {list(found)}, but {config.config_path} makes it "
            f"{list(expected)}; the two belong to different models"
        )
    weight = reader.read(source)
    if not np.isfinite(weight).all():
        raise WeightError(f"weight {source} of {config.checkpoint} holds NaN or infinity; the file is damaged")
    return np.ascontiguousarray(weight.T if is_transposed else weight)
