"""Reads the pipeline of a sentence-transformers folder: what turns token vectors into the vector of a text.

The folder has a ``modules.json``, which lists the modules in order: Transformer, Pooling, then any number of Dense,
LayerNorm, Normalize and Dropout. The format is that of the library sentence-transformers, versions 2 to 6
(https://www.sbert.net/docs/package_reference/sentence_transformer/models.html). What this server does not compute is
refused by name, because another vector in its place would be wrong in silence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import ModelConfigError, ModelUnsupported
from .json_files import (
    integer,
    is_text,
    module_weights,
    optional_integer,
    read_list,
    read_object,
    read_optional,
    switch,
)
from .multi_folder import MULTI_TYPES, read_multi_folder
from .pipeline import ACTIVATIONS, Dense, LayerNorm, Module, Normalize, SentencePipeline, Truncate
from .sparse_folder import SPARSE_KINDS, read_sparse_folder
from .transformer_module import EMBED_TASK, SCORE_TASK, read_transformer

MODULES_FILE = "modules.json"
#: Names of pooling modes, in the order in which the library concatenates those of old ``pooling_mode_*`` switches.
POOLING_MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
_OLD_SWITCHES = {
    f"pooling_mode_{name}": mode
    for name, mode in zip(
        ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"),
        POOLING_MODES,
        strict=True,
    )
}
#: Keys of the configurations of modules that this server honours or that have no influence on vectors.
_POOLING_KEYS = {"embedding_dimension", "word_embedding_dimension", "pooling_mode", "include_prompt", *_OLD_SWITCHES}
_DENSE_KEYS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}
_LAYER_NORM_KEYS = {"dimension"}
#: Modules without weights.
_WITHOUT_WEIGHTS = ("Pooling", "Normalize", "Dropout")
#: Value of ``model_type`` of a model that gives one vector for each text.
_MODEL_TYPE = "SentenceTransformer"
#: Suffixes of files with weights.
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
#: Packages of the library whose models give other results than one vector for each text, and their modules that this
#: server computes.
_OTHER_MODELS = frozenset({"sparse_encoder", "multi_vector_encoder"})
_OF_OTHER_MODELS = frozenset({"SpladePooling", "MLMTransformer", "MultiVectorMask"})
#: Modules of the library PyLate that are those of sentence-transformers.
_PYLATE = ("pylate.models.Dense.Dense", "pylate.models.transformer.Transformer")
#: Former names of the class Transformer: versions before 0.4 had one class for each family.
_TRANSFORMERS = ("BERT", "RoBERTa", "DistilBERT", "MLMTransformer")


def read_pipeline(model_dir: str | Path) -> SentencePipeline | None:
    """Returns the pipeline that ``model_dir`` describes; None for a folder without ``modules.json``. No weight is read.

    Raises:
        ModelUnsupported: a module or a setting that this server does not compute; the message names it.
        ModelConfigError: a file is broken, or the modules do not fit together.
    """
    folder = Path(model_dir)
    source = folder / MODULES_FILE
    if not source.exists():
        return None
    entries = _read_entries(source)
    kinds = [kind for kind, _ in entries]
    if kinds == ["Transformer"] and read_transformer(folder / entries[0][1], SCORE_TASK):
        raise ModelUnsupported(
            f"{source}: the folder is that of a cross-encoder, which gives scores instead of vectors; serve it with "
            "-task rerank, or with -task classify if it has several labels"
        )
    extra = read_optional(folder / "config_sentence_transformers.json")
    if extra.get("model_type") in MULTI_TYPES:
        return read_multi_folder(folder, entries, _read_prompts(extra, folder))
    if kinds[:2] == SPARSE_KINDS:
        return read_sparse_folder(folder, entries, _read_prompts(extra, folder))
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelUnsupported(
            f"{source}: the modules begin with {', '.join(kinds[:2]) or 'nothing'}; this server computes Transformer, "
            "then Pooling, then Dense, LayerNorm and Normalize, or Transformer and SpladePooling"
        )
    transformer = folder / entries[0][1]
    settings = read_transformer(transformer)
    if extra.get("model_type", _MODEL_TYPE) != _MODEL_TYPE:
        raise ModelUnsupported(
            f"{folder / 'config_sentence_transformers.json'}: model_type {extra['model_type']!r} gives no vector of a "
            f"text; it must be {_MODEL_TYPE!r}"
        )
    pooling = _read_pooling(folder / entries[1][1] / "config.json")
    modules: list[Module] = []
    for kind, path in entries[1:]:
        if kind in _WITHOUT_WEIGHTS:
            _reject_weights(folder / path, kind, {folder.resolve(), transformer.resolve()})
    for kind, path in entries[2:]:
        if kind == "Dense":
            modules.append(_read_dense(folder / path))
        elif kind == "LayerNorm":
            modules.append(_read_layer_norm(folder / path))
        elif kind == "Normalize":
            _reject_other_features(folder / path / "config.json", read_optional(folder / path / "config.json"))
            modules.append(Normalize())
        elif kind != "Dropout":  # which does nothing outside training
            raise ModelUnsupported(f"{source}: the module {kind} after Pooling is not computed by this server")
    truncate_dim = optional_integer(extra, "truncate_dim", folder / "config_sentence_transformers.json")
    if truncate_dim is not None:
        modules.append(Truncate(truncate_dim))
    prompts, default = _read_prompts(extra, folder)
    similarity = extra.get("similarity_fn_name")
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=pooling,
        modules=tuple(modules),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        prompts=prompts,
        default_prompt_name=default,
        similarity=similarity if isinstance(similarity, str) else None,
        has_modules=True,
    )


def transformer_folder(folder: Path) -> Path:
    """Returns the folder of the encoder of a model folder: the one of its first module, or itself.

    Raises:
        ModelUnsupported, ModelConfigError: ``modules.json`` is not valid.
    """
    source = folder / MODULES_FILE
    entries = _read_entries(source) if source.exists() else []
    return folder / entries[0][1] if entries else folder


def _read_entries(source: Path) -> list[tuple[str, str]]:
    """Returns kind and folder of each module."""
    listed = read_list(source)
    entries = [_entry(entry, source) for entry in listed]
    names = [str(entry["name"]) for entry in listed if "name" in entry]
    if len(set(names)) < len(names):
        raise ModelConfigError(f"{source}: two modules have the same name, of {', '.join(names)}; copy the file again")
    return entries


def _entry(entry: Any, source: Path) -> tuple[str, str]:
    """Returns kind and folder of a module: the last part of its class path, such as ``Pooling``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise ModelConfigError(f"{source}: each module needs a 'type' and a 'path', found {str(entry)[:100]}")
    package, _, kind = entry["type"].rpartition(".")
    if entry["type"] not in _PYLATE and package.partition(".")[0] != "sentence_transformers":
        raise ModelUnsupported(
            f"{source}: the module {entry['type']} is code of the model's own, which this server does not run"
        )
    if _OTHER_MODELS.intersection(package.split(".")) and kind not in _OF_OTHER_MODELS:
        raise ModelUnsupported(f"{source}: the module {entry['type']} is not computed by this server")
    path = entry.get("path", "")
    if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts or "\0" in path:
        raise ModelConfigError(f"{source}: the path of the module {kind} must be a folder below it, found {path!r}")
    return "Transformer" if kind in _TRANSFORMERS else kind, path


def read_scorer(model_dir: str | Path, is_tuned: bool = False) -> SentencePipeline:
    """Returns the settings of the folder of a classifier or cross-encoder, without its modules.

    Args:
        is_tuned: the weights are of another folder, so that the modules of this one do not count.

    Raises:
        ModelUnsupported: the folder describes vectors, or scores that this server does not compute.
        ModelConfigError: a file is broken.
    """
    folder = transformer = Path(model_dir)
    source, task = folder / MODULES_FILE, EMBED_TASK
    extra = read_optional(folder / "config_sentence_transformers.json")
    if source.exists():
        entries = _read_entries(source)
        kinds = [kind for kind, _ in entries]
        gives_vectors = kinds[:2] == ["Transformer", "Pooling"]
        if gives_vectors and not is_tuned:
            raise ModelUnsupported(
                f"{source}: the modules give vectors ({', '.join(kinds)}); serve it with -task embed"
            )
        if kinds != ["Transformer"] and not gives_vectors:
            raise ModelUnsupported(
                f"{source}: the modules are {', '.join(kinds) or 'none'}; this server computes scores of a Transformer "
                "alone: serve the model with sentence-transformers"
            )
        transformer, task = folder / entries[0][1], EMBED_TASK if gives_vectors else SCORE_TASK
    settings = read_transformer(transformer, task)
    prompts, default = _read_prompts({} if is_tuned else extra, folder)
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=(),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        prompts=prompts,
        default_prompt_name=default,
        has_modules=source.exists(),
    )


def _read_pooling(path: Path) -> tuple[str, ...]:
    values = read_object(path)
    _reject_unknown_keys(path, values, _POOLING_KEYS)
    if not switch(values, "include_prompt", True, path):
        raise ModelUnsupported(f"{path}: include_prompt false (pooling without the prompt) is not computed")
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in _OLD_SWITCHES.items() if switch(values, key, False, path)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise ModelConfigError(f"{path}: pooling_mode must be a name or a list of names, it is {modes!r}")
    for mode in modes:
        if mode not in POOLING_MODES:
            raise ModelUnsupported(f"{path}: pooling_mode {mode!r} is not one of {', '.join(POOLING_MODES)}")
    return tuple(modes)


def _read_dense(folder: Path) -> Dense:
    path = folder / "config.json"
    values = read_object(path)
    _reject_unknown_keys(path, values, _DENSE_KEYS)
    _reject_other_features(path, values)
    if switch(values, "use_residual", False, path):
        raise ModelUnsupported(f"{path}: use_residual is not computed")
    named = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = named.rpartition(".")[2] if isinstance(named, str) and named.startswith("torch.nn.") else None
    if activation not in ACTIVATIONS:
        raise ModelUnsupported(
            f"{path}: activation_function {named!r} is not computed; it must be one of torch.nn's "
            f"{', '.join(ACTIVATIONS)}"
        )
    return Dense(
        weights=module_weights(folder),
        in_features=integer(values, "in_features", path),
        out_features=integer(values, "out_features", path),
        has_bias=switch(values, "bias", True, path),
        activation=activation,
    )


def _reject_unknown_keys(path: Path, values: dict[str, Any], known: set[str]) -> None:
    """Rejects a setting that this server does not honour, unless it is off."""
    others = sorted(key for key, value in values.items() if key not in known and value not in (None, False, "", [], {}))
    if others:
        raise ModelUnsupported(f"{path}: {others[0]} {str(values[others[0]])[:100]} is not honoured by this server")


def _reject_weights(folder: Path, kind: str, shared: set[Path]) -> None:
    """Rejects weights of a module that has none.

    Args:
        shared: folders with the weights of the encoder, which may be the folder of this module too.
    """
    if not folder.is_dir() or folder.resolve() in shared:
        return
    names = sorted(path.name for path in folder.iterdir() if path.suffix in _WEIGHT_SUFFIXES)
    if names:
        raise ModelUnsupported(f"{folder / names[0]}: a module {kind} with weights is not computed by this server")


def _reject_other_features(path: Path, values: dict[str, Any]) -> None:
    """Rejects a module that reads or writes something else than the vector of the text, such as token vectors."""
    for key in ("module_input_name", "module_output_name"):
        name = values.get(key)
        if name not in (None, "sentence_embedding"):
            raise ModelUnsupported(f"{path}: {key} {name!r} is not computed; it must be 'sentence_embedding'")


def _read_layer_norm(folder: Path) -> LayerNorm:
    path = folder / "config.json"
    values = read_object(path)
    _reject_unknown_keys(path, values, _LAYER_NORM_KEYS)
    return LayerNorm(module_weights(folder), integer(values, "dimension", path))


def _read_prompts(values: dict[str, Any], folder: Path) -> tuple[dict[str, str], str | None]:
    source = folder / "config_sentence_transformers.json"
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise ModelConfigError(f"{source}: prompts must be an object of texts, found {str(prompts)[:100]}")
    for name, prompt in prompts.items():
        if not isinstance(prompt, str | None) or not is_text(name) or not is_text(prompt or ""):
            raise ModelConfigError(f"{source}: the prompt {name!a} must be a text, found {ascii(prompt)[:100]}")
    default = values.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelConfigError(
            f"{source}: default_prompt_name {default!r} is none of the prompts: {', '.join(prompts) or 'none'}"
        )
    return {name: prompt or "" for name, prompt in prompts.items()}, default
