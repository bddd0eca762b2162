"""Names the families of models: their configuration keys and the names of their tensors, in BERT's terms.

RoBERTa, XLM-RoBERTa and CamemBERT number positions from ``pad_token_id + 1`` and know one type of token. DistilBERT has
other names and no types. These compute what BERT computes. ``architecture_config`` describes how the others differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ModelConfigError, ModelUnsupported


@dataclass(frozen=True, slots=True)
class Family:
    """Describes how the files of a family differ from BERT's.

    Attributes:
        prefix: usual prefix of the names of its tensors.
        keys: key of its configuration → BERT's key.
        defaults: values of keys that its configuration may lack.
        fixed: keys with their values, which the configuration lacks or which do not count there.
        names: regular expression of a part of its tensor names → part of BERT's, in the order of replacement.
        parts: end of a tensor name with BERT's parts → canonical ends of the tensors that it contains, one after the
            other along the outputs.
        padding: id of the token whose position comes before the first one: None for the first row of the table, or the
            key ``pad_token_id`` of the configuration.
        has_types: the checkpoint has a table of token types, or the architecture has none.
        repeats_type: if the table has one row, it is that of the second text of a pair too.
        has_word_piece: a ``vocab.txt`` is BERT's, if the folder does not name another tokenizer.
        code: prefixes of the classes of the family's own code (``auto_map``), which computes what this server computes.
    """

    prefix: str = "bert."
    keys: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    padding: int | str | None = None
    has_types: bool = True
    repeats_type: bool = False
    has_word_piece: bool = False
    code: tuple[str, ...] = ()


#: Names of modules of these families in transformers 5, whose checkpoints have other names; adapters have these.
_IN_TRANSFORMERS = (
    (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
    (r"\.self_attn\.q_proj\.", ".attention.self.query."),
    (r"\.self_attn\.k_proj\.", ".attention.self.key."),
    (r"\.self_attn\.v_proj\.", ".attention.self.value."),
    (r"\.self_attn\.o_proj\.", ".attention.output.dense."),
    (r"\.post_attention_layernorm\.", ".attention.output.LayerNorm."),
    (r"\.mlp\.gate_proj\.", ".intermediate.dense."),
    (r"\.mlp\.up_proj\.", ".intermediate.up."),
    (r"\.mlp\.down_proj\.", ".output.dense."),
    (r"\.post_mlp_layernorm\.", ".output.LayerNorm."),
)
_QUERY_KEY_VALUE = tuple(f"attention/self/{name}" for name in ("query", "key", "value"))
_ROBERTA = Family("roberta.", padding="pad_token_id", repeats_type=True)
_GTE = Family(
    "new.",
    defaults={"max_position_embeddings": 8192, "type_vocab_size": 1},
    names=(
        (r"\.attention\.q_proj\.", ".attention.self.query."),
        (r"\.attention\.k_proj\.", ".attention.self.key."),
        (r"\.attention\.v_proj\.", ".attention.self.value."),
        (r"\.attention\.qkv_proj\.", ".attention.self.qkv."),
        (r"\.attention\.o_proj\.", ".attention.output.dense."),
        (r"\.attn_ln\.", ".attention.output.LayerNorm."),
        (r"\.mlp\.up_gate_proj\.", ".intermediate.up_gate."),
        (r"\.mlp\.down_proj\.", ".output.dense."),
        (r"\.mlp_ln\.", ".output.LayerNorm."),
        *_IN_TRANSFORMERS,
    ),
    parts={
        "attention/self/qkv": _QUERY_KEY_VALUE,
        "intermediate/up_gate": ("intermediate/up", "intermediate/dense"),
    },
    repeats_type=True,
    has_word_piece=True,
    code=("New", "Gte"),
)
#: ``model_type`` → family. JinaBERT's own ``model_type`` is ``bert``.
FAMILIES = {
    "bert": Family(has_word_piece=True),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family(
        "electra.",
        names=((r"(^|\.)embeddings_project\.", r"\1embeddings.projection."),),
        has_word_piece=True,
    ),
    "distilbert": Family(
        "distilbert.",
        keys={
            "dim": "hidden_size",
            "n_layers": "num_hidden_layers",
            "n_heads": "num_attention_heads",
            "hidden_dim": "intermediate_size",
            "activation": "hidden_act",
        },
        fixed={"layer_norm_eps": 1e-12, "type_vocab_size": 2},
        names=(
            (r"transformer\.layer\.", "encoder.layer."),
            (r"\.attention\.q_lin\.", ".attention.self.query."),
            (r"\.attention\.k_lin\.", ".attention.self.key."),
            (r"\.attention\.v_lin\.", ".attention.self.value."),
            (r"\.attention\.out_lin\.", ".attention.output.dense."),
            (r"\.sa_layer_norm\.", ".attention.output.LayerNorm."),
            (r"\.ffn\.lin1\.", ".intermediate.dense."),
            (r"\.ffn\.lin2\.", ".output.dense."),
            (r"\.output_layer_norm\.", ".output.LayerNorm."),
        ),
        has_types=False,
        has_word_piece=True,
    ),
    "mpnet": Family(
        "mpnet.",
        fixed={"type_vocab_size": 2},
        names=(
            (r"\.attention\.attn\.q\.", ".attention.self.query."),
            (r"\.attention\.attn\.k\.", ".attention.self.key."),
            (r"\.attention\.attn\.v\.", ".attention.self.value."),
            (r"\.attention\.attn\.o\.", ".attention.output.dense."),
            (r"\.attention\.LayerNorm\.", ".attention.output.LayerNorm."),
        ),
        padding=1,
    ),
    "albert": Family(
        "albert.",
        defaults={"embedding_size": 128, "hidden_act": "gelu_new"},
        names=(
            (r"encoder\.albert_layer_groups\.(\d+)\.albert_layers\.0\.", r"encoder.layer.\1."),
            (r"encoder\.embedding_hidden_mapping_in\.", "embeddings.projection."),
            (r"\.attention\.(query|key|value)\.", r".attention.self.\1."),
            (r"\.attention\.(dense|LayerNorm)\.", r".attention.output.\1."),
            (r"\.ffn\.", ".intermediate.dense."),
            (r"\.ffn_output\.", ".output.dense."),
            (r"\.full_layer_layer_norm\.", ".output.LayerNorm."),
            (r"(^|\.)pooler\.(weight|bias)$", r"\1pooler.dense.\2"),
        ),
    ),
    "modernbert": Family(
        "model.",
        keys={"hidden_activation": "hidden_act", "norm_eps": "layer_norm_eps"},
        defaults={"layer_norm_eps": 1e-5, "max_position_embeddings": 8192},
        fixed={"type_vocab_size": 2},
        names=(
            (r"embeddings\.tok_embeddings\.", "embeddings.word_embeddings."),
            (r"embeddings\.norm\.", "embeddings.LayerNorm."),
            (r"(^|\.)layers\.(\d+)\.", r"\1encoder.layer.\2."),
            (r"(^|\.)final_norm\.", r"\1encoder.LayerNorm."),
            (r"\.attn_norm\.", ".attention.LayerNorm."),
            (r"\.attn\.Wqkv\.", ".attention.self.qkv."),
            (r"\.attn\.Wo\.", ".attention.output.dense."),
            (r"\.mlp_norm\.", ".intermediate.LayerNorm."),
            (r"\.mlp\.Wi\.", ".intermediate.dense_up."),
            (r"\.mlp\.Wo\.", ".output.dense."),
        ),
        parts={
            "attention/self/qkv": _QUERY_KEY_VALUE,
            "intermediate/dense_up": ("intermediate/dense", "intermediate/up"),
        },
    ),
    "nomic_bert": Family(
        "nomic_bert.",
        keys={
            "n_embd": "hidden_size",
            "n_layer": "num_hidden_layers",
            "n_head": "num_attention_heads",
            "n_inner": "intermediate_size",
            "n_positions": "max_position_embeddings",
            "layer_norm_epsilon": "layer_norm_eps",
            "activation_function": "hidden_act",
        },
        defaults={"hidden_act": "silu", "max_position_embeddings": 2048},
        names=(
            (r"encoder\.layers\.", "encoder.layer."),
            (r"(^|\.)emb_ln\.", r"\1embeddings.LayerNorm."),
            (r"\.attn\.Wqkv\.", ".attention.self.qkv."),
            (r"\.attn\.out_proj\.", ".attention.output.dense."),
            (r"\.norm1\.", ".attention.output.LayerNorm."),
            (r"\.mlp\.fc11\.", ".intermediate.up."),
            (r"\.mlp\.fc12\.", ".intermediate.dense."),
            (r"\.mlp\.fc2\.", ".output.dense."),
            (r"\.norm2\.", ".output.LayerNorm."),
            *_IN_TRANSFORMERS,
        ),
        parts={"attention/self/qkv": _QUERY_KEY_VALUE},
        has_word_piece=True,
        code=("NomicBert",),
    ),
    "gte": _GTE,
    "new": _GTE,
    "jina-bert": Family(
        names=(
            (r"\.mlp\.gated_layers\.", ".intermediate.dense_up."),
            (r"\.mlp\.wo\.", ".output.dense."),
            (r"\.mlp\.layernorm\.", ".output.LayerNorm."),
        ),
        parts={"intermediate/dense_up": ("intermediate/dense", "intermediate/up")},
        has_word_piece=True,
        code=("JinaBert",),
    ),
    "deberta-v2": Family(
        "deberta.",
        defaults={"layer_norm_eps": 1e-7, "type_vocab_size": 0},
        names=(
            (r"embeddings\.embed_proj\.", "embeddings.projection."),
            (r"\.self\.(query|key|value)_proj\.", r".self.\1."),
            (r"\.self\.pos_(key|query)_proj\.", r".self.position_\1."),
            (r"encoder\.LayerNorm\.", "encoder.rel_embeddings.LayerNorm."),
            (r"encoder\.conv\.conv\.", "encoder.convolution."),
            (r"encoder\.conv\.LayerNorm\.", "encoder.convolution.LayerNorm."),
        ),
    ),
}


def find_family(values: Mapping[str, Any], source: str) -> str:
    """Returns the key of ``FAMILIES`` of a configuration: its ``model_type``, or ``jina-bert``.

    Raises:
        ModelUnsupported: the server does not compute this family.
    """
    if "model_type" not in values:
        _require_bert(values, source)
    name = values.get("model_type", "bert")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelUnsupported(
            f"{source}: model_type is {name!r}; this server computes {', '.join(FAMILIES)}: serve one of these models"
        )
    return "jina-bert" if name == "bert" and values.get("position_embedding_type") == "alibi" else name


def _require_bert(values: Mapping[str, Any], source: str) -> None:
    """Rejects a configuration without ``model_type`` that is not BERT's, such as RoBERTa's of early versions."""
    named = values.get("architectures")
    first = named[0] if isinstance(named, list) and named else "BertModel"
    if not str(first).startswith("Bert") or values.get("type_vocab_size", 2) == 1:
        raise ModelUnsupported(
            f"{source}: model_type is missing, and the model ({first}, type_vocab_size "
            f"{values.get('type_vocab_size', 2)}) is not BERT; add the model_type, such as roberta"
        )


def as_bert(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the configuration of a model of family ``name`` with BERT's keys."""
    family = FAMILIES[name]
    renamed = {bert: values[key] for key, bert in family.keys.items() if key in values}
    return {**family.defaults, **values, **renamed, **family.fixed}


def position_offset(values: Mapping[str, Any], name: str, positions: int, source: str) -> int:
    """Returns the number of unused rows at the start of the table of positions.

    Args:
        positions: ``max_position_embeddings`` of the configuration, the rows of the table.

    Raises:
        ModelConfigError: ``pad_token_id`` is missing or leaves no position.
    """
    key = FAMILIES[name].padding
    if key is None:
        return 0
    padding = values.get(key, 1) if isinstance(key, str) else key
    if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < positions - 1:
        raise ModelConfigError(
            f"{source}: pad_token_id is {padding!r}; it must be an integer from 0 to {positions - 2}, because {name} "
            "numbers positions from the next one on"
        )
    return padding + 1


def bert_name(tensor: str, name: str) -> str:
    """Returns BERT's name of a tensor of family ``name``."""
    for part, replacement in FAMILIES[name].names:
        tensor = re.sub(part, replacement, tensor)
    return tensor
