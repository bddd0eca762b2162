"""Errors of the server about one text of a call name its part in the call, such as the query of a ranking. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from .errors import ServerError

_NUMBERED = re.compile(r"\b(?:text|pair) (\d+)\b")
_OFFSET = re.compile(r" \(text 0 of this request is text (\d+) of the call\)$")


def offset_note(start: int) -> str:
    """Returns the end of an error about a request whose first text is text ``start`` of the call."""
    return f" (text 0 of this request is text {start} of the call)"


@contextmanager
def naming_texts(name: Callable[[int], str]) -> Iterator[None]:
    """Names a text in the errors of the server: ``name(n)`` in place of ``text n`` or ``pair n``.

    Args:
        name: returns the name of a text by its number in the call. It raises IndexError if there is no such text.
    """
    try:
        yield
    except ServerError as error:
        raise with_names(error, name) from None


def with_names(error: ServerError, name: Callable[[int], str]) -> ServerError:
    """Returns an error whose first number of a text is replaced by its name."""
    offset = _OFFSET.search(error.message)
    message = _OFFSET.sub("", error.message)
    found = _NUMBERED.search(message)
    if found is None:
        return error
    try:
        named = name(int(found[1]) + (int(offset[1]) if offset else 0))
    except IndexError:
        return error
    message = message[: found.start()] + named + message[found.end() :]
    return error.with_message(message)


def names_of_lists(lists: Mapping[str, Sequence[object]]) -> Callable[[int], str]:
    """Returns the names of texts of several lists that one call encodes: ``a[0]``, ``a[1]``, ``b[0]``."""
    names = [f"{name}[{index}]" for name, texts in lists.items() for index in range(len(texts))]
    return lambda number: names[number]


def name_query(number: int) -> str:
    """Returns the name of the query of a ranking."""
    return "the query"


def name_document(number: int) -> str:
    """Returns the name of a document of a ranking."""
    return f"document {number}"


def name_pair(number: int) -> str:
    """Returns the name of the pair of the query and a document."""
    return f"the pair of the query and document {number}"
