"""Finds the weights of an encoder in a checkpoint by the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .config import ModelConfig
from .errors import WeightError
from .families import FAMILIES, bert_name

#: Canonical name of the word embeddings.
WORD_EMBEDDINGS = "embeddings/word_embeddings"


@dataclass(frozen=True, slots=True)
class Source:
    """The place of a weight in a checkpoint.

    Attributes:
        name: name of the tensor.
        part: number of the weight among those that the tensor has along its outputs.
        parts: number of these weights.
    """

    name: str
    part: int = 0
    parts: int = 1


def find_sources(names: Iterable[str], config: ModelConfig) -> dict[str, Source]:
    """Returns canonical name → place for the tensors in the scope of the word embeddings.

    Raises:
        WeightError: the checkpoint has no word embeddings, or several encoders.
    """
    is_tf1 = config.checkpoint_format == "tf1"
    family = FAMILIES[config.family]
    scopes: dict[str, dict[str, Source]] = {}
    all_names = sorted(names)
    for name in all_names:
        if found := canonical_tf1(name) if is_tf1 else canonical_hf(bert_name(name, config.family)):
            scope, tensor = found
            stem, _, kind = tensor.rpartition("/")
            fused = next((end for end in family.parts if stem.endswith(f"/{end}")), None)
            parts = family.parts[fused] if fused else ()
            for part, end in enumerate(parts):
                place = Source(name, part, len(parts))
                scopes.setdefault(scope, {})[f"{stem.removesuffix(fused or '')}{end}/{kind}"] = place
            if not parts:
                scopes.setdefault(scope, {})[tensor] = Source(name)
    encoders = [scope for scope, tensors in scopes.items() if WORD_EMBEDDINGS in tensors]
    if not encoders:
        raise WeightError(
            f"{config.checkpoint} has no word embeddings, so it is not a model of the family {config.family}; its "
            f"tensors are {', '.join(all_names[:5])}{' ...' if len(all_names) > 5 else ''}"
        )
    usual = [scope for scope in ("bert/", family.prefix, "") if scope in encoders]
    if not usual and len(encoders) > 1:
        raise WeightError(f"{config.checkpoint} has several encoders ({', '.join(encoders)}); save one of them alone")
    return scopes[(usual or encoders)[0]]


_TF1 = re.compile(
    r"^(?P<scope>(?:.*/)?)(?P<tensor>embeddings/(?:word|position|token_type)_embeddings|embeddings/LayerNorm/(?:gamma|beta)"
    r"|encoder/layer_\d+/.+/(?:kernel|bias|gamma|beta)|pooler/dense/(?:kernel|bias))$"
)
_HF = re.compile(
    r"^(?P<scope>(?:.*\.)?)(?P<tensor>embeddings\.(?:word|position|token_type)_embeddings\.weight"
    r"|(?:embeddings|encoder\.(?:layer\.\d+|LayerNorm|convolution|rel(?:ative_attention_bias|_embeddings))|pooler)\."
    r".*(?:weight|bias|gamma|beta))$"
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
    if stem.endswith(("_embeddings", "/relative_attention_bias")):
        return found["scope"], stem
    if stem.endswith("LayerNorm"):
        return found["scope"], f"{stem}/{ {'weight': 'gamma', 'bias': 'beta'}.get(kind, kind) }"
    return found["scope"], f"{stem}/{ {'weight': 'kernel'}.get(kind, kind) }"
