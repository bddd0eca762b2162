"""The heads that compute sparse vectors and vectors of tokens from the last layer, as data.

A request names the kinds of vectors that it wants, its *outputs*: ``dense``, ``sparse`` and ``multi``. The pooling and
the modules of ``pipeline`` make the dense vector of a text; the heads make the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from .files import checkpoint_files

#: Bits of a job in the code of its options, above those of ``VectorOptions``: the outputs that it wants beside the
#: dense vectors, and whether it wants none of these.
SPARSE_BIT, MULTI_BIT, NO_DENSE_BIT = 1 << 30, 1 << 29, 1 << 28
#: The bit of queries of late interaction models.
QUERY_BIT = 1 << 27
OUTPUT_BITS = SPARSE_BIT | MULTI_BIT | NO_DENSE_BIT | QUERY_BIT
#: Bytes of the counts of a text, of a sparse weight with its id, and of a number of a vector, at most.
_COUNT_BYTES, _WEIGHT_BYTES, _NUMBER_BYTES = 4, 8, 4


class Tensor(msgspec.Struct, frozen=True):
    """A weight of a head.

    Attributes:
        names: possible names in the file, the first one that exists counts; ``sources.WORD_EMBEDDINGS`` is that of the
            encoder.
        shape: its shape.
        weights: the file, or the checkpoint.
        checkpoint_format: that of the checkpoint of the whole model; empty for a file of this head alone.
        is_optional: a file without it is complete.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    weights: str
    checkpoint_format: str = ""
    is_optional: bool = False

    @property
    def files(self) -> list[Path]:
        """Files that have it."""
        kind = self.checkpoint_format
        return checkpoint_files(self.weights, kind) if kind else [Path(self.weights)]


class MaskedLmHead(msgspec.Struct, frozen=True, tag=True):
    """The head of a masked language model, whose logits SPLADE turns into weights of the vocabulary.

    Attributes:
        tensors: ``dense``, ``norm``, ``decoder`` and their biases.
        activation: that of the dense layer, one of ``pipeline.ACTIVATIONS``.
        eps: that of the LayerNorm.
        vocab_size: number of weights of a text.
        strategy: ``max`` or ``sum``, over the tokens of a text.
        num_logs: how often the logarithm of 1 + x is taken: 1, or 2 for ``log1p_relu``.
        max_active: most weights of a text that are kept, the largest; None for all.
    """

    tensors: dict[str, Tensor] = {}
    activation: str = "GELU"
    eps: float = 1e-12
    vocab_size: int = 0
    strategy: str = "max"
    num_logs: int = 1
    max_active: int | None = None

    def max_bytes(self, num_texts: int, num_tokens: int) -> int:
        """Returns the most bytes of the sparse vectors of some texts."""
        return num_texts * (_COUNT_BYTES + _WEIGHT_BYTES * min(self.vocab_size, self.max_active or self.vocab_size))


class LexicalHead(msgspec.Struct, frozen=True, tag=True):
    """A linear layer with one output: the weight of each token of a text. Of equal tokens, the largest counts.

    Attributes:
        tensors: ``weight`` and ``bias``.
        unused_ids: token ids without a weight, those of special tokens.
    """

    tensors: dict[str, Tensor]
    unused_ids: tuple[int, ...]

    def max_bytes(self, num_texts: int, num_tokens: int) -> int:
        """Returns the most bytes of the sparse vectors of some texts."""
        return num_texts * _COUNT_BYTES + num_tokens * _WEIGHT_BYTES


class TextFrame(msgspec.Struct, frozen=True):
    """What queries, or documents, of a late interaction model get beside their own tokens.

    Attributes:
        marker_id: id of a token behind the first one; None without any.
        max_length: most tokens of a text, special ones and the marker included; None as the server.
        expansion_id: id of the tokens that are added up to ``expansion_length`` tokens.
        attends: whether other tokens attend to these.
    """

    marker_id: int | None = None
    max_length: int | None = None
    expansion_id: int = 0
    expansion_length: int = 0
    attends: bool = False


class MultiHead(msgspec.Struct, frozen=True, tag=True):
    """Linear layers of each token of a text, one after the other, as in ColBERT.

    Attributes:
        tensors: ``<number of the layer>/weight`` and ``.../bias``.
        activations: those of the layers, of ``pipeline.ACTIVATIONS``.
        dims: dimensions of a vector.
        is_normalized: vectors have length 1.
        skips_first: the first token of a text has no vector.
        skip_ids: ids of tokens without a vector, of queries with ``skips_queries``, of other texts with
            ``skips_documents``.
        frames: frames of texts by the name of their prompt.
    """

    tensors: dict[str, Tensor]
    activations: tuple[str, ...]
    dims: int
    is_normalized: bool = True
    skips_first: bool = False
    skip_ids: tuple[int, ...] = ()
    skips_queries: bool = False
    skips_documents: bool = True
    frames: dict[str, TextFrame] = {}

    def max_bytes(self, num_texts: int, num_tokens: int) -> int:
        """Returns the most bytes of the vectors of the tokens of some texts."""
        return num_texts * _COUNT_BYTES + num_tokens * self.dims * _NUMBER_BYTES


SparseHead = MaskedLmHead | LexicalHead
TokenHead = SparseHead | MultiHead


def own_files(head: TokenHead) -> list[Path]:
    """Returns the files of a head, without those of the checkpoint of the whole model."""
    return _distinct(path for tensor in head.tensors.values() if not tensor.checkpoint_format for path in tensor.files)


def all_files(heads: Iterable[TokenHead]) -> list[Path]:
    """Returns all files of some heads."""
    return _distinct(path for head in heads for tensor in head.tensors.values() for path in tensor.files)


def describe(head: TokenHead) -> dict[str, Any]:
    """Returns what a head computes as JSON values, without the places of its files."""
    values: dict[str, Any] = msgspec.to_builtins(head)
    for tensor in values["tensors"].values():
        del tensor["weights"]
    return values


def _distinct(paths: Iterable[Path]) -> list[Path]:
    return list(dict.fromkeys(paths))
