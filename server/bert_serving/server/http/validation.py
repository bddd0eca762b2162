"""Reading JSON bodies: what was sent, or an error that says what is wrong with it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from .. import json_scan
from .errors import BadRequest, BodyTooLarge, MissingField

_SHOWN = 60
#: Lists and objects in a body. Each takes many times the two bytes in which it can be sent.
MAX_CONTAINERS = 2_000_000

#: Words that stand for truth values, for senders that have no others: forms, shells, old scripts.
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


def read_object(body: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        BadInput: it is not JSON, or not an object.
        BodyTooLarge: it holds more lists than there can be texts.
    """
    if len(body) > json_scan.SMALL_BYTES and body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        found = json_scan.scan(body)
        if found.lists + found.objects > MAX_CONTAINERS:
            raise BodyTooLarge(
                f"the body holds {found.lists + found.objects} lists and objects; at most {MAX_CONTAINERS} are read: "
                "send fewer texts in one request"
            )
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError):
        value = _read_slowly(body)
    if not isinstance(value, dict):
        raise BadRequest(f"the body must be a JSON object, received {kind_of(value)}")
    return value


def read_switch(values: dict[str, Any], name: str) -> bool:
    """A truth value, false if absent; "true" and "false" in quotes are understood.

    Raises:
        BadInput: anything else.
    """
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise BadRequest(f"{name!r} must be true or false, received {shown(value)}", name)


def read_choice(values: dict[str, Any], name: str, choices: tuple[str, ...]) -> str:
    """One of some words; the first if absent.

    Raises:
        BadInput: another value.
    """
    value = values.get(name)
    if value is None:
        return choices[0]
    if value not in choices:
        raise BadRequest(f"{name!r} must be one of {', '.join(choices)}, received {shown(value)}", name)
    return str(value)


def need(values: dict[str, Any], name: str, what: str) -> Any:
    """A field that must be there.

    Raises:
        MissingField: it is not.
    """
    if name not in values:
        raise MissingField(f"the field {name!r} is missing: {what}", name)
    return values[name]


def kind_of(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: Any) -> str:
    """A JSON value for an error message, cut."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _read_slowly(body: bytes) -> Any:
    """Rare: bad input, which is explained better here, or a lone surrogate, which the tokenizer removes."""
    if not body.strip():
        raise BadRequest("the body is empty; send a JSON object")
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {str(error)[:200]}") from None


def _finite(digits: str) -> float:
    """A number; one that no float can hold would come back as ``Infinity``, which is no JSON."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:_SHOWN]} is too large a number")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
