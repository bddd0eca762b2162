"""Types of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .protocol import FloatArray

#: Vectors with ``output_fmt="list"``: ``[n][d]``, or ``[n][t][d]`` without pooling.
NestedList: TypeAlias = list[list[float]] | list[list[list[float]]]
#: The tokens of each text, or ``""`` from a server that does not show them.
Tokens: TypeAlias = list[list[str]] | str

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    #: Type of an embedding; depends on ``output_fmt``.
    E = TypeVar("E", bound=FloatArray | NestedList, default=FloatArray)
else:
    from typing import TypeVar

    E = TypeVar("E")
