"""Normalization and dimensions of a vector: those of the whole server, and those that one request asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .sentence_transformers import Module, Normalize, Truncate


class VectorOptions(NamedTuple):
    """Changes to the last modules of a pipeline.

    Attributes:
        normalize: whether vectors have length 1; None as the pipeline says.
        dimensions: number of leading dimensions to keep; None for all.
    """

    normalize: bool | None = None
    dimensions: int | None = None

    @property
    def code(self) -> int:
        """The options as one number, as batches carry them; 0 for no change."""
        switch = 0 if self.normalize is None else 1 + self.normalize
        return (self.dimensions or 0) << 2 | switch

    @classmethod
    def from_code(cls, code: int) -> VectorOptions:
        """Restores options from their code."""
        switch = code & 3
        return cls(None if switch == 0 else switch == 2, code >> 2 or None)


def split_tail(modules: Sequence[Module]) -> tuple[tuple[Module, ...], tuple[Module, ...]]:
    """Returns the modules that compute, and the last ones, which only normalize or cut."""
    size = len(modules)
    while size and isinstance(modules[size - 1], Normalize | Truncate):
        size -= 1
    return tuple(modules[:size]), tuple(modules[size:])


def apply_options(tail: Sequence[Module], options: VectorOptions) -> tuple[Module, ...]:
    """Returns the last modules of a pipeline with the options applied: vectors are cut, then normalized again.

    Args:
        tail: modules of the kinds Normalize and Truncate.
    """
    normalize, dimensions = options
    modules = list(tail)
    makes_unit = bool(modules) and isinstance(modules[-1], Normalize) if normalize is None else normalize
    if normalize is not None:
        modules = [module for module in modules if not isinstance(module, Normalize)]
    elif dimensions is not None and makes_unit:
        modules.pop()
    if dimensions is not None:
        modules.append(Truncate(dimensions))
    if makes_unit and not (modules and isinstance(modules[-1], Normalize)):
        modules.append(Normalize())
    return tuple(modules)
