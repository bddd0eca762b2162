"""Reads the folder of an adapter: what it changes in its base model, and where that is.

An adapter is a LoRA of the library PEFT (https://huggingface.co/docs/peft): the folder has ``adapter_config.json`` and
``adapter_model.safetensors`` or ``adapter_model.bin``. What this server does not merge is refused by name.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .adapter_patterns import ANY_LAYER, END, LAYERS, SAVED, require_patterns, require_quick
from .errors import ModelConfigError, ModelNotFound, ModelUnsupported
from .files import DEFAULT_CONFIG_NAME, HF_CONFIG_NAME, listing, reject_lfs_pointer, require_folder
from .json_files import optional_integer, read_object, switch
from .rejections import HUB_NAME
from .sentence_transformers import MODULES_FILE, transformer_folder

CONFIG_FILE = "adapter_config.json"
#: Files with the weights, and their formats; the first that exists counts, as in PEFT.
_WEIGHTS = (("adapter_model.safetensors", "safetensors"), ("adapter_model.bin", "pytorch"))
#: Settings that this server honours, and those without influence on merged weights.
_HONOURED = {
    "peft_type", "base_model_name_or_path", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern",
    "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save",
    "init_lora_weights", "bias", "lora_bias",
}  # fmt: skip
_NO_INFLUENCE = {
    "auto_mapping", "revision", "task_type", "peft_version", "inference_mode", "lora_dropout", "megatron_core",
    "qalora_group_size", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    # PEFT ignores it for the layers of the families that this server computes.
    "fan_in_fan_out",
    # The tied layer is the decoder of a masked language model, whose heads are checked when they are read.
    "ensure_weight_tying",
}  # fmt: skip
#: Initializations that leave the weights of the base model as they are; the others change them.
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA: ``scale * B @ A`` is added to each of its layers.

    Attributes:
        folder: the folder of the adapter.
        weights: the file with its weights.
        weights_format: ``safetensors`` or ``pytorch``.
        rank: rows of ``A``.
        alpha: the scale is ``alpha / rank``, or ``alpha / sqrt(rank)`` with ``is_rank_stabilized``.
        rank_pattern: regular expression of the end of a layer's name, and its own rank; the first that fits counts.
        alpha_pattern: the same for ``alpha``.
        has_magnitudes: each row of a merged weight gets a length of its own (DoRA).
        targets: ends of the names of its layers; one regular expression with ``is_pattern``; empty for any.
        is_pattern: whether ``targets`` is a regular expression.
        excluded: layers that are none of them, as ``targets``.
        excludes_pattern: whether ``excluded`` is a regular expression.
        layers: numbers of the layers of the encoder that it changes; empty for all.
        layers_pattern: names in front of these numbers; empty for any.
        saved: names of modules that the adapter replaces as a whole.
    """

    folder: str
    weights: str
    weights_format: str
    rank: int
    alpha: float
    is_rank_stabilized: bool = False
    rank_pattern: tuple[tuple[str, float], ...] = ()
    alpha_pattern: tuple[tuple[str, float], ...] = ()
    has_magnitudes: bool = False
    targets: tuple[str, ...] = ()
    is_pattern: bool = False
    excluded: tuple[str, ...] = ()
    excludes_pattern: bool = False
    layers: tuple[int, ...] = ()
    layers_pattern: tuple[str, ...] = ()
    saved: tuple[str, ...] = ()

    @property
    def content(self) -> dict[str, Any]:
        """What shapes the merged weights, beside the file. PEFT writes the names of layers in any order."""
        names = ("rank", "alpha", "is_rank_stabilized", "rank_pattern", "alpha_pattern", "has_magnitudes")
        return {name: getattr(self, name) for name in names}

    def require_quick(self, names: Iterable[str]) -> None:
        """Checks that the regular expressions of the configuration end in time for names of layers and tensors.

        Raises:
            ModelConfigError: they take longer.
        """
        patterns = [(name, SAVED) for name in self.saved] + [(name, LAYERS) for name in self.layers_pattern]
        patterns += [(name, END) for name, _ in (*self.rank_pattern, *self.alpha_pattern)]
        for wanted, is_pattern in ((self.targets, self.is_pattern), (self.excluded, self.excludes_pattern)):
            patterns += [(name, "{}") for name in wanted if is_pattern]
        require_quick(patterns, names, Path(self.folder) / CONFIG_FILE)

    def rank_of(self, layer: str) -> int:
        """Returns the rank of a layer."""
        return int(_by_pattern(self.rank_pattern, layer, self.rank))

    def scale_of(self, layer: str) -> float:
        """Returns the factor of ``B @ A`` of a layer."""
        rank = self.rank_of(layer)
        return _by_pattern(self.alpha_pattern, layer, self.alpha) / (
            math.sqrt(rank) if self.is_rank_stabilized else rank
        )

    def saves(self, tensor: str) -> bool:
        """Returns whether the configuration names the module of a tensor as one that is replaced as a whole."""
        return any(re.match(SAVED.format(name), tensor) for name in self.saved)

    def changes(self, layer: str) -> bool:
        """Returns whether the configuration names a layer, by the rules of PEFT."""
        if _fits(self.excluded, self.excludes_pattern, layer) or self.saves(layer):
            return False
        if not self.targets:
            return True
        if not _fits(self.targets, self.is_pattern, layer):
            return False
        if self.is_pattern or not self.layers or layer in self.targets:
            return True
        patterns = [LAYERS.format(name) for name in self.layers_pattern] or [ANY_LAYER]
        found = next((each for pattern in patterns if (each := re.match(pattern, layer))), None)
        # The last group, because a name may have groups.
        return found is not None and int(found.group(found.re.groups)) in self.layers


def _fits(names: tuple[str, ...], is_pattern: bool, layer: str) -> bool:
    if is_pattern:
        return re.fullmatch(names[0], layer) is not None
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _by_pattern(patterns: Iterable[tuple[str, float]], layer: str, default: float) -> float:
    return next((value for pattern, value in patterns if re.match(END.format(pattern), layer)), default)


def has_adapter(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder has an adapter."""
    return (Path(folder) / CONFIG_FILE).is_file()


def settings_folder(model_dir: str, base: str | None) -> str:
    """Returns the folder whose modules and prompts count: ``model_dir``, or the base model of an adapter without any.

    Raises:
        ModelError: as :func:`find_base`.
    """
    if not has_adapter(model_dir) or (Path(model_dir) / MODULES_FILE).exists():
        return model_dir
    return str(find_base(Path(model_dir), base))


def find_adapter(transformer: Path, model_dir: Path, base: str | None) -> tuple[Adapter, Path] | None:
    """Returns the adapter of a model folder, and the folder of the encoder of its base model; None without an adapter.

    Args:
        transformer: folder of the encoder, ``model_dir`` or one below it.
        base: value of ``-base``.

    Raises:
        ModelNotFound: the base model or the weights are missing.
        ModelUnsupported: the adapter is not merged, or ``base`` is set without one.
        ModelConfigError: the configuration is not valid.
    """
    folder = next((each for each in (transformer, model_dir) if has_adapter(each)), None)
    if folder is None:
        if base is not None:
            raise ModelUnsupported(
                f"-base {base} is for an adapter, but {model_dir} has no {CONFIG_FILE}: omit -base, or set -model_dir "
                "to the folder of the adapter"
            )
        return None
    found = transformer_folder(find_base(folder, base))
    if folder.resolve() != found.resolve() and has_adapter(found):
        raise ModelUnsupported(
            f"{found}, the base model of the adapter {folder}, has an adapter of its own; merge that one first: "
            "model.merge_and_unload(), then save_pretrained()"
        )
    return read_adapter(folder), found


def find_base(folder: Path, base: str | None) -> Path:
    """Returns the folder of the base model of an adapter.

    It is that of ``-base``; or what ``base_model_name_or_path`` names, absolute or relative to the adapter; or the
    folder of the adapter itself, if it has a whole model.

    Raises:
        ModelNotFound: there is none; the message names what was looked for.
        ModelConfigError: the configuration is not valid.
    """
    is_model = any((folder / name).is_file() for name in (DEFAULT_CONFIG_NAME, HF_CONFIG_NAME))
    if base is not None:
        found = require_folder(base, "-base")
        if found.resolve() == folder.resolve() and not is_model:
            raise ModelNotFound(
                f"-base {base} is the adapter itself, which has no {HF_CONFIG_NAME}: set -base to the folder of the "
                "model that the adapter was trained on"
            )
        return found
    named = _named_base(folder)
    if (found_by_name := _folder_of(folder, named)) is not None:
        return require_folder(found_by_name, f"base_model_name_or_path of {folder / CONFIG_FILE}")
    if is_model:
        return folder
    download = f"hf download {named} --local-dir FOLDER, then " if named and HUB_NAME.match(named) else ""
    raise ModelNotFound(
        f"{folder} is an adapter without its base model: base_model_name_or_path {named!r} of {CONFIG_FILE} is no "
        f"folder, absolute or relative to the adapter, and {folder} has no {HF_CONFIG_NAME}; this server downloads "
        f"nothing: {download}add -base FOLDER with the folder of the base model (in -model: NAME=ADAPTER,base=FOLDER)"
    )


def other_base(model_dir: str, base: str | None) -> Path | None:
    """Returns the folder that an adapter names as its base model, if ``base`` is another one; else None."""
    if base is None or not has_adapter(model_dir):
        return None
    folder = Path(model_dir)
    named = _folder_of(folder, _named_base(folder))
    return None if named in (None, Path(base).resolve()) else named


def _named_base(folder: Path) -> str | None:
    source = folder / CONFIG_FILE
    named = read_object(source).get("base_model_name_or_path")
    if named is not None and not isinstance(named, str):
        raise ModelConfigError(f"{source}: base_model_name_or_path must be a folder, it is {str(named)[:100]}")
    return named


def _folder_of(folder: Path, named: str | None) -> Path | None:
    return (folder / named).resolve() if named and os.path.isdir(folder / named) else None


def read_adapter(folder: Path) -> Adapter:
    """Reads the configuration of an adapter, and finds its weights.

    Raises:
        ModelNotFound: there are no weights.
        ModelUnsupported: the adapter is not merged; the message names the setting.
        ModelConfigError: the configuration is not valid.
    """
    source = folder / CONFIG_FILE
    reject_lfs_pointer(source)
    values = read_object(source)
    _reject_others(values, source)
    targets, is_pattern = _names(values, "target_modules", source)
    if is_pattern and targets == ("all-linear",):
        targets, is_pattern = (), False
    excluded, excludes_pattern = _names(values, "exclude_modules", source)
    layers = values.get("layers_to_transform")
    layers = [] if layers is None else layers if isinstance(layers, list) else [layers]
    if not all(isinstance(each, int) for each in layers):
        raise ModelConfigError(f"{source}: layers_to_transform must be numbers, it is {str(layers)[:100]}")
    weights, weights_format = _find_weights(folder)
    alpha = values.get("lora_alpha", 8)
    return Adapter(
        folder=str(folder),
        weights=weights,
        weights_format=weights_format,
        rank=optional_integer(values, "r", source) or 8,
        alpha=_number(alpha, "lora_alpha", source),
        is_rank_stabilized=switch(values, "use_rslora", False, source),
        rank_pattern=_ranks(values, source),
        alpha_pattern=_patterns(values, "alpha_pattern", source),
        has_magnitudes=switch(values, "use_dora", False, source),
        targets=targets,
        is_pattern=is_pattern,
        excluded=excluded,
        excludes_pattern=excludes_pattern,
        layers=tuple(layers),
        layers_pattern=_names(values, "layers_pattern", source)[0],
        saved=_names(values, "modules_to_save", source)[0],
    )


def _reject_others(values: dict[str, Any], source: Path) -> None:
    remedy = "merge the adapter first: model.merge_and_unload(), then save_pretrained()"
    if (kind := values.get("peft_type")) != "LORA":
        raise ModelUnsupported(f"{source}: peft_type {kind!r} is not merged by this server, LORA is; {remedy}")
    known = _HONOURED | _NO_INFLUENCE
    others = sorted(key for key, value in values.items() if key not in known and value not in (None, False, "", [], {}))
    if others:
        raise ModelUnsupported(
            f"{source}: {others[0]} {str(values[others[0]])[:100]} is not honoured by this server; {remedy}"
        )
    start = values.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise ModelUnsupported(
            f"{source}: init_lora_weights {str(start)[:100]!r} changed the weights of the base model, which this "
            f"server does not repeat; {remedy}"
        )


def _names(values: dict[str, Any], key: str, source: Path) -> tuple[tuple[str, ...], bool]:
    """Returns the names of a setting, and whether it is one text."""
    found = values.get(key)
    names = ([found] if found else []) if found is None or isinstance(found, str) else found
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ModelConfigError(f"{source}: {key} must be a text or a list of texts, it is {str(found)[:100]}")
    form = {"layers_pattern": LAYERS, "modules_to_save": SAVED}.get(key)
    if form is not None or isinstance(found, str):
        require_patterns(names, key, source, form or "{}")
    return tuple(names), isinstance(found, str) and bool(found)


def _patterns(values: dict[str, Any], key: str, source: Path) -> tuple[tuple[str, float], ...]:
    found = values.get(key) or {}
    if not isinstance(found, dict):
        raise ModelConfigError(f"{source}: {key} must be an object with numbers, it is {str(found)[:100]}")
    require_patterns(found, key, source, END)
    return tuple((name, _number(value, f"{key} of {name}", source)) for name, value in found.items())


def _ranks(values: dict[str, Any], source: Path) -> tuple[tuple[str, float], ...]:
    found = _patterns(values, "rank_pattern", source)
    for name, value in found:
        if not value.is_integer():
            raise ModelConfigError(f"{source}: rank_pattern of {name} must be a whole number above 0, it is {value}")
    return found


def _number(value: Any, key: str, source: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < sys.float_info.max:
        raise ModelConfigError(f"{source}: {key} must be a number above 0, it is {str(value)[:100]}")
    return float(value)


def _find_weights(folder: Path) -> tuple[str, str]:
    for name, kind in _WEIGHTS:
        if (folder / name).is_file():
            reject_lfs_pointer(folder / name)
            return str(folder / name), kind
    raise ModelNotFound(
        f"{folder} has an {CONFIG_FILE}, but no {' and no '.join(name for name, _ in _WEIGHTS)}: {listing(folder)}; "
        "copy the folder again"
    )
