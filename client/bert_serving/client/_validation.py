"""Validation of texts and token lists: any ordered iterable becomes a plain list. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Set
from typing import Any

import numpy as np

from .errors import InputTypeError, InputValueError

_SHOWN = 40
#: Iterators over something that is refused itself: the characters of a text, the keys of a dict, a set.
_STR_ITERATORS = (type(iter("a")), type(iter("\u00e9")), type(reversed("a")))
_BYTES_ITERATORS = (type(iter(b"")), type(iter(bytearray())))
_KEY_ITERATORS: tuple[type, ...] = (type(iter({})), type(reversed({})))
_SET_ITERATORS: tuple[type, ...] = (type(iter(set())),)


def validate_texts(texts: Any, is_tokenized: bool = False) -> list[str] | list[list[str]]:
    """Returns the texts as a list, ready for JSON.

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
    """Returns how many texts have more words (or tokens) than ``limit``: a lower bound of the truncated texts."""
    return sum(len(text.split() if isinstance(text, str) else text) > limit for text in texts)


def _validate_list(values: Any, name: str, what: str) -> list[str]:
    items = _to_list(values, name, what)
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InputTypeError(
                f"all {what} must be str, but {name}[{index}] is {type(item).__name__} ({_truncate_repr(item)})"
                f"{_item_remedy(item, name)}"
            )
        if not item or item.isspace():
            raise InputValueError(
                f"all {what} must be non-empty strings, but {name}[{index}] is {_truncate_repr(item)}; "
                "omit it, or replace it by a placeholder"
            )
    return items


def _item_remedy(item: Any, name: str) -> str:
    """Returns how to correct an item that is not a ``str``."""
    if _is_missing(item):
        return """, a missing value; omit it, for example by df["text"].dropna()"""
    if name == "texts" and isinstance(item, (list, tuple, np.ndarray)):
        return "; use is_tokenized=True for token lists"
    return ""


def _is_missing(item: Any) -> bool:
    """Returns whether an item stands for a missing value in numpy or pandas."""
    if isinstance(item, (float, np.floating)):
        return bool(np.isnan(item))
    return item is None or type(item).__name__ in ("NAType", "NaTType")


def _to_list(values: Any, name: str, what: str) -> list[Any]:
    """Returns ``values`` as a new list."""
    if isinstance(values, (str, bytes, bytearray)):
        raise InputTypeError(
            f"{name} must be a list of {what}, but received one {type(values).__name__} ({_truncate_repr(values)}); "
            f"{_str_remedy(values, name, what)}"
        )
    is_list = type(values) is list  # the checks of other types are slow
    remedy = None if is_list else _container_remedy(values)
    if remedy is not None or not (is_list or isinstance(values, Iterable)):
        raise InputTypeError(
            f"{name} must be a list (or another ordered iterable) of {what}, but received {type(values).__name__}"
            f"{remedy or ''}"
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


def _str_remedy(value: str | bytes | bytearray, name: str, what: str) -> str:
    """Returns how to correct a text in the place of a list."""
    if not isinstance(value, str):
        return "decode it, and pass a list"
    if what == "texts":
        return "pass a list: encode([text])"
    if what == "tokens":
        return f"split it, for example by {name}.split(), or omit is_tokenized=True"
    return "pass a list of token lists: encode([text.split()], is_tokenized=True)"


def _container_remedy(values: Any) -> str | None:
    """Returns how to correct an argument whose iterator gives keys, characters or no order; else ``None``."""
    if isinstance(values, Mapping):
        return ", whose iteration gives its keys; pass the values: list(texts.values())"
    if isinstance(values, (Set, *_SET_ITERATORS)):
        return ", which has no order; pass a list: sorted(texts)"
    if isinstance(values, _KEY_ITERATORS):
        return ", which gives the keys of a dict; pass a list"
    if isinstance(values, (*_STR_ITERATORS, *_BYTES_ITERATORS)):
        return ", which gives the characters of one text; pass a list: encode([text])"
    if isinstance(values, AsyncIterable):
        return "; collect it first: [text async for text in texts]"
    # The tables of pandas, polars, dask and Spark have `columns`, and those of Arrow and datasets `column_names`.
    # A Series of pandas has its labels as attributes.
    if getattr(values, "ndim", 2) == 2 and (hasattr(values, "columns") or hasattr(values, "column_names")):
        return """, a table; pass one column: df["text"]"""
    return None


def _truncate_repr(value: Any) -> str:
    """Returns the representation of a value for an error message, truncated to 40 characters."""
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: _SHOWN + 1]
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
