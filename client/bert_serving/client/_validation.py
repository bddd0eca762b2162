"""Validation of texts and token lists: any iterable becomes a plain list. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from .errors import InputTypeError, InputValueError

_SHOWN = 40


def validate_texts(texts: Any, is_tokenized: bool = False) -> list[str] | list[list[str]]:
    """Return the texts as a list, ready for JSON.

    Args:
        texts: a list, tuple, array, pandas Series, generator or other iterable of non-blank ``str``; of such iterables
            of non-blank tokens if ``is_tokenized``.
        is_tokenized: each text is a list of tokens.

    Raises:
        InputTypeError: not such an iterable; the message names the first invalid item.
        InputValueError: no texts, or a blank text.
    """
    if not is_tokenized:
        return _validate_list(texts, "texts", "texts")
    lists = _to_list(texts, "texts", "token lists")
    for row, tokens in enumerate(lists):
        lists[row] = _validate_list(tokens, f"texts[{row}]", "tokens")
    return lists


def too_long(texts: list[str] | list[list[str]], limit: int) -> int:
    """Return how many texts have more words (or tokens) than ``limit``: a lower bound of the truncated texts."""
    return sum(len(text.split() if isinstance(text, str) else text) > limit for text in texts)


def _validate_list(values: Any, name: str, what: str) -> list[str]:
    items = _to_list(values, name, what)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            hint = (
                "; use is_tokenized=True for token lists" if name == "texts" and isinstance(item, (list, tuple)) else ""
            )
            raise InputTypeError(
                f"all {what} must be str, but {name}[{index}] is {type(item).__name__} ({_truncate_repr(item)}){hint}"
            )
        if not item or item.isspace():
            raise InputValueError(
                f"all {what} must be non-empty strings, but {name}[{index}] is {_truncate_repr(item)}; "
                "omit it, or replace it by a placeholder"
            )
    return items


def _to_list(values: Any, name: str, what: str) -> list[Any]:
    """Return ``values`` as a new list."""
    if isinstance(values, (str, bytes, bytearray)):
        raise InputTypeError(
            f"{name} must be a list of {what}, but received one {type(values).__name__} ({_truncate_repr(values)}); "
            "pass a list: encode([text])"
        )
    if isinstance(values, (Mapping, Set)) or not isinstance(values, Iterable):
        raise InputTypeError(
            f"{name} must be a list (or another ordered iterable) of {what}, but received {type(values).__name__}"
        )
    try:
        items = list(values)
    except TypeError as error:  # for example an array without dimensions
        raise InputTypeError(
            f"{name} must be a list of {what}, but received {type(values).__name__}: {error}"
        ) from error
    if not items:
        raise InputValueError(f"{name} must hold at least one item, but the {type(values).__name__} is empty")
    return items


def _truncate_repr(value: Any) -> str:
    """Return the representation of a value for an error message, truncated to 40 characters."""
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: _SHOWN + 1]
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
