"""Computes dense layers on the CPU with oneDNN and prepacked weights.

PyTorch's ``linear`` reorders the weights in each call, which takes longer than the product for one sentence. Here the
weights are prepacked once (``prepacked.py``). PyTorch's compiler uses the same operators for linear layers. They
have no public name, so they are tested first. If they are missing or wrong, the plain layers stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..base import EngineSpec
from .device import one_line
from .encoder import DenseLayers
from .prepacked import open_prepacked
from .weights import DTYPES

Tensor = Any

#: oneDNN operator and algorithm of each activation, by the names of ``model.config_values.HIDDEN_ACTS``.
_ACTIVATIONS = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "tanh": ("tanh", ""),
    "silu": ("swish", ""),
}

#: Maximum difference of two results, relative to the norm of the vector of a token.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class OneDnnLayers(DenseLayers):
    """Dense layers with oneDNN: product, bias, and activation or residual in one call. ``add_norm`` is not used."""

    row_step = 16

    def __init__(self, spec: EngineSpec, weights: dict[str, Tensor], kernels: dict[str, Tensor]) -> None:
        """Initializes the layers.

        Args:
            kernels: prepacked weights by the scopes of the layers.

        Raises:
            AttributeError: oneDNN is missing.
        """
        super().__init__(spec, weights)
        self._linear = torch.ops.mkldnn._linear_pointwise.default
        self._linear_add = torch.ops.mkldnn._linear_pointwise.binary
        self._fused = _ACTIVATIONS[spec.model.hidden_act]
        self._kernels = kernels

    def product(self, scope: str, inputs: Tensor) -> Tensor:
        """See ``DenseLayers``."""
        return self._linear(inputs, self._kernels[scope], self._weights.get(f"{scope}/bias"), "none", [], "")

    def activate(self, scope: str, inputs: Tensor) -> Tensor:
        """See ``DenseLayers``."""
        name, algorithm = self._fused
        return self._linear(inputs, self._kernels[scope], self._weights.get(f"{scope}/bias"), name, [], algorithm)

    def add(self, scope: str, inputs: Tensor, residual: Tensor) -> Tensor:
        """See ``DenseLayers``."""
        return self._linear_add(inputs, residual, self._kernels[scope], self._weights.get(f"{scope}/bias"), "add")

    def normalize(self, scope: str, inputs: Tensor, residual: Tensor) -> Tensor:
        """See ``DenseLayers``."""
        total = self.add(f"{scope}/dense", inputs, residual)
        gamma, beta = self._weights[f"{scope}/LayerNorm/gamma"], self._weights.get(f"{scope}/LayerNorm/beta")
        return F.layer_norm(total, gamma.shape, gamma, beta, self._eps)


def select_dense_layers(
    spec: EngineSpec, weights: dict[str, Tensor], plain: DenseLayers, prepacked: Path | None = None
) -> tuple[DenseLayers, str]:
    """Returns the oneDNN layers if they give the result of the plain ones, else the plain ones; and a log line.

    Args:
        prepacked: a folder with prepacked weights, or None.
    """
    try:
        kernels, note = open_prepacked(weights, prepacked)
        layers = OneDnnLayers(spec, weights, kernels)
        generator = torch.Generator().manual_seed(1)
        # Batches have multiples of ``row_step`` rows. oneDNN keeps the code of each number of rows in memory.
        inputs = torch.randn(3 * layers.row_step, spec.model.hidden_size, generator=generator)
        _check_first_layer(spec, layers, plain, inputs.to(getattr(torch, DTYPES[spec.dtype])))
    except Exception as error:  # the operator is missing, or does not support this processor
        return plain, f"dense layers by plain PyTorch: oneDNN is not available here ({one_line(error)})"
    return layers, f"dense layers by oneDNN, {note}"


def _check_first_layer(spec: EngineSpec, layers: DenseLayers, plain: DenseLayers, inputs: Tensor) -> None:
    """Raises ValueError if the first encoder layer differs from the plain one by more than rounding."""
    architecture = spec.model.architecture
    scope = "encoder/layer_0"
    qkv, output = f"{scope}/attention/self/qkv", f"{scope}/output"

    def compute(dense: DenseLayers, inner: Tensor | None) -> list[Tensor]:
        """Returns the results of each kind of layer; ``inner`` are the inputs of the last, None for those before it."""
        gate = f"{scope}/intermediate/gated"
        found = (
            dense.gate(gate, inputs) if architecture.gated else dense.activate(f"{scope}/intermediate/dense", inputs)
        )
        inner = found if inner is None else inner
        last = (
            dense.add(f"{output}/dense", inner, inputs)
            if architecture.pre_norm
            else dense.normalize(output, inner, inputs)
        )
        return [found, dense.product(qkv, inputs), last]

    plain_results = compute(plain, None)
    for found, expected in zip(compute(layers, plain_results[0]), plain_results, strict=True):
        difference = torch.linalg.vector_norm(found.float() - expected.float(), dim=-1)
        allowed = _TOLERANCE[expected.dtype] * torch.linalg.vector_norm(expected.float(), dim=-1)
        if found.shape != expected.shape or not (difference <= allowed).all():
            raise ValueError("wrong result")
