"""The cosine similarity of vectors, and telling texts from vectors. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._validation import to_list, truncate_repr, validate_texts
from .errors import InputTypeError, InputValueError
from .protocol import FloatArray


def is_vectors(values: Any) -> bool:
    """Returns whether an argument is numbers; anything else counts as texts.

    Numbers are an array, a tensor, nested lists, or an array or a Series of arrays.
    """
    if isinstance(values, list | tuple):
        if not values or any(isinstance(each, str) for each in values):
            return False
        return isinstance(values[0], int | float | np.number) or is_vectors(values[0])
    if hasattr(values, "detach"):  # a tensor of PyTorch, perhaps on a GPU
        return True
    if not hasattr(values, "__array__"):
        return False
    array = np.asarray(values)
    return array.dtype.kind in "fiu" or (array.dtype.kind == "O" and array.ndim > 0 and is_vectors(list(array)))


def as_vectors(values: Any, name: str) -> FloatArray:
    """Returns vectors as an array ``[n, d]`` of at least float32; one vector ``[d]`` becomes ``[1, d]``.

    Raises:
        InputTypeError: the values are no numbers.
        InputValueError: they have another shape, or are not finite.
    """
    try:
        array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
        if array.dtype.kind == "O" and array.ndim == 1:  # a Series of arrays, such as a column of a table
            array = np.asarray(list(array))
        if array.dtype.kind not in "fiu":
            raise TypeError(f"numbers of the dtype {array.dtype}")
        array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"{name} must be texts or vectors, but is {truncate_repr(values)} ({error})") from None
    if np.ma.is_masked(values):
        raise InputValueError(f"{name} has masked numbers; omit these vectors")
    if array.ndim == 3:
        raise InputValueError(
            f"{name} has the shape {array.shape}, a vector for each token; similarity() needs one for each text: start "
            "the server without -pooling_strategy NONE"
        )
    if array.ndim not in (1, 2) or not array.size:
        raise InputValueError(f"{name} must be vectors [n, d], but has the shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputValueError(f"{name} has a number that is not finite; omit this vector")
    return np.atleast_2d(array)


def cosine(a: FloatArray, b: FloatArray) -> FloatArray:
    """Returns the cosine of each vector of ``[n, d]`` with each of ``[m, d]`` as ``[n, m]``, 0 for a vector of zeros.

    Raises:
        InputValueError: the vectors have different numbers of dimensions.
    """
    if a.shape[1] != b.shape[1]:
        raise InputValueError(
            f"a has vectors of {a.shape[1]} dimensions and b of {b.shape[1]}; compare vectors of one model"
        )
    similarities: FloatArray = np.clip(_unit(a) @ _unit(b).T, -1, 1)
    return similarities


def _unit(vectors: FloatArray) -> FloatArray:
    largest = np.abs(vectors).max(1, keepdims=True)  # so that no square overflows
    scaled = np.divide(vectors, largest, out=np.zeros_like(vectors), where=largest > 0)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: FloatArray = np.divide(scaled, length, out=scaled, where=length > 0)
    return unit


def texts_of(arguments: dict[str, Any]) -> dict[str, list[Any]]:
    """Returns the arguments that are texts, by name, as lists.

    Raises:
        InputTypeError, InputValueError: an argument is no list of texts; the message names it.
    """
    texts = {name: to_list(value, name, "texts") for name, value in arguments.items() if not is_vectors(value)}
    for name, each in texts.items():
        if isinstance(each[0], list | np.ndarray):
            raise InputTypeError(
                f"{name} must be texts or vectors, but its first item is {type(each[0]).__name__} "
                f"({truncate_repr(each[0])})"
            )
        try:
            validate_texts(each)
        except (InputTypeError, InputValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    pairs = [name for name, each in texts.items() if isinstance(each[0], tuple)]
    if len(pairs) == 1 and len(texts) == 2:
        raise InputTypeError(f"only {pairs[0]} has pairs; pass texts as a and b, or pairs as both")
    return texts


def joined(texts: dict[str, list[Any]]) -> list[Any]:
    """Returns all texts as one list, so that one call encodes them."""
    return [text for each in texts.values() for text in each]


def split(vectors: FloatArray, texts: dict[str, list[Any]]) -> dict[str, FloatArray]:
    """Returns the vectors of each list of texts, by its name."""
    ends = np.cumsum([len(each) for each in texts.values()])
    return dict(zip(texts, np.split(vectors, ends[:-1]), strict=True))


def compare(arguments: dict[str, Any]) -> FloatArray:
    """Returns the cosine similarities ``[n, m]`` of the vectors ``a`` and ``b``; errors as `as_vectors`, `cosine`."""
    return cosine(as_vectors(arguments["a"], "a"), as_vectors(arguments["b"], "b"))
