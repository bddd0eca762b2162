"""Validates option values that come from a Python program, as the command line validates its texts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from bert_serving.client.command_parser import did_you_mean

from ..errors import ConfigError
from .option import Option


def check_values(options: Mapping[str, Option], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of options as the command line gives them: a ``Path`` becomes a ``str``.

    Raises:
        ConfigError: there is no such option, or the command line rejects the value; the message names both.
    """
    unknown = [str(name) for name in values if name not in options]
    if unknown:
        hint = did_you_mean(unknown[0], options)
        raise ConfigError(f"unknown options: {', '.join(unknown)}{hint or '; bert-serving-start --help lists them'}")
    return {name: _check(options[name], value) for name, value in values.items()}


def _check(option: Option, value: Any) -> Any:
    if (value is None and option.default is None) or value is option.default:
        return value
    try:
        if option.parse is None:
            return _switch(value)
        if option.many:
            is_one = isinstance(value, str | bytes) or not isinstance(value, Iterable)
            return tuple(_parse(option, item) for item in ((value,) if is_one else value))
        return _parse(option, value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{option.name}={value!r} is not valid ({error})") from None


def _switch(value: Any) -> bool:
    if value in (0, 1) and not isinstance(value, str | bytes | float):  # bool, and that of numpy
        return bool(value)
    raise ValueError("it must be True or False")


def _parse(option: Option, value: Any) -> Any:
    assert option.parse is not None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bool | bytes) or (option.parse is str and not isinstance(value, str)):
        raise ValueError(f"it must not be of the type {type(value).__name__}")
    if value is None:
        return option.parse("NONE")
    # An enumeration of numbers has the text of its number.
    return option.parse(value if isinstance(value, str) else str(int(value)) if isinstance(value, int) else str(value))
