"""Computes dense layers in int8, with a scale for each token.

Kernels are quantized once, with a scale for each output. Inputs are quantized at run time, with a scale for each token.
The vector of a token therefore depends neither on the other tokens of the batch nor on its size. The dynamic
quantization of ONNX Runtime has one scale for all tokens.

A few channels of the LayerNorm output are ten times as large as the others and make quantization coarse. Each channel
is divided by a factor before quantization, and the row of the kernel is multiplied by it (Xiao et al., SmoothQuant,
https://arxiv.org/abs/2211.10438). The sizes of the channels are measured on random tokens. Texts are not needed, since
the large channels are a property of the weights.

x86 without VNNI adds two products of uint8 and int8 in 16 bits. There, the scale of an output is so large that no such
sum overflows. Products of two uint8, which ONNX Runtime adds in 32 bits, take 1.3 times as long.

All dense layers of the encoder are quantized. Embeddings, LayerNorm, attention scores, softmax, pooling and the pooler
stay in fp32, and GELU is approximated with tanh. Leaving any kind of dense layer, or any layer, in fp32 gained no
quality and cost speed (``benchmark/int8_layers.py``).
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
#: Integer of the value 0 after an activation whose minimum is below 0. The largest value of a token has the integer 255
#: if it exceeds 1.6.
ACTIVATION_ZERO = 24
#: Activation to compute for another one. Their difference of at most 0.0005 is a fraction of a step, and the
#: approximation with tanh takes 0.7 of the time.
APPROXIMATIONS = {"gelu": "gelu_new"}


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
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray, rows: str = "t"
    ) -> tuple[str, np.ndarray]:
        if scope.endswith(("/attention/self/qkv", "/intermediate/dense")):
            peaks = graph.op("ReduceMax", graph.op("Abs", x), graph.tensor(np.array([0])), keepdims=0)
            graph.outputs.append((peaks, TensorProto.FLOAT))
            self.scopes.append(scope)
        return dense_fp32(graph, x, scope, kernel, bias)


class Int8:
    """A ``Dense`` in int8: inputs uint8, kernels int8, sums int32, product float32."""

    def __init__(self, peaks: Mapping[str, np.ndarray], act: str, in_pairs: bool) -> None:
        """Args:
        peaks: maximum absolute value of each input channel, float ``[in]``, by scope; other scopes are not
            smoothed.
        act: activation before ``.../output/dense``, a key of ``model.config_values.HIDDEN_ACTS``; empty for none.
        in_pairs: see ``round_kernel``.
        """
        self._peaks = peaks
        self._activation_min = ACTIVATION_MIN.get(act)
        self._in_pairs = in_pairs
        self._rounded: dict[str, tuple[np.ndarray, ...]] = {}

    def __call__(
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray, rows: str = "t"
    ) -> tuple[str, np.ndarray]:
        if scope not in self._rounded:  # the bodies of a graph share the constants
            self._rounded[scope] = self._round(scope, kernel)
        rounded, scales, *factors = self._rounded[scope]
        if factors:
            x = graph.op("Mul", x, graph.tensor(1 / factors[0], f"{scope}/factors"))
        zero, steps = self._steps(graph, x, scope)

        def zeros() -> str:
            value = graph.tensor(np.full((1, 1), zero, np.uint8), f"uint8 {(1, 1)} {zero}")
            return str(graph.op("Expand", value, graph.op("Shape", steps)))

        product = graph.op(
            "MatMulIntegerToFloat",
            # A block is a token. For a token of zeros, 0 / 0 gives any integer, and its product is multiplied by 0.
            graph.op("QuantizeLinear", x, steps, graph.once((rows, zero), zeros), axis=1, block_size=len(kernel)),
            graph.tensor(rounded, f"{scope}/kernel"),
            graph.tensor(np.float32(1), "float32 1"),
            graph.tensor(scales, f"{scope}/scales"),
            graph.tensor(np.uint8(zero), f"uint8 {zero}"),
            domain=MICROSOFT,
        )
        return graph.op("Mul", product, steps), bias

    def _steps(self, graph: Graph, x: str, scope: str) -> tuple[int, str]:
        """Returns the integer of the value 0, and the name of the size of a step of each token, ``[rows, 1]``."""
        last = graph.tensor(np.array([-1]), f"numbers {(-1,)}")

        def steps(values: str, count: int) -> str:
            size = graph.tensor(np.float32(1 / count), f"step {count}")
            return str(graph.op("Mul", graph.op("ReduceMax", values, last, keepdims=1), size))

        least = None if "/attention/" in scope or not scope.endswith("/output/dense") else self._activation_min
        if least is None:
            return 128, steps(graph.op("Abs", x), 127)
        if least == 0:
            return 0, steps(x, 255)
        # Integers below that of 0 reach the minimum.
        shortest = graph.tensor(np.float32(-least / ACTIVATION_ZERO), f"shortest step {least}")
        return ACTIVATION_ZERO, str(graph.op("Max", steps(x, 255 - ACTIVATION_ZERO), shortest))

    def _round(self, scope: str, kernel: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns int8 integers, their scales, and the factors of a layer that has peaks."""
        factors = []
        if scope in self._peaks:
            factors.append(smoothing_factors(self._peaks[scope], kernel))
            kernel = kernel * factors[0][:, None]
        rounded, scales = round_kernel(kernel, self._in_pairs)
        return rounded.astype(np.int8), scales, *factors


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


def round_kernel(kernel: np.ndarray, in_pairs: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Returns integers from -127 to 127, float32 ``[in, out]``, and the scale of each output, float32 ``[out]``.

    Args:
        kernel: weights, float32 ``[in, out]``.
        in_pairs: the sum of the products of any uint8 with the inputs 2 i and 2 i + 1 fits in 16 bits.
    """
    peaks = np.abs(kernel).max(axis=0)
    if in_pairs:
        # Rounding adds at most 1 to the sum of a pair, and 255 * 128 fits. Weights of opposite signs do not add up.
        pairs = np.pad(kernel, ((0, len(kernel) % 2), (0, 0))).reshape(-1, 2, kernel.shape[1])
        peaks = np.maximum(pairs.clip(min=0).sum(axis=1), -pairs.clip(max=0).sum(axis=1)).max(axis=0)
    scales = peaks / np.float32(127)
    scales[scales < np.finfo(np.float32).tiny] = 1
    return np.rint(kernel / scales), scales.astype(np.float32)


def adds_in_16_bits(machine: str, flags: frozenset[str]) -> bool:
    """Returns whether the processor adds two products of uint8 and int8 in 16 bits: x86 without VNNI.

    Args:
        machine: value of ``platform.machine()``.
        flags: features of the processor as in ``/proc/cpuinfo``.
    """
    return machine.lower() in ("x86_64", "amd64", "i386", "i686") and not flags & VNNI_FEATURES
