"""Reads JSON files of a model folder and checks the types of their values; finds the weights of modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import ModelConfigError


def read_json(path: Path) -> Any:
    """Returns the content of a file.

    Raises:
        ModelConfigError: the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ModelConfigError(f"{path} cannot be read ({error.strerror}); copy the folder again") from error
    except (ValueError, RecursionError) as error:
        raise ModelConfigError(f"{path} is not valid JSON ({error}); copy the file again") from error


def read_list(path: Path) -> list[Any]:
    """Returns the array in a file; otherwise as :func:`read_object`."""
    values = read_json(path)
    if not isinstance(values, list):
        raise ModelConfigError(f"{path} must hold a JSON array, it holds a {type(values).__name__}")
    return values


def read_object(path: Path) -> dict[str, Any]:
    """Returns the object in a file.

    Raises:
        ModelConfigError: the file cannot be read, is not JSON, or holds another value.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise ModelConfigError(f"{path} must hold a JSON object, it holds a {type(values).__name__}")
    return values


def read_optional(path: Path) -> dict[str, Any]:
    """Returns the object in a file, empty if there is no such file; otherwise as :func:`read_object`."""
    return read_object(path) if path.exists() else {}


def integer(values: dict[str, Any], key: str, source: Path) -> int:
    """Returns a value above 0.

    Raises:
        ModelConfigError: the key is missing, or its value is no such number.
    """
    value = optional_integer(values, key, source)
    if value is None:
        raise ModelConfigError(f"{source}: the key {key!r} is missing")
    return value


def optional_integer(values: dict[str, Any], key: str, source: Path) -> int | None:
    """Returns a value above 0, or None if the key is missing or null; otherwise as :func:`integer`."""
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelConfigError(f"{source}: {key} must be a whole number above 0, it is {value!r}")
    return value


def switch(values: dict[str, Any], key: str, default: bool, source: Path) -> bool:
    """Returns a value that is true or false, 1 or 0; null is false, as in Python.

    Raises:
        ModelConfigError: the value is another one.
    """
    value = values.get(key, default)
    if value is not None and not (isinstance(value, int) and value in (0, 1)):
        raise ModelConfigError(f"{source}: {key} must be true or false, it is {value!r}")
    return bool(value)


def is_text(text: str) -> bool:
    """Returns whether a text of a JSON file has no lone surrogates, which no request, reply or log can hold."""
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def module_weights(folder: Path) -> str:
    """Returns the file with the weights of a module.

    Raises:
        ModelConfigError: the folder of the module has none.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return str(folder / name)
    raise ModelConfigError(f"{folder} has no model.safetensors and no pytorch_model.bin; copy the folder again")
