"""The heads that compute sparse vectors and vectors of tokens from the last layer, as data.

A request names the kinds of vectors that it wants, its *outputs*: ``dense``, ``sparse`` and ``multi``. The pooling and
the modules of ``pipeline`` make the dense vector of a text; the heads make the others.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from .files import checkpoint_files

#: Bits of a job in the code of its options, above those of ``VectorOptions``: the outputs that it wants beside the
#: dense vectors, and whether it wants none of these.
SPARSE_BIT, MULTI_BIT, NO_DENSE_BIT = 1 << 30, 1 << 29, 1 << 28
OUTPUT_BITS = SPARSE_BIT | MULTI_BIT | NO_DENSE_BIT


class Tensor(msgspec.Struct, frozen=True):
    """A weight of a head.

    Attributes:
        names: possible names in the file, the first one that exists counts; ``weights.WORD_EMBEDDINGS`` is that of the
            encoder.
        shape: its shape.
        is_optional: a file without it is complete.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    is_optional: bool = False


class MaskedLmHead(msgspec.Struct, frozen=True, tag=True):
    """The head of a masked language model, whose logits SPLADE turns into weights of the vocabulary.

    Attributes:
        weights: the checkpoint of the whole model.
        checkpoint_format: its format.
        tensors: ``dense``, ``norm``, ``decoder`` and their biases.
        activation: that of the dense layer, one of ``pipeline.ACTIVATIONS``.
        eps: that of the LayerNorm.
        vocab_size: number of weights of a text.
        strategy: ``max`` or ``sum``, over the tokens of a text.
        num_logs: how often the logarithm of 1 + x is taken: 1, or 2 for ``log1p_relu``.
        max_active: most weights of a text that are kept, the largest; None for all.
    """

    weights: str = ""
    checkpoint_format: str = ""
    tensors: dict[str, Tensor] = {}
    activation: str = "GELU"
    eps: float = 1e-12
    vocab_size: int = 0
    strategy: str = "max"
    num_logs: int = 1
    max_active: int | None = None

    @property
    def files(self) -> list[Path]:
        """Files with its weights."""
        return checkpoint_files(self.weights, self.checkpoint_format)

    def max_bytes(self, num_texts: int, num_tokens: int) -> int:
        """Returns the most bytes of the sparse vectors of some texts."""
        return num_texts * (4 + 8 * min(self.vocab_size, self.max_active or self.vocab_size))


SparseHead = MaskedLmHead
