"""Reads ``-model``: models that a server has beside its first one, each with options of its own.

Options about a model belong to the first one. A further model has their defaults, and what its own value
names. It takes over all other options, as the engine, unless its value names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bert_serving.client.command_parser import did_you_mean
from bert_serving.client.protocol import MAX_MODEL_NAME

from ..errors import ConfigError
from ..model.default import default_model_dir
from .option import Option
from .options import OPTIONS, option_groups

if TYPE_CHECKING:
    from .server_config import ServerConfig

_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)=(.*)", re.S)
#: Most models of a server. Each has processes of its own.
MAX_MODELS = 64
#: Options of the same groups that belong to the whole server.
_OF_SERVER = ("model_dir", "model", "graph_tmp_dir", "show_tokens_to_client")


def _about_models() -> dict[str, Option]:
    groups = option_groups()
    found = (*groups["File Paths"], *groups["BERT Parameters"], OPTIONS["num_worker"])
    found += (OPTIONS["fixed_embed_length"], OPTIONS["quantization_ranges"], OPTIONS["drift_reference"])
    return {each.name: each for each in found if each.name not in _OF_SERVER}


#: Options that belong to one model: a further model has their defaults.
ABOUT_MODELS = _about_models()
#: Options of the server that a further model may have for itself.
OVERRIDABLE = {
    name: OPTIONS[name]
    for name in ("engine", "dtype", "threads", "device_map", "max_batch_size", "max_batch_tokens", "idle_unload")
}  # fmt: skip
_BY_FLAG = {(each.flag or each.name): each for each in (*ABOUT_MODELS.values(), *OVERRIDABLE.values())}


class ModelSpec(NamedTuple):
    """A value ``NAME=FOLDER[,option=value,...]`` of ``-model``. ``options`` has parsed values by name."""

    name: str
    folder: str
    options: dict[str, Any]


def parse_spec(text: str) -> ModelSpec | None:
    """Parses a value of ``-model``. Returns None for a folder without a name, which is a value of ``-model_dir``.

    Raises:
        ConfigError: there is no folder, an option is unknown, or its value is not valid.
    """
    found = _NAMED.fullmatch(text)
    if found is None:
        return None
    name, rest = found.groups()
    folder, *settings = rest.split(",")
    if not folder:
        raise ConfigError(f"-model {text[:200]!r} names no folder: write NAME=FOLDER[,option=value,...]")
    if len(name) > MAX_MODEL_NAME:
        raise ConfigError(f"-model {name[:200]!r} has a name of {len(name)} characters; the limit is {MAX_MODEL_NAME}")
    options: dict[str, Any] = {}
    for setting in settings:
        flag, has_value, value = setting.strip().lstrip("-").partition("=")
        option = _BY_FLAG.get(flag)
        if option is None:
            raise ConfigError(
                f"-model {name}: {flag!r} is not an option of one model; these are: {', '.join(_BY_FLAG)}"
                f"{did_you_mean(flag, _BY_FLAG)}"
            )
        if option.name in options:
            raise ConfigError(f"-model {name}: {flag} is set twice: set it once")
        options[option.name] = _parse(name, option, flag, value if has_value else None)
    return ModelSpec(name, os.path.expanduser(folder), options)


def _parse(name: str, option: Option, flag: str, value: str | None) -> Any:
    if option.parse is None:
        if value is not None and value.lower() not in ("true", "false"):
            raise ConfigError(f"-model {name}: {flag}={value!r} is not valid: it is a switch, write {flag} alone")
        is_on = value is None or value.lower() == "true"
        return option.switch_to if is_on else not option.switch_to
    try:
        if not value:
            raise ValueError("there is no value")
        if option.many:
            return tuple(map(option.parse, value.split()))
        return option.parse(value)
    except ValueError as error:
        raise ConfigError(f"-model {name}: {flag}={value or ''} is not valid ({error})") from None


def take_models(values: dict[str, Any], given: Iterable[str], name: str) -> tuple[frozenset[str], str]:
    """Splits the values of ``-model``: the first model goes to ``-model_dir``, the named ones after it stay.

    Args:
        values: all options; ``model``, ``model_dir`` and the options of the first model change.
        name: name of the first model so far; empty without one of its own.

    Returns:
        The options that count as given, and the name of the first model.

    Raises:
        ConfigError: a value is not valid, or two name the first model.
    """
    given, further = set(given), []
    for text in values["model"]:
        spec = parse_spec(text)
        if spec is None:
            folder = os.path.expanduser(text)
            if values["model_dir"] not in (None, folder):
                raise ConfigError(
                    f"-model {text} has no name, so it is -model_dir, but that is {values['model_dir']}: write "
                    f"-model NAME={text}"
                )
            values["model_dir"] = folder
            given.add("model_dir")
        else:
            further.append((text, spec))
    if values["model_dir"] is None and further:
        _, first = further.pop(0)
        both = [each for each in first.options if each in given and values[each] != first.options[each]]
        if both:
            raise ConfigError(f"-{both[0]} is set, and -model {first.name} sets it too: set it once")
        values.update(first.options, model_dir=first.folder)
        given |= {*first.options, "model_dir"}
        name = first.name
    values["model"] = tuple(text for text, _ in further)
    return frozenset(given), name


def further_models(config: ServerConfig) -> list[ServerConfig]:
    """Returns the configurations of the models beside the first one.

    Raises:
        ConfigError: the options of a model are not valid, or two models have one name.
    """
    if not config.model:
        return []
    if len(config.model) >= MAX_MODELS:
        raise ConfigError(f"-model: a server has at most {MAX_MODELS} models, not {len(config.model) + 1}")
    first = public_name(config)
    if not 0 < len(first) <= MAX_MODEL_NAME or not first.isprintable():
        raise ConfigError(
            f"the first model has the name of its folder, {first[:200]!r}; a name has 1 to {MAX_MODEL_NAME} printable "
            "characters: write -model NAME=FOLDER for it, in place of -model_dir"
        )
    configs, names = [], {first}
    for text in config.model:
        spec = parse_spec(text)
        assert spec is not None
        if spec.name in names:
            raise ConfigError(f"-model {spec.name}: another model has this name: choose a different one")
        names.add(spec.name)
        values: dict[str, Any] = {name: each.default for name, each in ABOUT_MODELS.items()} | spec.options
        try:
            own = replace(
                config,
                **values,
                given=(config.given - ABOUT_MODELS.keys()) | spec.options.keys() | {"model_dir"},
                model_dir=spec.folder,
                model=(),
                name=spec.name,
                http_jobs=None,  # of the server: its lines may name any model
            )
        except ConfigError as error:
            raise ConfigError(f"-model {spec.name}: {error}") from None
        configs.append(own)
    return configs


def public_name(config: ServerConfig) -> str:
    """Returns the name of a model in requests: that of ``-model``, or of its folder without the path.

    A byte of its name that is not UTF-8 becomes a question mark, because JSON cannot hold it.
    """
    if config.name:
        return config.name
    if config.tuned_model_dir:
        return _text_of(Path(config.tuned_model_dir).resolve().name)
    if config.model_dir == default_model_dir():
        return "all-MiniLM-L6-v2"
    return _text_of(Path(config.model_dir).resolve().name)


def _text_of(name: str) -> str:
    return name.encode(errors="replace").decode()
