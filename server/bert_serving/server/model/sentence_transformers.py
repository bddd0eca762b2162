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

import msgspec

from .errors import ModelConfigError, ModelUnsupported

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
#: Activations of Dense by the last part of their class path.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
#: Lengths from here on in ``tokenizer_config.json`` mean that the length is unknown.
_NO_LENGTH = 10**9


class Dense(msgspec.Struct, frozen=True, tag=True):
    """A linear layer with an activation.

    Attributes:
        weights: ``model.safetensors`` or ``pytorch_model.bin`` with ``linear.weight`` ``[out, in]``, ``linear.bias``.
        activation: one of ``ACTIVATIONS``.
    """

    weights: str
    in_features: int
    out_features: int
    has_bias: bool
    activation: str


class LayerNorm(msgspec.Struct, frozen=True, tag=True):
    """Layer normalization with epsilon 1e-5.

    Attributes:
        weights: the file with ``norm.weight`` and ``norm.bias``, each ``[dimension]``.
    """

    weights: str
    dimension: int


class Normalize(msgspec.Struct, frozen=True, tag=True):
    """Division by the Euclidean norm; a norm below 1e-12 counts as 1e-12."""


class Truncate(msgspec.Struct, frozen=True, tag=True):
    """The first dimensions of a vector."""

    dimensions: int


Module = Dense | LayerNorm | Normalize | Truncate


class SentencePipeline(msgspec.Struct, frozen=True):
    """The modules of a sentence-transformers folder and the settings that come with them.

    Attributes:
        transformer_dir: the folder of the encoder, which may be below that of ``modules.json``.
        pooling: names of ``POOLING_MODES``; the vectors of several are concatenated. Empty: the engine pools.
        modules: what follows the pooling, in order.
        max_seq_length: tokens of a sequence at most, special tokens included; None where no file limits it.
        lower_case: texts are lower-cased before the tokenizer.
        prompts: prompts by name.
        default_prompt_name: the prompt of texts that come without one.
        similarity: the function that compares vectors, as the folder names it.
    """

    transformer_dir: str
    pooling: tuple[str, ...]
    modules: tuple[Module, ...] = ()
    max_seq_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    similarity: str | None = None

    @property
    def computes(self) -> bool:
        """Whether anything is left to compute after the engine."""
        return bool(self.pooling or self.modules)

    @property
    def is_normalized(self) -> bool:
        """Whether the modules make unit vectors."""
        return any(isinstance(module, Normalize) for module in self.modules[-1:])

    @property
    def module_names(self) -> list[str]:
        """Names of the modules after the pooling, such as ``Dense``."""
        return [type(module).__name__ for module in self.modules]

    @property
    def weight_files(self) -> list[Path]:
        """Files with the weights of the modules."""
        return [Path(module.weights) for module in self.modules if isinstance(module, Dense | LayerNorm)]

    def describe(self) -> list[str]:
        """Names of the modules after the encoder, for the status: ``["Pooling mean", "Normalize"]``."""
        pooling = [f"Pooling {', '.join(self.pooling)}"] if self.pooling else []
        return [*pooling, *self.module_names]

    def widest(self, width: int) -> int:
        """Dimensions of a vector before it is truncated, whose pooled vector has ``width``."""
        return next((module.out_features for module in self.modules[::-1] if isinstance(module, Dense)), width)

    def dimensions(self, width: int) -> int:
        """Dimensions of a vector whose pooled vector has ``width``."""
        for module in self.modules:
            if isinstance(module, Dense):
                width = module.out_features
            elif isinstance(module, Truncate):
                width = min(width, module.dimensions)
        return width


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
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelUnsupported(
            f"{source}: the modules begin with {', '.join(kinds[:2]) or 'nothing'}; this server computes Transformer, "
            "then Pooling, then Dense, LayerNorm and Normalize"
        )
    transformer = folder / entries[0][1]
    settings = _read_transformer(folder, transformer)
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


def _read_transformer(folder: Path, transformer: Path) -> dict[str, Any]:
    found = next((path for name in TRANSFORMER_FILES if (path := transformer / name).is_file()), None)
    values = _read_optional(found) if found else {}
    source = found or transformer
    task = values.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise ModelUnsupported(f"{source}: transformer_task {task!r} is not served; it must be 'feature-extraction'")
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
