"""Reads the architecture of a family from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .architecture import BERT, Architecture, Convolution, Disentangled, Rope
from .config_values import Values
from .errors import ModelConfigError, ModelUnsupported

#: Values of ``feed_forward_type`` of JinaBERT with gated units → their activation.
_JINA_GATED = {"geglu": "gelu", "reglu": "relu"}
#: Largest number of positions. Tables by relative position are computed for all of them.
MAX_POSITIONS = 1 << 17
#: Kinds of rotary embeddings that only divide the frequencies.
_ROPE_TYPES = ("default", "linear")
#: Activations of Nomic's gated units with silu.
_NOMIC_ACTS = ("swiglu", "silu")


class Sizes(NamedTuple):
    """Sizes that every configuration has."""

    hidden: int
    layers: int
    head: int


def read_architecture(values: Values, family: str, sizes: Sizes) -> Architecture:
    """Returns the architecture of a configuration with BERT's keys.

    Args:
        values: the configuration, see ``families.as_bert``.
        family: a key of ``families.FAMILIES``.

    Raises:
        ModelUnsupported: the configuration describes another variant than the server computes; the message names it.
        ModelConfigError: a key is missing, of the wrong type or out of range.
    """
    read = _READERS.get(family)
    return BERT if read is None else read(values, sizes)


def read_act(values: Values, family: str) -> str:
    """Returns the canonical name of the activation of the feed-forward; raises as ``read_architecture``."""
    if family == "jina-bert" and (act := _JINA_GATED.get(str(values.get("feed_forward_type")))):
        return act
    if family == "nomic_bert":
        if values.get("hidden_act") not in _NOMIC_ACTS:
            raise ModelUnsupported(
                f"{values.source}: the activation {values.get('hidden_act')!r} of a Nomic model is not supported; it "
                f"must be one of {', '.join(_NOMIC_ACTS)}"
            )
        return "silu"
    return values.act("hidden_act", "gelu")


def read_positions(values: Values, family: str) -> int:
    """Returns the rows of the table of positions, or the longest sequence in tokens.

    Raises:
        ModelConfigError: the value is no integer above 0.
    """
    positions = values.positive("max_position_embeddings", 512)
    if positions > MAX_POSITIONS:
        raise ModelConfigError(
            f"{values.source}: max_position_embeddings is {positions}, more than {MAX_POSITIONS}; copy the "
            "configuration of the model"
        )
    if family == "nomic_bert" and values.get("rotary_scaling_factor"):
        # The factor changes the rotations of longer sequences only.
        return min(positions, values.positive("max_trained_positions", 2048))
    return positions


def _electra(values: Values, sizes: Sizes) -> Architecture:
    size = values.positive("embedding_size", sizes.hidden)
    return Architecture(embedding_size=0 if size == sizes.hidden else size)


def _mpnet(values: Values, sizes: Sizes) -> Architecture:
    values.require("relative_attention_num_buckets", 32)
    return Architecture(has_types=False, relative_buckets=32)


def _albert(values: Values, sizes: Sizes) -> Architecture:
    values.require("inner_group_num", 1)
    groups = values.positive("num_hidden_groups", 1)
    layers = sizes.layers
    if groups > layers:
        raise ModelConfigError(
            f"{values.source}: num_hidden_groups is {groups}, more than the {layers} layers (num_hidden_layers); "
            "copy the configuration of the model"
        )
    return Architecture(
        embedding_size=values.positive("embedding_size"),
        layer_weights=tuple(int(layer / (layers / groups)) for layer in range(layers)),
    )


def _modernbert(values: Values, sizes: Sizes) -> Architecture:
    every = values.positive("global_attn_every_n_layers", 3)
    kinds = values.get("layer_types")
    if kinds is None:
        kinds = ["sliding_attention" if layer % every else "full_attention" for layer in range(sizes.layers)]
    known = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != sizes.layers or any(kind not in known for kind in kinds):
        raise ModelUnsupported(
            f"{values.source}: layer_types is {kinds!r}; it must have {' or '.join(known)} for each of the "
            f"{sizes.layers} layers"
        )
    values.require("rope_scaling", None)
    full = values.number("global_rope_theta", 160000.0)
    sliding = full if values.get("local_rope_theta", 0) is None else values.number("local_rope_theta", 10000.0)
    given = values.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise ModelUnsupported(f"{values.source}: rope_parameters is {given!r}; it must name {' and '.join(known)}")
    ropes = {
        kind: _rope(values, given.get(kind) or {}, theta, sizes)
        for kind, theta in (("full_attention", full), ("sliding_attention", sliding))
    }
    window = values.positive("local_attention", 128) // 2
    if not window:
        raise ModelUnsupported(f"{values.source}: local_attention is 1; it must be at least 2")
    attention, feed_forward = values.flag("attention_bias", False), values.flag("mlp_bias", False)
    return Architecture(
        has_positions=False,
        has_types=False,
        pre_norm=True,
        first_norm=False,
        final_norm=True,
        norm_bias=values.flag("norm_bias", False),
        attention_bias=attention,
        attention_output_bias=attention,
        intermediate_bias=feed_forward,
        output_bias=feed_forward,
        gated=True,
        windows=tuple(window if kind == "sliding_attention" else 0 for kind in kinds),
        rope=tuple(ropes[kind] for kind in kinds),
    )


def _nomic(values: Values, sizes: Sizes) -> Architecture:
    for key, needed in {
        "head_dim": sizes.head,
        "rotary_emb_fraction": 1,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "prenorm": False,
        "parallel_block": False,
        "use_rms_norm": False,
        "causal": False,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "num_experts": 0,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
    }.items():
        values.require(key, needed)
    rope = _rope(values, values.get("rope_parameters") or {}, values.number("rotary_emb_base", 1000.0), sizes)
    has_bias = values.flag("qkv_proj_bias", False)
    return Architecture(
        has_positions=False,
        has_types=values.count("type_vocab_size", 2) > 0,
        attention_bias=has_bias,
        attention_output_bias=has_bias,
        intermediate_bias=False,
        output_bias=False,
        gated=True,
        rope=(rope,) * sizes.layers,
    )


def _gte(values: Values, sizes: Sizes) -> Architecture:
    for key, needed in {
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
        "position_embedding_type": "rope",
    }.items():
        values.require(key, needed)
    is_hub = values.get("model_type") == "new" or "rope_theta" in values
    theta = values.number("rope_theta", 10000.0 if is_hub else 160000.0)
    given = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope = _rope(values, given, theta, sizes)
    return Architecture(
        has_positions=False,
        has_types=values.count("type_vocab_size", 1) > 0,
        intermediate_bias=False,
        gated=True,
        rope=(rope,) * sizes.layers,
    )


def _jina(values: Values, sizes: Sizes) -> Architecture:
    kind = values.get("feed_forward_type", "original")
    if kind not in ("original", *_JINA_GATED):
        raise ModelUnsupported(
            f"{values.source}: feed_forward_type {kind!r} is not supported; it must be original, geglu or reglu"
        )
    is_gated = kind in _JINA_GATED
    return Architecture(has_positions=False, gated=is_gated, intermediate_bias=not is_gated, alibi=True)


def _deberta(values: Values, sizes: Sizes) -> Architecture:
    values.require("relative_attention", True)
    if "relative_attention" not in values:
        raise ModelUnsupported(
            f"{values.source}: relative_attention is missing; only models that have it are supported"
        )
    values.require("attention_head_size", sizes.head)
    kinds = values.get("pos_att_type") or []
    if isinstance(kinds, str):
        kinds = [kind.strip() for kind in kinds.lower().split("|")]
    if not isinstance(kinds, list) or any(kind not in ("c2p", "p2c") for kind in kinds):
        raise ModelUnsupported(
            f"{values.source}: pos_att_type {kinds!r} is not supported; it must name c2p, p2c or both"
        )
    positions = values.positive("max_position_embeddings", 512)
    distance = values.count("max_relative_positions", -1, least=-1)
    buckets = values.count("position_buckets", -1, least=-1)
    norms = [name.strip() for name in str(values.get("norm_rel_ebd", "none")).lower().split("|")]
    size = values.positive("embedding_size", sizes.hidden)
    width = values.count("conv_kernel_size", 0)
    convolution = None
    if width:
        if width % 2 == 0:
            raise ModelUnsupported(f"{values.source}: conv_kernel_size is {width}; it must be odd")
        convolution = Convolution(width, values.positive("conv_groups", 1), values.act("conv_act", "tanh"))
    return Architecture(
        embedding_size=0 if size == sizes.hidden else size,
        norm_before_projection=False,
        projection_bias=False,
        has_positions=values.flag("position_biased_input", True),
        has_types=values.count("type_vocab_size", 0) > 0,
        disentangled=Disentangled(
            content_to_position="c2p" in kinds,
            position_to_content="p2c" in kinds,
            buckets=max(buckets, 0),
            max_distance=distance if distance > 0 else positions,
            shares_projection=values.flag("share_att_key", False),
            has_norm="layer_norm" in norms,
        ),
        convolution=convolution,
    )


def _rope(values: Values, given: Any, theta: float, sizes: Sizes) -> Rope:
    """Returns the rotary embeddings of ``rope_parameters``, or of ``rope_scaling`` of the hub's older code."""
    if not isinstance(given, Mapping):
        raise ModelUnsupported(f"{values.source}: rope parameters {given!r} are not supported; they must be an object")
    inner = Values(given, values.source)
    theta = inner.number("rope_theta", theta)
    inner.require("partial_rotary_factor", 1)
    kind = given.get("rope_type", given.get("type", "default"))
    factor = inner.number("factor", 1.0)
    if kind == "ntk":  # Alibaba's code, with a fixed factor; see https://kexue.fm/archives/9706
        inner.require("mixed_b", None)
        return Rope(theta * factor, factor ** (2 / sizes.head))
    if kind not in _ROPE_TYPES:
        raise ModelUnsupported(
            f"{values.source}: rope type {kind!r} is not supported; it must be one of {', '.join(_ROPE_TYPES)}, ntk"
        )
    return Rope(theta, factor if kind == "linear" else 1.0)


_READERS: dict[str, Callable[[Values, Sizes], Architecture]] = {
    "electra": _electra,
    "mpnet": _mpnet,
    "albert": _albert,
    "modernbert": _modernbert,
    "nomic_bert": _nomic,
    "gte": _gte,
    "new": _gte,
    "jina-bert": _jina,
    "deberta-v2": _deberta,
}
