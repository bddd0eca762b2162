"""Reads the field of a body that has the texts: OpenAI's ``input``, and ``inputs`` of text-embeddings-inference."""

from __future__ import annotations

from typing import Any

from .errors import BadRequest, EmptyInput
from .validation import json_type, truncate_repr


def read_input(value: Any, name: str = "input") -> tuple[list[Any], bool]:
    """Returns the texts or rows of token ids in a field, and whether they are token ids.

    Raises:
        BadRequest: the field is not a text, a list of texts, a list of token ids, or a list of such lists.
    """
    if isinstance(value, str):
        return [value], False
    if not isinstance(value, list) or not value:
        error, received = _received(value)
        raise error(f"{name!r} must be a text, a list of texts, or token ids, received {received}", name)
    kinds = set(map(type, value))
    if kinds == {str}:
        return value, False
    if kinds == {int}:
        return [value], True
    if kinds == {list}:
        return read_id_rows(value, name), True
    first_type = type(value[0])
    position = next((index for index, item in enumerate(value) if type(item) is not first_type), 0)
    item = truncate_repr(value[position])
    raise BadRequest(f"the items of {name!r} must be all texts or all token ids, but item {position} is {item}", name)


def read_texts(value: Any, name: str) -> list[str]:
    """Returns the texts in a field.

    Raises:
        BadRequest: the field is not a text, or a list of texts.
    """
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        error, received = _received(value)
        raise error(f"{name!r} must be a text or a list of texts, received {received}", name)
    for index, item in enumerate(value):
        if not isinstance(item, str):
            raise BadRequest(f"item {index} of {name!r} must be a text, received {truncate_repr(item)}", name)
    return value


def read_pairs(value: Any, name: str) -> list[tuple[str, str]]:
    """Returns the pairs of texts in a field.

    Raises:
        BadRequest: the field is not a list of lists of two texts.
    """
    if not isinstance(value, list) or not value:
        error, received = _received(value)
        raise error(f"{name!r} must be a list of pairs, each a list of two texts, received {received}", name)
    for index, item in enumerate(value):
        if not isinstance(item, list) or [type(text) for text in item] != [str, str]:
            raise BadRequest(
                f"item {index} of {name!r} must be a list of two texts, received {truncate_repr(item)}", name
            )
    return list(map(tuple, value))


def read_id_rows(value: Any, name: str) -> list[list[int]]:
    """Returns the rows of token ids in a field.

    Raises:
        BadRequest: the field is not a list of token ids, or a list of such lists.
    """
    if not isinstance(value, list) or not value:
        error, received = _received(value)
        raise error(f"{name!r} must be a list of token ids, or a list of such lists, received {received}", name)
    rows = [value] if type(value[0]) is int else value
    for index, row in enumerate(rows):
        if not isinstance(row, list) or not row or set(map(type, row)) != {int}:
            raise BadRequest(
                f"item {index} of {name!r} must be a list of token ids, received {truncate_repr(row)}", name
            )
    return rows


def _received(value: Any) -> tuple[type[BadRequest], str]:
    """Returns the error of a value that has no texts, and its description."""
    if value == []:
        return EmptyInput, "an empty list"
    return BadRequest, f"{json_type(value)} ({truncate_repr(value)})"
