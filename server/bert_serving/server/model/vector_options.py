"""The last steps of a vector or of scores: those of the whole server, and those that one request asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bert_serving.client.protocol import EMBEDDING_TYPES

from .pipeline import Module, Normalize, ScoreActivation, Truncate
from .pooling import PoolingStrategy
from .token_heads import OUTPUT_BITS


class VectorOptions(NamedTuple):
    """Changes to the last modules of a pipeline.

    Attributes:
        normalize: whether vectors have length 1; None as the pipeline says.
        dimensions: number of leading dimensions to keep; None for all.
        raw_scores: whether scores are logits, without the activation.
        embedding_type: one of ``EMBEDDING_TYPES``; None for the dtype of the server. The sink converts vectors to it.
        pooling: the strategy; None for that of the server. The modules of the pipeline are left out then.
        layers: the layers whose vectors are joined, from 0, beside ``pooling``. The sink selects their columns.
    """

    normalize: bool | None = None
    dimensions: int | None = None
    raw_scores: bool = False
    embedding_type: str | None = None
    pooling: PoolingStrategy | None = None
    layers: tuple[int, ...] | None = None

    @property
    def code(self) -> int:
        """The options as one number, as batches carry them, without ``layers``; 0 for no change."""
        switch = 0 if self.normalize is None else 1 + self.normalize
        kind = 0 if self.embedding_type is None else 1 + EMBEDDING_TYPES.index(self.embedding_type)
        pooling = self.pooling or 0
        return (self.dimensions or 0) << 10 | pooling << 6 | kind << 3 | self.raw_scores << 2 | switch

    @classmethod
    def from_code(cls, code: int) -> VectorOptions:
        """Restores options from their code, which may have the bits of outputs."""
        code &= ~OUTPUT_BITS
        switch, kind, number = code & 3, code >> 3 & 7, code >> 6 & 15
        embedding_type = EMBEDDING_TYPES[kind - 1] if kind else None
        pooling = PoolingStrategy(number) if number else None
        return cls(None if switch == 0 else switch == 2, code >> 10 or None, bool(code & 4), embedding_type, pooling)


#: The bits of an embedding type, and those of a pooling strategy, in the code of options.
TYPE_BITS, POOLING_BITS = 7 << 3, 15 << 6


def split_tail(modules: Sequence[Module]) -> tuple[tuple[Module, ...], tuple[Module, ...]]:
    """Returns the modules that compute, and the last ones, which need no weights: what options change."""
    size = len(modules)
    while size and isinstance(modules[size - 1], Normalize | Truncate | ScoreActivation):
        size -= 1
    return tuple(modules[:size]), tuple(modules[size:])


def apply_options(tail: Sequence[Module], options: VectorOptions) -> tuple[Module, ...]:
    """Returns the last modules of a pipeline with the options applied: vectors are cut, then normalized again.

    Args:
        tail: modules of the kinds Normalize, Truncate and ScoreActivation.
    """
    normalize, dimensions, raw_scores = options[:3]
    modules = [module for module in tail if not (raw_scores and isinstance(module, ScoreActivation))]
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
