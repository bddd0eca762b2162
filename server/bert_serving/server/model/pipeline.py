"""The modules that turn pooled vectors into the vectors, or the scores, of a server, as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from .files import checkpoint_files
from .token_heads import MultiHead, SparseHead, TokenHead, all_files

#: Activations of Dense by the last part of their class path, and those of scores.
ACTIVATIONS = ("Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU")
SCORE_ACTIVATIONS = (*ACTIVATIONS, "Softmax")


class Dense(msgspec.Struct, frozen=True, tag=True):
    """A linear layer with an activation.

    Attributes:
        weights: the file, or the checkpoint, with the tensors.
        activation: one of ``ACTIVATIONS``.
        names: names of the weight, ``[out, in]``, and the bias, ``[out]``; a ``kernel`` is ``[in, out]``.
        checkpoint_format: that of the checkpoint of the whole model, in which the names have the prefix of the model;
            empty for a file of this module alone.
    """

    weights: str
    in_features: int
    out_features: int
    has_bias: bool
    activation: str
    names: tuple[str, str] = ("linear.weight", "linear.bias")
    checkpoint_format: str = ""


class LayerNorm(msgspec.Struct, frozen=True, tag=True):
    """Layer normalization.

    Attributes:
        weights: the file, or the checkpoint, with the tensors.
        names: names of weight and bias, each ``[dimension]``.
        checkpoint_format: as that of ``Dense``.
    """

    weights: str
    dimension: int
    has_bias: bool = True
    eps: float = 1e-5
    names: tuple[str, str] = ("norm.weight", "norm.bias")
    checkpoint_format: str = ""


class Normalize(msgspec.Struct, frozen=True, tag=True):
    """Division by the Euclidean norm; a norm below 1e-12 counts as 1e-12."""


class Truncate(msgspec.Struct, frozen=True, tag=True):
    """The first dimensions of a vector."""

    dimensions: int


class ScoreActivation(msgspec.Struct, frozen=True, tag=True):
    """The function that turns logits into scores; one of ``SCORE_ACTIVATIONS``."""

    function: str


Module = Dense | LayerNorm | Normalize | Truncate | ScoreActivation


class SentencePipeline(msgspec.Struct, frozen=True):
    """The modules of a sentence-transformers folder and the settings that come with them.

    Attributes:
        transformer_dir: the folder of the encoder, which may be below that of ``modules.json``.
        pooling: names of ``POOLING_MODES``; the vectors of several are concatenated. Empty: the engine pools.
        modules: what follows the pooling, in order.
        max_seq_length: tokens of a sequence at most, special tokens included; None where no file limits it.
        lower_case: texts are lower-cased before the tokenizer.
        prompts: prompts by name.
        default_prompt_name: the prompt of texts that come without one.
        similarity: the function that compares vectors, as the folder names it.
        labels: names of the scores of a classifier or cross-encoder; empty for vectors.
        problem_type: how its scores belong together, as the folder names it.
        has_modules: the folder has a ``modules.json``.
        has_dense: there is one vector for each text, which pooling and modules make.
        sparse: the head of the sparse vectors.
        multi: the head of the vectors of tokens.
    """

    transformer_dir: str
    pooling: tuple[str, ...]
    modules: tuple[Module, ...] = ()
    max_seq_length: int | None = None
    lower_case: bool = False
    prompts: dict[str, str] = {}
    default_prompt_name: str | None = None
    similarity: str | None = None
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    has_modules: bool = False
    has_dense: bool = True
    sparse: SparseHead | None = None
    multi: MultiHead | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """The kinds of vectors."""
        return (*(("dense",) if self.has_dense else ()), *self.token_heads)

    @property
    def token_heads(self) -> dict[str, TokenHead]:
        """The heads that the worker computes from the vectors of tokens, by their output."""
        heads: dict[str, TokenHead | None] = {"sparse": self.sparse, "multi": self.multi}
        return {name: head for name, head in heads.items() if head is not None}

    @property
    def has_token_heads(self) -> bool:
        """Whether there are other vectors than dense ones."""
        return self.sparse is not None or self.multi is not None

    @property
    def activation(self) -> str | None:
        """The function that turns logits into scores; None for vectors."""
        return next((module.function for module in self.modules if isinstance(module, ScoreActivation)), None)

    @property
    def computes(self) -> bool:
        """Whether anything is left to compute after the engine."""
        return bool(self.pooling or self.modules)

    @property
    def is_normalized(self) -> bool:
        """Whether the modules make unit vectors."""
        return any(isinstance(module, Normalize) for module in self.modules[-1:])

    @property
    def module_names(self) -> list[str]:
        """Names of the modules after the pooling, such as ``Dense``."""
        return [type(module).__name__ for module in self.modules]

    @property
    def weight_files(self) -> list[Path]:
        """Files with the weights of the modules."""
        files: dict[Path, None] = {}
        for module in self.modules:
            if isinstance(module, Dense | LayerNorm):
                kind = module.checkpoint_format
                files |= dict.fromkeys(checkpoint_files(module.weights, kind) if kind else [Path(module.weights)])
        return list(files | dict.fromkeys(all_files(self.token_heads.values())))

    @property
    def checkpoint_tensors(self) -> list[str]:
        """Names of the tensors that the modules read from the checkpoint of the whole model, without its prefix."""
        modules = [module for module in self.modules if isinstance(module, Dense | LayerNorm)]
        names = [name for module in modules if module.checkpoint_format for name in module.names]
        for head in self.token_heads.values():
            names += [name for tensor in head.tensors.values() if tensor.checkpoint_format for name in tensor.names]
        return names

    def describe(self) -> list[str]:
        """Names of the modules after the encoder, for the status: ``["Pooling mean", "Normalize"]``."""
        pooling = [f"Pooling {', '.join(self.pooling)}"] if self.pooling else []
        return [*pooling, *self.module_names]

    @property
    def scores(self) -> dict[str, Any]:
        """The meaning of the scores, for the status: values of None for vectors."""
        labels = list(self.labels) or None
        return {"labels": labels, "problem_type": self.problem_type, "activation": self.activation}

    def widest(self, width: int) -> int:
        """Dimensions of a vector before it is truncated, whose pooled vector has ``width``."""
        return next((module.out_features for module in self.modules[::-1] if isinstance(module, Dense)), width)

    def dimensions(self, width: int) -> int:
        """Dimensions of a vector whose pooled vector has ``width``."""
        for module in self.modules:
            if isinstance(module, Dense):
                width = module.out_features
            elif isinstance(module, Truncate):
                width = min(width, module.dimensions)
        return width
