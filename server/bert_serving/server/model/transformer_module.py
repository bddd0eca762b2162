"""Reads the settings of the module Transformer in a sentence-transformers folder: length, case, task, output."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from .errors import ModelConfigError, ModelUnsupported
from .json_files import optional_integer, read_object, read_optional, switch

#: Files with the settings; the first that is not empty counts, as in the library.
SETTINGS_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
#: Settings that this server honours, and those without influence on vectors.
_HONOURED = ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name")
_NO_INFLUENCE = ("unpad_inputs",)
#: Arguments for the library transformers, and those of them without influence on vectors.
_ARGUMENTS = {
    "model": {"attn_implementation", "dtype", "torch_dtype", "low_cpu_mem_usage", "use_safetensors", "device_map"},
    "tokenizer": {"use_fast", "padding_side", "clean_up_tokenization_spaces"},
    "processor": {"use_fast", "padding_side", "clean_up_tokenization_spaces"},
    "config": {"use_cache"},
}
#: Values of ``transformer_task``: a model for vectors, a classifier or cross-encoder, and a masked language model.
EMBED_TASK, SCORE_TASK, MASK_TASK = "feature-extraction", "sequence-classification", "fill-mask"
#: Name of the output of the model, and of the result, for each task.
_OUTPUTS = {
    EMBED_TASK: ("last_hidden_state", "token_embeddings"),
    SCORE_TASK: ("logits", "scores"),
    MASK_TASK: ("logits", "token_embeddings"),
}
#: Lengths from here on in ``tokenizer_config.json`` mean that the length is unknown.
_NO_LENGTH = 10**9


class TransformerSettings(msgspec.Struct, frozen=True):
    """The settings of the module.

    Attributes:
        max_seq_length: tokens of a sequence at most, special tokens included; None where no file limits it.
        lower_case: texts are lower-cased before the tokenizer.
    """

    max_seq_length: int | None
    lower_case: bool


def read_transformer(
    folder: Path, task: str = EMBED_TASK, default_task: str = EMBED_TASK, others: Collection[str] = ()
) -> TransformerSettings:
    """Returns the settings of the module in ``folder``.

    Args:
        task: the value that ``transformer_task`` must have: ``EMBED_TASK``, ``SCORE_TASK`` or ``MASK_TASK``.
        default_task: the value of a file without this key.
        others: settings that the caller honours.

    Raises:
        ModelUnsupported: a setting that this server does not honour; the message names it.
        ModelConfigError: a file is broken.
    """
    source, values = folder, {}
    for name in SETTINGS_FILES:
        if (folder / name).exists() and (values := read_object(folder / name)):
            source = folder / name
            break
    _reject_other_tasks(values, source, task, default_task)
    _reject_other_settings(values, source, others)
    length = optional_integer(values, "max_seq_length", source)
    return TransformerSettings(
        _tokenizer_length(folder) if length is None else length, switch(values, "do_lower_case", False, source)
    )


def _reject_other_tasks(values: dict[str, Any], source: Path, wanted: str, default: str) -> None:
    task = values.get("transformer_task", default)
    if task != wanted:
        raise ModelUnsupported(f"{source}: transformer_task {task!r} is not served; it must be {wanted!r}")
    of_model, of_module = _OUTPUTS[wanted]
    name = values.get("module_output_name") or of_module
    if name != of_module:
        raise ModelUnsupported(f"{source}: module_output_name {name!r} is not computed; it must be {of_module!r}")
    inputs = values.get("modality_config", {"text": {}})
    if not isinstance(inputs, dict):
        raise ModelConfigError(f"{source}: modality_config must be an object, it is {str(inputs)[:100]}")
    if list(inputs) != ["text"]:
        other = ", ".join(sorted(set(inputs) - {"text"})) or "none"
        raise ModelUnsupported(f"{source}: inputs other than text ({other}) are not served")
    text = inputs["text"]
    if not isinstance(text, dict):
        raise ModelConfigError(f"{source}: modality_config must have an object for text, it is {str(text)[:100]}")
    method, result = text.get("method", "forward"), text.get("method_output_name", of_model)
    if method != "forward" or result not in (of_model, [of_model]):
        raise ModelUnsupported(
            f"{source}: the output {result!r} of the method {method!r} (modality_config) is not computed; it must be "
            f"{of_model!r} of 'forward'"
        )


def _reject_other_settings(values: dict[str, Any], source: Path, others: Collection[str]) -> None:
    given = {key: value for key, value in values.items() if value not in (None, {}, [])}
    for key in given.keys() - {*_HONOURED, *_NO_INFLUENCE, *others}:
        kind, _, end = key.partition("_")
        if kind not in _ARGUMENTS or end not in ("args", "kwargs") or not isinstance(given[key], dict):
            raise ModelUnsupported(f"{source}: {key} {str(given[key])[:100]} is not honoured by this server")
        if unknown := sorted(given[key].keys() - _ARGUMENTS[kind] - {"trust_remote_code"}):
            raise ModelUnsupported(f"{source}: {', '.join(unknown)} in {key} is not honoured by this server")


def _tokenizer_length(folder: Path) -> int | None:
    source = folder / "tokenizer_config.json"
    values = read_optional(source)
    key = next((key for key in ("model_max_length", "max_len") if values.get(key) is not None), None)
    if key is None:
        return None
    limit = values[key]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or limit < 1 or limit != limit // 1:
        raise ModelConfigError(f"{source}: {key} must be a whole number above 0, it is {limit!r}")
    return int(limit) if limit < _NO_LENGTH else None
