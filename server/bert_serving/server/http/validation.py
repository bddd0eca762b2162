"""Parses and validates JSON bodies."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import msgspec

from bert_serving.client.protocol import EMBEDDING_TYPES, LONG_OF_TRUNCATE, MAX_LAYERS, PART_MODES

from .. import json_scan
from .errors import BadRequest, BodyTooLarge, MissingField

_MAX_REPR = 60
#: Maximum number of values in a body. Each needs many times the memory of its bytes of JSON.
MAX_VALUES = 2_500_000
#: Held while a large body is decoded: decoders hold the GIL, and several of them would keep other threads waiting.
_decoding = threading.Lock()

#: Strings accepted as truth values, for senders without booleans: forms, shells, old scripts.
_BOOLEAN_STRINGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def parse_object(body: bytes) -> dict[str, Any]:
    """Parses the JSON object in a body.

    Raises:
        BadRequest: the body is not JSON, or not an object.
        BodyTooLarge: the body has more than `MAX_VALUES` values.
    """
    if len(body) <= json_scan.SMALL_BYTES:
        value = _decode(body)
    else:
        with _decoding:
            _check_number_of_values(body)
            value = _decode(body)
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, received {json_type(value)}")
    return value


def _check_number_of_values(body: bytes) -> None:
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return  # also with those in strings
    counts = json_scan.scan(body)
    number = counts.commas + counts.lists + counts.objects
    if number > MAX_VALUES:
        raise BodyTooLarge(
            f"the body has about {number} values; the limit is {MAX_VALUES}: send fewer texts per request"
        )


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _parse_fallback(body)


def parse_bool(values: dict[str, Any], name: str) -> bool:
    """Returns a boolean field, false if absent. The strings in `_BOOLEAN_STRINGS` are accepted too.

    Raises:
        BadRequest: the field has another value.
    """
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _BOOLEAN_STRINGS:
        return _BOOLEAN_STRINGS[value.strip().lower()]
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise BadRequest(f"{name!r} must be true or false, received {truncate_repr(value)}", name)


def parse_options(values: dict[str, Any], width: int) -> dict[str, Any]:
    """Returns the fields that change vectors, as keyword arguments of ``BertClient.encode``. Absent ones are absent.

    Args:
        width: number of dimensions of the vectors of this server.

    Raises:
        BadRequest: a field has an invalid value.
    """
    options = parse_prompt(values)
    if values.get("long") is not None:
        options["long"] = parse_choice(values, "long", ("cut", "error", *PART_MODES))
    for name in ("normalize", "truncate"):
        if values.get(name) is not None:
            options[name] = parse_bool(values, name)
    if values.get("embedding_type") is not None:
        options["embedding_type"] = parse_choice(values, "embedding_type", EMBEDDING_TYPES)
    if "long" in options and "truncate" in options:
        same = LONG_OF_TRUNCATE[options["truncate"]]
        if options["long"] != same:
            raise BadRequest(
                f"'truncate' {str(options['truncate']).lower()} means 'long' {same!r}, but 'long' is "
                f"{options['long']!r}: send only one of them",
                "long",
            )
    options |= parse_pooling(values)
    if (value := parse_count(values, "dimensions")) is not None:
        has_width = "pooling" in options or "pooling_layer" in options  # of its own, which the service checks
        if value > width and not has_width:
            raise BadRequest(
                f"'dimensions' is {value}, but the vectors of this server have {width} dimensions", "dimensions"
            )
        options["dimensions"] = value
    return options


def parse_pooling(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields ``pooling`` and ``pooling_layer``, the latter as a list. Absent ones are absent.

    Raises:
        BadRequest: a field has an invalid value.
    """
    options: dict[str, Any] = {}
    if (name := values.get("pooling")) is not None:
        if not isinstance(name, str):
            raise BadRequest(f"'pooling' must be a string, received {truncate_repr(name)}", "pooling")
        options["pooling"] = name
    if (layers := values.get("pooling_layer")) is not None:
        found = layers if isinstance(layers, list) else [layers]
        if not 0 < len(found) <= MAX_LAYERS or not all(type(layer) is int for layer in found):
            raise BadRequest(
                f"'pooling_layer' must be an integer or a list of 1 to {MAX_LAYERS} integers, received "
                f"{truncate_repr(layers)}",
                "pooling_layer",
            )
        options["pooling_layer"] = found
    return options


def parse_prompt(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields ``prompt_name`` and ``prompt``. Absent ones are absent.

    Raises:
        BadRequest: a field is not a string.
    """
    options: dict[str, Any] = {}
    for name in ("prompt_name", "prompt"):
        if (value := values.get(name)) is not None:
            if not isinstance(value, str):
                raise BadRequest(f"{name!r} must be a string, received {truncate_repr(value)}", name)
            options[name] = value
    return options


def parse_choice(values: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """Returns a field with one of ``choices``; the first choice if absent.

    Raises:
        BadRequest: the field has another value.
    """
    value = values.get(name)
    if value is None:
        return choices[0]
    if value not in choices:
        raise BadRequest(f"{name!r} must be one of {', '.join(choices)}, received {truncate_repr(value)}", name)
    return str(value)


def parse_count(values: dict[str, Any], name: str) -> int | None:
    """Returns a field that is an integer of at least 1; None if absent.

    Raises:
        BadRequest: the field has another value.
    """
    count = values.get(name)
    if count is None or (isinstance(count, int) and not isinstance(count, bool) and count >= 1):
        return count
    raise BadRequest(f"{name!r} must be an integer of at least 1, received {truncate_repr(count)}", name)


def require_field(values: dict[str, Any], name: str, what: str) -> Any:
    """Returns a required field; ``what`` describes it in the error message.

    Raises:
        MissingField: the field is absent.
    """
    if name not in values:
        raise MissingField(f"the field {name!r} is missing: {what}", name)
    return values[name]


def json_type(value: Any) -> str:
    """Returns the JSON type of a value, for an error message."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def truncate_repr(value: Any) -> str:
    """Returns the representation of a JSON value for an error message, truncated to `_MAX_REPR` characters."""
    text = repr(value)
    return text if len(text) <= _MAX_REPR else f"{text[: _MAX_REPR - 3]}..."


def printable(text: str) -> str:
    """Returns a text that a response can encode: a lone surrogate becomes a question mark."""
    return text if text.isascii() else text.encode(errors="replace").decode()


def _parse_fallback(body: bytes) -> Any:
    """Parses what msgspec rejects: invalid JSON, for a better error message, or lone surrogates.

    The tokenizer removes lone surrogates.
    """
    if not body.strip():
        raise BadRequest("the body is empty; send a JSON object")
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None


def _finite(digits: str) -> float:
    """Parses a number. A number beyond float64 is rejected, because it would be echoed as ``Infinity``."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:_MAX_REPR]} is too large")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
