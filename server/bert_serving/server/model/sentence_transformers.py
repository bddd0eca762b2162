"""Reads the pipeline of a sentence-transformers folder: what turns token vectors into the vector of a text.

The folder has a ``modules.json``, which lists the modules in order: Transformer, Pooling, then any number of Dense,
LayerNorm, Normalize and Dropout. The format is that of the library sentence-transformers, versions 2 to 6
(https://www.sbert.net/docs/package_reference/sentence_transformer/models.html). What this server does not compute is
refused by name, because another vector in its place would be wrong in silence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import ModelConfigError, ModelUnsupported
from .pipeline import (
    ACTIVATIONS,
    Dense,
    LayerNorm,
    Module,
    Normalize,
    SentencePipeline,
    Truncate,
)

MODULES_FILE = "modules.json"
#: Files with the length and the case of the Transformer module; the first that is there counts, as in the library.
TRANSFORMER_FILES = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
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
#: Values of ``transformer_task``: a model for vectors, and a classifier or cross-encoder.
EMBED_TASK, SCORE_TASK = "feature-extraction", "sequence-classification"
#: Lengths from here on in ``tokenizer_config.json`` mean that the length is unknown.
_NO_LENGTH = 10**9


def read_pipeline(model_dir: str | Path) -> SentencePipeline | None:
    """Returns the pipeline that ``model_dir`` describes; None for a folder without ``modules.json``. No weight is read.

    Raises:
        ModelUnsupported: a module or a setting that this server does not compute; the message names it.
        ModelConfigError: a file is broken, or the modules do not fit together.
    """
    folder = Path(model_dir)
    source = folder / MODULES_FILE
    if not source.is_file():
        return None
    entries = [_entry(entry, source) for entry in _read_list(source)]
    kinds = [kind for kind, _ in entries]
    if kinds == ["Transformer"] and _read_transformer(folder / entries[0][1], SCORE_TASK):
        raise ModelUnsupported(
            f"{source}: the folder is that of a cross-encoder, which gives scores instead of vectors; serve it with "
            "-task rerank, or with -task classify if it has several labels"
        )
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelUnsupported(
            f"{source}: the modules begin with {', '.join(kinds[:2]) or 'nothing'}; this server computes Transformer, "
            "then Pooling, then Dense, LayerNorm and Normalize"
        )
    transformer = folder / entries[0][1]
    settings = _read_transformer(transformer)
    extra = _read_optional(folder / "config_sentence_transformers.json")
    pooling = _read_pooling(folder / entries[1][1] / "config.json")
    modules: list[Module] = []
    for kind, path in entries[2:]:
        if kind == "Dense":
            modules.append(_read_dense(folder / path))
        elif kind == "LayerNorm":
            modules.append(_read_layer_norm(folder / path))
        elif kind == "Normalize":
            modules.append(Normalize())  # its folder holds nothing and may be missing
        elif kind != "Dropout":  # which does nothing outside training
            raise ModelUnsupported(f"{source}: the module {kind} after Pooling is not computed by this server")
    truncate_dim = _optional_int(extra, "truncate_dim", folder / "config_sentence_transformers.json")
    if truncate_dim is not None:
        modules.append(Truncate(truncate_dim))
    prompts, default = _read_prompts(extra, folder)
    similarity = extra.get("similarity_fn_name")
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=pooling,
        modules=tuple(modules),
        max_seq_length=settings["max_seq_length"],
        lower_case=settings["do_lower_case"],
        prompts=prompts,
        default_prompt_name=default,
        similarity=similarity if isinstance(similarity, str) else None,
    )


def _entry(entry: Any, source: Path) -> tuple[str, str]:
    """Returns kind and folder of a module: the last part of its class path, such as ``Pooling``."""
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        raise ModelConfigError(f"{source}: each module needs a 'type' and a 'path', found {str(entry)[:100]}")
    package, _, kind = entry["type"].rpartition(".")
    if package.partition(".")[0] != "sentence_transformers":
        raise ModelUnsupported(
            f"{source}: the module {entry['type']} is code of the model's own, which this server does not run"
        )
    path = entry.get("path", "")
    if not isinstance(path, str) or Path(path).is_absolute() or ".." in Path(path).parts:
        raise ModelConfigError(f"{source}: the path of the module {kind} must be a folder below it, found {path!r}")
    # Versions before 0.4 had one class for each family.
    return {"BERT": "Transformer", "RoBERTa": "Transformer", "DistilBERT": "Transformer"}.get(kind, kind), path


def read_scorer(model_dir: str | Path) -> SentencePipeline:
    """Returns the settings of the folder of a classifier or cross-encoder, without its modules.

    Raises:
        ModelUnsupported: the folder describes vectors, or scores that this server does not compute.
        ModelConfigError: a file is broken.
    """
    folder = transformer = Path(model_dir)
    source = folder / MODULES_FILE
    extra = _read_optional(folder / "config_sentence_transformers.json")
    if source.is_file():
        entries = [_entry(entry, source) for entry in _read_list(source)]
        kinds = [kind for kind, _ in entries]
        if kinds[:2] == ["Transformer", "Pooling"]:
            raise ModelUnsupported(
                f"{source}: the modules give vectors ({', '.join(kinds)}); serve it with -task embed"
            )
        if kinds != ["Transformer"]:
            raise ModelUnsupported(
                f"{source}: the modules are {', '.join(kinds) or 'none'}; this server computes scores of a Transformer "
                "alone: serve the model with sentence-transformers"
            )
        transformer = folder / entries[0][1]
    settings = _read_transformer(transformer, SCORE_TASK if source.is_file() else EMBED_TASK)
    prompts, default = _read_prompts(extra, folder)
    return SentencePipeline(
        transformer_dir=str(transformer),
        pooling=(),
        max_seq_length=settings["max_seq_length"],
        lower_case=settings["do_lower_case"],
        prompts=prompts,
        default_prompt_name=default,
    )


def _read_transformer(transformer: Path, wanted: str = EMBED_TASK) -> dict[str, Any]:
    found = next((path for name in TRANSFORMER_FILES if (path := transformer / name).is_file()), None)
    values = _read_optional(found) if found else {}
    source = found or transformer
    task = values.get("transformer_task", EMBED_TASK)
    if task != wanted:
        raise ModelUnsupported(f"{source}: transformer_task {task!r} is not served; it must be {wanted!r}")
    other = set(values.get("modality_config") or ()) - {"text"}
    if other:
        raise ModelUnsupported(f"{source}: inputs other than text ({', '.join(sorted(other))}) are not served")
    length = _optional_int(values, "max_seq_length", source)
    if length is None:
        tokenizer = _read_optional(transformer / "tokenizer_config.json")
        limit = tokenizer.get("model_max_length")
        length = int(limit) if isinstance(limit, int | float) and 0 < limit < _NO_LENGTH else None
    return {"max_seq_length": length, "do_lower_case": values.get("do_lower_case", False) is True}


def _read_pooling(path: Path) -> tuple[str, ...]:
    values = _read_object(path)
    if values.get("include_prompt", True) is not True:
        raise ModelUnsupported(f"{path}: include_prompt false (pooling without the prompt) is not computed")
    modes = values.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _OLD_SWITCHES.items() if values.get(switch) is True] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes:
        raise ModelConfigError(f"{path}: pooling_mode must be a name or a list of names, it is {modes!r}")
    for mode in modes:
        if mode not in POOLING_MODES:
            raise ModelUnsupported(f"{path}: pooling_mode {mode!r} is not one of {', '.join(POOLING_MODES)}")
    return tuple(modes)


def _read_dense(folder: Path) -> Dense:
    path = folder / "config.json"
    values = _read_object(path)
    for key, expected in (("module_input_name", "sentence_embedding"), ("module_output_name", "sentence_embedding")):
        name = values.get(key)
        if name not in (None, expected):
            raise ModelUnsupported(f"{path}: {key} {name!r} is not computed; it must be {expected!r}")
    if values.get("use_residual", False) is not False:
        raise ModelUnsupported(f"{path}: use_residual is not computed")
    named = values.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = named.rpartition(".")[2] if isinstance(named, str) and named.startswith("torch.nn.") else None
    if activation not in ACTIVATIONS:
        raise ModelUnsupported(
            f"{path}: activation_function {named!r} is not computed; it must be one of torch.nn's "
            f"{', '.join(ACTIVATIONS)}"
        )
    return Dense(
        weights=_weights(folder),
        in_features=_int(values, "in_features", path),
        out_features=_int(values, "out_features", path),
        has_bias=values.get("bias", True) is True,
        activation=activation,
    )


def _read_layer_norm(folder: Path) -> LayerNorm:
    return LayerNorm(_weights(folder), _int(_read_object(folder / "config.json"), "dimension", folder / "config.json"))


def _weights(folder: Path) -> str:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return str(folder / name)
    raise ModelConfigError(f"{folder} has no model.safetensors and no pytorch_model.bin; copy the folder again")


def _read_prompts(values: dict[str, Any], folder: Path) -> tuple[dict[str, str], str | None]:
    source = folder / "config_sentence_transformers.json"
    prompts = values.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(prompt, str) for prompt in prompts.values()):
        raise ModelConfigError(f"{source}: prompts must be an object of texts, found {str(prompts)[:100]}")
    default = values.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelConfigError(
            f"{source}: default_prompt_name {default!r} is none of the prompts: {', '.join(prompts) or 'none'}"
        )
    return prompts, default


def _read_list(path: Path) -> list[Any]:
    values = _read_json(path)
    if not isinstance(values, list):
        raise ModelConfigError(f"{path} must hold a JSON array, it holds a {type(values).__name__}")
    return values


def _read_object(path: Path) -> dict[str, Any]:
    values = _read_json(path)
    if not isinstance(values, dict):
        raise ModelConfigError(f"{path} must hold a JSON object, it holds a {type(values).__name__}")
    return values


def _read_optional(path: Path) -> dict[str, Any]:
    return _read_object(path) if path.is_file() else {}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ModelConfigError(f"{path} cannot be read ({error.strerror}); copy the folder again") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"{path} is not valid JSON ({error}); copy the file again") from error


def _int(values: dict[str, Any], key: str, source: Path) -> int:
    value = _optional_int(values, key, source)
    if value is None:
        raise ModelConfigError(f"{source}: the key {key!r} is missing")
    return value


def _optional_int(values: dict[str, Any], key: str, source: Path) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelConfigError(f"{source}: {key} must be a whole number above 0, it is {value!r}")
    return value
