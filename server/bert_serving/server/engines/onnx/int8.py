"""Computes dense layers in int8, with a scale for each token.

Kernels are quantized once, with a scale for each output. Inputs are quantized at run time, with a scale for each token.
The vector of a token therefore depends neither on the other tokens of the batch nor on its size. The dynamic
quantization of ONNX Runtime has one scale for all tokens.

A few channels of the LayerNorm output are ten times as large as the others and make quantization coarse. Each channel
is divided by a factor before quantization, and the row of the kernel is multiplied by it (Xiao et al., SmoothQuant,
https://arxiv.org/abs/2211.10438). The sizes of the channels are measured on random tokens. Texts are not needed, since
the large channels are a property of the weights.

All dense layers of the encoder are quantized. Embeddings, LayerNorm, attention scores, softmax, pooling and the pooler
stay in fp32. Leaving any kind of dense layer, or any layer, in fp32 gained no quality and cost speed
(``benchmark/int8_layers.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from ..batch import Batch
from ..cpu_info import VNNI_FEATURES
from .graph import MICROSOFT, Graph, dense_fp32

#: Fraction of the size of a channel that moves to the kernel, 0 to 1.
SMOOTHING = 0.75
#: Number of random sequences that measure the channels, and tokens of each.
PROBE_SEQUENCES, PROBE_LENGTH = 64, 32
#: Minimum of each activation that has one.
ACTIVATION_MIN = {"gelu": -0.1701, "gelu_new": -0.1701, "relu": 0.0}


def probe_batch(vocab_size: int, max_length: int) -> Batch:
    """Returns a batch of random tokens, always the same."""
    length = min(PROBE_LENGTH, max_length)
    ids = np.random.default_rng(0).integers(0, vocab_size, PROBE_SEQUENCES * length, np.int32)
    return Batch(ids, np.zeros_like(ids), np.ones_like(ids), np.full(PROBE_SEQUENCES, length, np.int32))


class Probe:
    """A ``Dense`` in float32 whose graph also outputs the maximum absolute value of each input channel.

    Attributes:
        scopes: layers of these inputs, in the order of the graph outputs after the first.
    """

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def __call__(
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray
    ) -> tuple[str, np.ndarray]:
        if scope.endswith(("/attention/self/qkv", "/intermediate/dense")):
            peaks = graph.op("ReduceMax", graph.op("Abs", x), graph.tensor(np.array([0])), keepdims=0)
            graph.outputs.append((peaks, TensorProto.FLOAT))
            self.scopes.append(scope)
        return dense_fp32(graph, x, scope, kernel, bias)


class Int8:
    """A ``Dense`` in int8: inputs uint8, kernels ``kernel_dtype``, sums int32, product float32."""

    def __init__(self, peaks: Mapping[str, np.ndarray], act: str, kernel_dtype: str) -> None:
        """Args:
        peaks: maximum absolute value of each input channel, float ``[in]``, by scope; other scopes are not
            smoothed.
        act: activation before ``.../output/dense``, a key of ``model.config_values.HIDDEN_ACTS``; empty for none.
        kernel_dtype: ``int8``, or ``uint8`` for x86 processors without VNNI.
        """
        self._peaks = peaks
        self._activation_min = ACTIVATION_MIN.get(act)
        self._zero = 128 if kernel_dtype == "uint8" else 0
        self._kernel_dtype = np.dtype(kernel_dtype)
        self._rounded: dict[str, tuple[np.ndarray, ...]] = {}

    def __call__(
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray
    ) -> tuple[str, np.ndarray]:
        if scope not in self._rounded:  # the bodies of a graph share the constants
            self._rounded[scope] = self._round(scope, kernel, bias)
        kernel, scales, bias, *factors = self._rounded[scope]
        if factors:
            x = graph.op("Mul", x, graph.tensor(1 / factors[0], f"{scope}/factors"))
        last = graph.tensor(np.array([-1]))
        if (shift := self._shift(scope)) is not None:
            x = graph.op("Add", x, graph.tensor(shift))
            peak, steps, zero = graph.op("ReduceMax", x, last, keepdims=1), 255, 0
        else:
            peak, steps, zero = graph.op("ReduceMax", graph.op("Abs", x), last, keepdims=1), 127, 128
        step = np.float32(1 / steps)
        # Avoids a division by zero for a token of zeros.
        peak = graph.op("Max", peak, graph.tensor(np.float32(1e-20)))
        token_steps = graph.op("Mul", graph.op("Reshape", peak, last), graph.tensor(step))
        zeros = graph.op("Expand", graph.tensor(np.array([zero], np.uint8)), graph.op("Shape", token_steps))
        product = graph.op(
            "MatMulIntegerToFloat",
            graph.op("QuantizeLinear", x, token_steps, zeros, axis=0),
            graph.tensor(kernel, f"{scope}/kernel"),
            graph.tensor(step),
            graph.tensor(scales, f"{scope}/scales"),
            graph.tensor(np.uint8(zero)),
            graph.tensor(np.full(len(scales), self._zero, self._kernel_dtype), f"{scope}/zeros"),
            domain=MICROSOFT,
        )
        return graph.op("Mul", product, peak), bias

    def _shift(self, scope: str) -> np.float32 | None:
        """Returns what is added to the input of a layer after an activation with a minimum; None for other layers.

        The minimum of the activation becomes 0, so values use the full range of uint8. The bias compensates the shift.
        """
        if self._activation_min is None or not scope.endswith("/output/dense") or "/attention/" in scope:
            return None
        shift: np.float32 = np.float32(-self._activation_min)
        return shift

    def _round(self, scope: str, kernel: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns integers of ``kernel_dtype``, their scales, the bias, and the factors of a layer that has peaks."""
        factors = []
        if scope in self._peaks:
            factors.append(smoothing_factors(self._peaks[scope], kernel))
            kernel = kernel * factors[0][:, None]
        rounded, scales = round_kernel(kernel)
        if (shift := self._shift(scope)) is not None:
            bias = bias - shift * (rounded * scales).sum(axis=0, dtype=np.float32)
        return (rounded + self._zero).astype(self._kernel_dtype), scales, bias, *factors


def largest_peaks(scopes: list[str], peaks: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the peaks of each scope, the largest where layers share weights."""
    found: dict[str, np.ndarray] = {}
    for scope, values in zip(scopes, peaks, strict=True):
        found[scope] = np.maximum(found[scope], values) if scope in found else values
    return found


def smoothing_factors(peaks: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns the divisor of each input channel, float32 ``[in]``, with mean 1 on a logarithmic scale."""
    inputs = np.log(np.maximum(peaks.astype(np.float64), 1e-6))
    outputs = np.log(np.maximum(np.abs(kernel).max(axis=1).astype(np.float64), 1e-6))
    factors = SMOOTHING * inputs - (1 - SMOOTHING) * outputs
    result: np.ndarray = np.exp(factors - factors.mean()).astype(np.float32)
    return result


def round_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers from -127 to 127, float32 ``[in, out]``, and the scale of each output, float32 ``[out]``."""
    scales = np.abs(kernel).max(axis=0) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(kernel / scales), scales.astype(np.float32)


def kernel_dtype(machine: str, flags: frozenset[str]) -> str:
    """Returns the integer type that the processor multiplies with uint8 without saturation.

    x86 without VNNI adds two products of uint8 and int8 in 16 bits, which overflows. It adds products of two uint8 in
    32 bits.

    Args:
        machine: value of ``platform.machine()``.
        flags: features of the processor as in ``/proc/cpuinfo``.
    """
    is_x86 = machine.lower() in ("x86_64", "amd64", "i386", "i686")
    return "uint8" if is_x86 and not flags & VNNI_FEATURES else "int8"
