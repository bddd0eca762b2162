"""Validation of texts and token lists: any ordered iterable becomes a plain list. Pure."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Set
from typing import Any, TypeAlias

import numpy as np

from .errors import InputTypeError, InputValueError

_SHOWN = 40
#: Validated texts, token lists, or pairs of texts, ready for JSON.
Validated: TypeAlias = list[str] | list[list[str]] | list[tuple[str, str]]
#: Iterators over something that is refused itself: the characters of a text, the keys of a dict, a set.
_STR_ITERATORS = (type(iter("a")), type(iter("\u00e9")), type(reversed("a")))
_BYTES_ITERATORS = (type(iter(b"")), type(iter(bytearray())))
_KEY_ITERATORS: tuple[type, ...] = (type(iter({})), type(reversed({})))
_SET_ITERATORS: tuple[type, ...] = (type(iter(set())),)


def validate_texts(texts: Any, is_tokenized: bool = False) -> Validated:
    """Returns the texts as a list, ready for JSON.

    Args:
        texts: a list, tuple, array, pandas Series, generator or other iterable of non-blank ``str``; of such iterables
            of non-blank tokens if ``is_tokenized``. A tuple of two texts, which may be empty, is a pair.
        is_tokenized: each text is a list of tokens.

    Raises:
        InputTypeError: not such an iterable; the message names the first invalid item.
        InputValueError: no texts, or a blank text.
    """
    if not is_tokenized:
        items = to_list(texts, "texts", "texts")
        return _validate_pairs(items) if isinstance(items[0], tuple) else _validate_items(items, "texts", "texts")
    lists = to_list(texts, "texts", "token lists")
    for row, tokens in enumerate(lists):
        lists[row] = _validate_list(tokens, f"texts[{row}]", "tokens")
    return lists


def _validate_pairs(items: list[Any]) -> list[tuple[str, str]]:
    for row, item in enumerate(items):
        if not isinstance(item, tuple):
            raise InputTypeError(
                f"texts[0] is a pair, but texts[{row}] is {type(item).__name__} ({truncate_repr(item)}); pass pairs "
                "only, tuples of two texts, or texts only"
            )
        if len(item) != 2:
            raise InputValueError(
                f"a pair is a tuple of two texts, but texts[{row}] is a tuple of {len(item)} ({truncate_repr(item)}); "
                "use is_tokenized=True for lists of tokens"
            )
        for position, text in enumerate(item):
            if not isinstance(text, str):
                raise InputTypeError(
                    f"all texts must be str, but texts[{row}][{position}] is {type(text).__name__} "
                    f"({truncate_repr(text)}){item_remedy(text, '')}"
                )
    return items


def too_long(texts: Validated, limit: int) -> int:
    """Returns how many texts have more words (or tokens) than ``limit``: a lower bound of the truncated texts."""
    return sum(len(text.split() if isinstance(text, str) else text) > limit for text in texts)


def _validate_list(values: Any, name: str, what: str) -> list[str]:
    return _validate_items(to_list(values, name, what), name, what)


def _validate_items(items: list[Any], name: str, what: str) -> list[str]:
    for index, item in enumerate(items):
        if not isinstance(item, str):
            raise InputTypeError(
                f"all {what} must be str, but {name}[{index}] is {type(item).__name__} ({truncate_repr(item)})"
                f"{item_remedy(item, name)}"
            )
        if not item or item.isspace():
            raise InputValueError(
                f"all {what} must be non-empty strings, but {name}[{index}] is {truncate_repr(item)}; "
                "omit it, or replace it by a placeholder"
            )
    return items


def item_remedy(item: Any, name: str) -> str:
    """Returns how to correct an item that is not a ``str``."""
    if _is_missing(item):
        return """, a missing value; omit it, for example by df["text"].dropna()"""
    if name == "texts" and isinstance(item, (list, tuple, np.ndarray)):
        is_tuple = isinstance(item, tuple)
        pair = "pass pairs only, or texts only" if is_tuple else "a tuple of two texts for a pair"
        return f"; use is_tokenized=True for token lists, or {pair}"
    if isinstance(item, (bytes, bytearray)):
        return "; decode it: item.decode()"
    return "; convert it, for example by str(item)"


def _is_missing(item: Any) -> bool:
    """Returns whether an item stands for a missing value in numpy or pandas."""
    if isinstance(item, (float, np.floating)):
        return bool(np.isnan(item))
    return item is None or type(item).__name__ in ("NAType", "NaTType")


def to_list(values: Any, name: str, what: str) -> list[Any]:
    """Returns ``values`` as a new list."""
    if isinstance(values, (str, bytes, bytearray)):
        raise InputTypeError(
            f"{name} must be a list of {what}, but received one {type(values).__name__} ({truncate_repr(values)}); "
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
    except (TypeError, NotImplementedError) as error:  # an array without dimensions, a memoryview of two
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


def truncate_repr(value: Any) -> str:
    """Returns the representation of a value for an error message, truncated to 40 characters."""
    if isinstance(value, (str, bytes, bytearray)):
        value = value[: _SHOWN + 1]
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
