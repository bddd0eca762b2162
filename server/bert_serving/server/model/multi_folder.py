"""Reads the folders of late interaction models: ``MultiVectorEncoder`` of sentence-transformers, and PyLate's.

The modules are Transformer and Dense for each token; then MultiVectorMask and Normalize, which PyLate's folders do not
list. A prompt named ``query`` or ``document`` chooses how a text is framed.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .errors import ModelConfigError, ModelUnsupported
from .files import find_vocab
from .json_files import integer, module_weights, optional_integer, read_object, read_optional, switch
from .pipeline import ACTIVATIONS, SentencePipeline
from .token_heads import MultiHead, Tensor, TextFrame
from .token_names import read_token_names
from .transformer_module import SETTINGS_FILES, read_transformer

#: Values of ``model_type`` of such folders.
MULTI_TYPES = ("MultiVectorEncoder", "ColBERT")
_QUERY, _DOCUMENT = "query", "document"
#: Settings of the module Transformer about queries and documents.
FRAME_KEYS = ("query_length", "document_length", "query_expansion")
_DENSE_KEYS = {"in_features", "out_features", "bias", "activation_function", "module_input_name", "module_output_name"}
_EXPANSION_KEYS = {"strategy", "attend", "token", "length"}
_DEFAULT_QUERY_LENGTH = 32


def read_multi_folder(
    folder: Path, entries: Sequence[tuple[str, str]], prompts: tuple[dict[str, str], str | None]
) -> SentencePipeline:
    """Returns the pipeline of a folder of a late interaction model. No weight is read.

    Args:
        entries: kind and folder of each module.
        prompts: the prompts by name, and the name of the default one.

    Raises:
        ModelUnsupported: a module or a setting that this server does not compute; the message names it.
        ModelConfigError: a file is broken.
    """
    source = folder / "config_sentence_transformers.json"
    extra = read_object(source)
    is_pylate = extra["model_type"] == "ColBERT"
    kinds = [kind for kind, _ in entries]
    count = next((index for index, kind in enumerate(kinds) if index and kind != "Dense"), len(kinds))
    tail = kinds[count:]
    allowed = ([],) if is_pylate else (["MultiVectorMask", "Normalize"], ["MultiVectorMask"], ["Normalize"], [])
    if kinds[:1] != ["Transformer"] or count < 2 or tail not in allowed:
        raise ModelUnsupported(
            f"{folder / 'modules.json'}: the modules are {', '.join(kinds)}; of a {extra['model_type']}, this server "
            "computes Transformer, then Dense, then MultiVectorMask and Normalize"
        )
    transformer = folder / entries[0][1]
    settings = read_transformer(transformer, others=() if is_pylate else FRAME_KEYS)
    names = {name: index for index, name in enumerate(read_token_names(find_vocab(transformer))) if name}
    given = {key: extra[key] for key in FRAME_KEYS if key in extra} if is_pylate else _settings(transformer)
    skip: Any = extra.get("skiplist_words")
    if is_pylate:
        skip = list(string.punctuation) if skip is None else skip
        skips_for: Any = [_DOCUMENT]
    else:
        paths = [path for kind, path in entries if kind == "MultiVectorMask"]
        mask = read_optional(folder / paths[0] / "config.json") if paths else {}
        skip, skips_for = mask.get("skiplist_words") or [], mask.get("skiplist_tasks") or [_DOCUMENT]
        if mask.get("keep_only_token_ids"):
            raise ModelUnsupported(f"{folder}: keep_only_token_ids of MultiVectorMask is not computed by this server")
    texts, default = prompts
    frames = {}
    for role in (_QUERY, _DOCUMENT):
        marker = (extra.get(f"{role}_prefix") or "") if is_pylate else ""
        marker_id = _marker_id(marker, names)
        if is_pylate:
            texts = texts | {role: ("" if marker_id is not None else marker) + texts.get(role, "").removeprefix(marker)}
        texts = {role: ""} | texts
        frame = _frame(role, given, extra if is_pylate else None, marker_id, names, source)
        if frame != TextFrame():
            frames[role] = frame
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=(),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        prompts=texts,
        default_prompt_name=default,
        similarity="MaxSim",
        has_modules=True,
        has_dense=False,
        multi=_head(folder, entries[1:count], is_pylate or "Normalize" in tail, (skip, skips_for), names, frames),
    )


def _settings(transformer: Path) -> dict[str, Any]:
    """Returns what the settings of the module Transformer say about queries and documents."""
    values = next((found for name in SETTINGS_FILES if (found := read_optional(transformer / name))), {})
    return {key: values[key] for key in FRAME_KEYS if key in values}


def _head(
    folder: Path,
    layers: Sequence[tuple[str, str]],
    is_normalized: bool,
    skipped: tuple[Any, Any],
    names: Mapping[str, int],
    frames: dict[str, TextFrame],
) -> MultiHead:
    tensors, activations, dims = {}, [], 0
    for number, (_, name) in enumerate(layers):
        path = folder / name / "config.json"
        values = read_object(path)
        others = sorted(key for key, value in values.items() if key not in _DENSE_KEYS and value not in (None, False))
        if others:
            raise ModelUnsupported(f"{path}: {others[0]} {str(values[others[0]])[:100]} is not honoured by this server")
        named = values.get("activation_function", "torch.nn.modules.activation.Tanh")
        activation = str(named).rpartition(".")[2]
        if activation not in ACTIVATIONS or not str(named).startswith("torch.nn."):
            raise ModelUnsupported(
                f"{path}: activation_function {named!r} is not one of torch.nn's {', '.join(ACTIVATIONS)}"
            )
        inputs, outputs = integer(values, "in_features", path), integer(values, "out_features", path)
        if number and inputs != dims:
            raise ModelConfigError(f"{path}: in_features is {inputs}, but the layer before gives {dims} numbers")
        file = module_weights(path.parent)
        tensors[f"{number}/weight"] = Tensor(("linear.weight",), (outputs, inputs), file)
        if switch(values, "bias", True, path):
            tensors[f"{number}/bias"] = Tensor(("linear.bias",), (outputs,), file)
        activations.append(activation)
        dims = outputs
    words, roles = skipped
    roles = [roles] if isinstance(roles, str) else roles
    ids = tuple(sorted(names[word] for word in words if word in names))
    return MultiHead(
        tensors,
        tuple(activations),
        dims,
        is_normalized,
        skip_ids=ids,
        skips_queries=_QUERY in roles,
        skips_documents=_DOCUMENT in roles,
        frames=frames,
    )


def _marker_id(marker: str, names: Mapping[str, int]) -> int | None:
    """Returns the id of a marker that the vocabulary has as one token, with or without the space after it."""
    found = (names[each] for each in (marker, *marker.split(None, 1)[:1]) if each and each in names)
    return next(found, None)


def _frame(
    role: str,
    given: Mapping[str, Any],
    pylate: Mapping[str, Any] | None,
    marker_id: int | None,
    names: Mapping[str, int],
    source: Path,
) -> TextFrame:
    """Returns the frame of queries or of documents.

    Args:
        given: values of ``FRAME_KEYS`` that are there.
        pylate: the settings of a folder of PyLate.
    """
    length = optional_integer(dict(given), f"{role}_length", source)
    expansion: Any = given.get("query_expansion") if role == _QUERY else None
    if pylate is not None and role == _QUERY and "query_expansion" not in given:
        attends = bool(pylate.get("attend_to_expansion_tokens"))
        expansion = {"strategy": "fixed", "attend": attends, "length": length or _DEFAULT_QUERY_LENGTH}
        expansion = None if pylate.get("do_query_expansion") is False else expansion
    if expansion is None:
        return TextFrame(marker_id, length)
    if not isinstance(expansion, dict) or not expansion.keys() <= _EXPANSION_KEYS:
        raise ModelUnsupported(f"{source}: query_expansion {str(expansion)[:100]} is not honoured by this server")
    strategy, size = expansion.get("strategy"), integer(expansion, "length", source)
    if strategy not in ("fixed", "min"):
        raise ModelUnsupported(f"{source}: the strategy {strategy!r} of query_expansion is not one of fixed, min")
    token = expansion.get("token") or next((name for name in ("[MASK]", "<mask>") if name in names), None)
    if not isinstance(token, str) or token not in names:
        raise ModelConfigError(f"{source}: query_expansion needs the token {token!r}, which the vocabulary lacks")
    attends = switch(expansion, "attend", False, source)
    return TextFrame(marker_id, size if strategy == "fixed" else length, names[token], size, attends)
