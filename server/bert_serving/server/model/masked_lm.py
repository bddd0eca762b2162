"""Describes the head of a masked language model in the checkpoint of each family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from .config import ModelConfig
from .errors import ModelUnsupported
from .heads import ACTIVATION_NAMES
from .sources import WORD_EMBEDDINGS
from .token_heads import MaskedLmHead, Tensor


class _Layout(NamedTuple):
    """Names of the tensors of a head.

    Attributes:
        dense, norm, decoder: of the layers, without ``.weight``.
        bias: the bias of the decoder, beside ``decoder.bias``.
        activation_key: key of the configuration with the activation of the dense layer.
        dense_bias_key: key of the configuration that says whether the dense layer has a bias; empty if it has one.
        norm_has_bias: whether the LayerNorm has a bias.
    """

    dense: str
    norm: str
    decoder: str
    bias: str
    activation_key: str = "hidden_act"
    dense_bias_key: str = ""
    norm_has_bias: bool = True


_ROBERTA = _Layout("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", "lm_head.bias", activation_key="")
#: ``model_type`` → head.
_LAYOUTS = {
    "bert": _Layout(
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.decoder",
        "cls.predictions.bias",
    ),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "distilbert": _Layout(
        "vocab_transform", "vocab_layer_norm", "vocab_projector", "vocab_projector.bias", activation_key="activation"
    ),
    "modernbert": _Layout(
        "head.dense",
        "head.norm",
        "decoder",
        "decoder.bias",
        activation_key="classifier_activation",
        dense_bias_key="classifier_bias",
        norm_has_bias=False,
    ),
}


def read_masked_lm(model: ModelConfig, values: Mapping[str, Any], pooling: MaskedLmHead) -> MaskedLmHead:
    """Returns the head of a model. No weight is read.

    Args:
        values: the configuration of the model.
        pooling: what the folder says of the pooling of the logits, without weights.

    Raises:
        ModelUnsupported: the head is not computed.
    """
    source = model.config_path
    layout = _LAYOUTS.get(model.family)
    if layout is None or model.checkpoint_format == "tf1":
        raise ModelUnsupported(
            f"{source}: the masked language model of {model.family} is not computed, so there are no sparse vectors; "
            f"it must be one of {', '.join(_LAYOUTS)}, in a Hugging Face folder"
        )
    name = values.get(layout.activation_key, "gelu") if layout.activation_key else "gelu"
    if name not in ACTIVATION_NAMES:
        raise ModelUnsupported(
            f"{source}: {layout.activation_key} {name!r} is not computed in the head of the masked language model; it "
            f"must be one of {', '.join(ACTIVATION_NAMES)}"
        )
    size, hidden = model.vocab_size, model.hidden_size
    decoder = [f"{layout.decoder}.weight"]
    if values.get("tie_word_embeddings", True):
        decoder.append(WORD_EMBEDDINGS)
    has_bias = not layout.dense_bias_key or bool(values.get(layout.dense_bias_key, False))
    checkpoint = model.checkpoint, model.checkpoint_format
    tensors = {
        "dense": Tensor((f"{layout.dense}.weight",), (hidden, hidden), *checkpoint),
        "norm": Tensor((f"{layout.norm}.weight", f"{layout.norm}.gamma"), (hidden,), *checkpoint),
        "decoder": Tensor(tuple(decoder), (size, hidden), *checkpoint),
        "bias": Tensor((layout.bias, f"{layout.decoder}.bias"), (size,), *checkpoint, is_optional=True),
    }
    if has_bias:
        tensors["dense_bias"] = Tensor((f"{layout.dense}.bias",), (hidden,), *checkpoint)
    if layout.norm_has_bias:
        tensors["norm_bias"] = Tensor((f"{layout.norm}.bias", f"{layout.norm}.beta"), (hidden,), *checkpoint)
    return msgspec.structs.replace(
        pooling,
        tensors=tensors,
        activation=ACTIVATION_NAMES[name],
        eps=model.layer_norm_eps,
        vocab_size=size,
    )
