"""Turns the models of families that compute what BERT computes into BERT's: their configuration and tensor names.

RoBERTa, XLM-RoBERTa and CamemBERT number positions from ``pad_token_id + 1`` and know one type of token. DistilBERT has
other names and no types. ELECTRA differs if its embeddings are smaller than its layers, which ``parse_config`` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ModelConfigError, ModelUnsupported


@dataclass(frozen=True, slots=True)
class Family:
    """Describes how a family differs from BERT.

    Attributes:
        prefix: usual prefix of the names of its tensors.
        keys: key of its configuration → BERT's key.
        fixed: keys with their values, which the configuration lacks or which do not count there.
        names: part of its tensor names → part of BERT's, in the order of replacement.
        has_position_offset: the first positions of the table, up to that of the padding token, are unused.
        has_types: the checkpoint has a table of token types.
    """

    prefix: str = "bert."
    keys: Mapping[str, str] | None = None
    fixed: Mapping[str, Any] | None = None
    names: tuple[tuple[str, str], ...] = ()
    has_position_offset: bool = False
    has_types: bool = True


_ROBERTA = Family("roberta.", has_position_offset=True)
#: ``model_type`` → family.
FAMILIES = {
    "bert": Family(),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family("electra."),
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
            ("transformer.layer.", "encoder.layer."),
            (".attention.q_lin.", ".attention.self.query."),
            (".attention.k_lin.", ".attention.self.key."),
            (".attention.v_lin.", ".attention.self.value."),
            (".attention.out_lin.", ".attention.output.dense."),
            (".sa_layer_norm.", ".attention.output.LayerNorm."),
            (".ffn.lin1.", ".intermediate.dense."),
            (".ffn.lin2.", ".output.dense."),
            (".output_layer_norm.", ".output.LayerNorm."),
        ),
        has_types=False,
    ),
}


def find_family(values: Mapping[str, Any], source: str) -> str:
    """Returns the ``model_type`` of a configuration, a key of ``FAMILIES``.

    Raises:
        ModelUnsupported: the server does not compute this family.
    """
    name = values.get("model_type", "bert")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelUnsupported(
            f"{source}: model_type is {name!r}; this server computes {', '.join(FAMILIES)}: serve one of these models"
        )
    return name


def as_bert(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the configuration of a model of family ``name`` with BERT's keys."""
    family = FAMILIES[name]
    renamed = {bert: values[key] for key, bert in (family.keys or {}).items() if key in values}
    return {**values, **renamed, **(family.fixed or {})}


def position_offset(values: Mapping[str, Any], name: str, positions: int, source: str) -> int:
    """Returns the number of unused rows at the start of the table of positions.

    Args:
        positions: ``max_position_embeddings`` of the configuration, the rows of the table.

    Raises:
        ModelConfigError: ``pad_token_id`` is missing or leaves no position.
    """
    if not FAMILIES[name].has_position_offset:
        return 0
    padding = values.get("pad_token_id", 1)
    if isinstance(padding, bool) or not isinstance(padding, int) or not 0 <= padding < positions - 1:
        raise ModelConfigError(
            f"{source}: pad_token_id is {padding!r}; it must be an integer from 0 to {positions - 2}, because {name} "
            "numbers positions from the next one on"
        )
    return padding + 1


def bert_name(tensor: str, name: str) -> str:
    """Returns BERT's name of a tensor of family ``name``."""
    for part, replacement in FAMILIES[name].names:
        tensor = tensor.replace(part, replacement)
    return tensor
