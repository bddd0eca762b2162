"""Reads the folder of a ``SparseEncoder`` of sentence-transformers: a masked language model, and SPLADE's pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ModelUnsupported
from .json_files import optional_integer, read_optional
from .pipeline import SentencePipeline
from .token_heads import MaskedLmHead
from .transformer_module import MASK_TASK, read_transformer

#: Modules that such a folder begins with.
SPARSE_KINDS = ["Transformer", "SpladePooling"]
_STRATEGIES = ("max", "sum")
#: ``activation_function`` → how often the logarithm is taken.
_NUM_LOGS = {"relu": 1, "log1p_relu": 2}
_POOLING_KEYS = {
    "pooling_strategy",
    "activation_function",
    "embedding_dimension",
    "word_embedding_dimension",
    "chunk_size",
}
_MODEL_TYPE = "SparseEncoder"


def read_sparse_folder(
    folder: Path, entries: Sequence[tuple[str, str]], prompts: tuple[dict[str, str], str | None]
) -> SentencePipeline:
    """Returns the pipeline of a folder whose modules begin with ``SPARSE_KINDS``; the head has no weights yet.

    Args:
        entries: kind and folder of each module.
        prompts: the prompts by name, and the name of the default one.

    Raises:
        ModelUnsupported: a module or a setting that this server does not compute; the message names it.
        ModelConfigError: a file is broken.
    """
    if len(entries) > len(SPARSE_KINDS):
        raise ModelUnsupported(
            f"{folder / 'modules.json'}: the module {entries[len(SPARSE_KINDS)][0]} after SpladePooling is not "
            "computed by this server"
        )
    source = folder / "config_sentence_transformers.json"
    extra = read_optional(source)
    if extra.get("model_type", _MODEL_TYPE) != _MODEL_TYPE:
        raise ModelUnsupported(
            f"{source}: model_type {extra['model_type']!r} with a SpladePooling is not computed; it must be "
            f"{_MODEL_TYPE!r}"
        )
    transformer = folder / entries[0][1]
    settings = read_transformer(transformer, MASK_TASK, MASK_TASK)
    path = folder / entries[1][1] / "config.json"
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=(),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        prompts=prompts[0],
        default_prompt_name=prompts[1],
        similarity=extra.get("similarity_fn_name") if isinstance(extra.get("similarity_fn_name"), str) else None,
        has_modules=True,
        has_dense=False,
        sparse=_read_pooling(read_optional(path), path, optional_integer(extra, "max_active_dims", source)),
    )


def _read_pooling(values: Mapping[str, Any], path: Path, max_active: int | None) -> MaskedLmHead:
    others = sorted(key for key, value in values.items() if key not in _POOLING_KEYS and value not in (None, False))
    if others:
        raise ModelUnsupported(f"{path}: {others[0]} {str(values[others[0]])[:100]} is not honoured by this server")
    strategy, activation = values.get("pooling_strategy", "max"), values.get("activation_function", "relu")
    if strategy not in _STRATEGIES:
        raise ModelUnsupported(f"{path}: pooling_strategy {strategy!r} is not one of {', '.join(_STRATEGIES)}")
    if activation not in _NUM_LOGS:
        raise ModelUnsupported(f"{path}: activation_function {activation!r} is not one of {', '.join(_NUM_LOGS)}")
    return MaskedLmHead(strategy=strategy, num_logs=_NUM_LOGS[activation], max_active=max_active)
