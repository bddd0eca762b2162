"""Dense layers in 8-bit integers, with ranges that follow each token.

Kernels are rounded once, a scale for each output. Inputs are rounded as they come, with a scale for each token, so a
token's vector depends neither on the others in the batch nor on the batch's size; ONNX Runtime's own dynamic
quantization has one scale for all tokens.

What makes the rounding coarse are a few channels of LayerNorm's output that are ten times as large as the others.
Before rounding they are divided by a factor, and the kernel's rows multiplied by it (Xiao et al., SmoothQuant,
https://arxiv.org/abs/2211.10438). How large the channels get is seen on random tokens: texts are not needed, since the
large channels are a property of the weights.

Which layers are rounded follows from their kind: all dense layers of the encoder, where the time goes. Embeddings,
LayerNorm, attention's scores and softmax, pooling and the pooler stay in fp32. No dense layer is left out: leaving
out any kind of them, or any layer, was seen to gain no quality and to cost speed (``benchmark/int8_layers.py``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from ..batch import Batch
from ..cpu_info import VNNI_FEATURES
from .graph import MICROSOFT, Graph, dense_fp32

#: How much of a channel's size moves into the kernel, 0 to 1.
SMOOTHING = 0.75
#: Random sequences to see the channels' sizes on, and the tokens of each.
PROBE_SEQUENCES, PROBE_LENGTH = 64, 32
#: The least value of each activation, where it has one.
LEAST = {"gelu": -0.1701, "gelu_new": -0.1701, "relu": 0.0}


def probe_batch(vocab_size: int, max_length: int) -> Batch:
    """Random tokens, always the same."""
    length = min(PROBE_LENGTH, max_length)
    ids = np.random.default_rng(0).integers(0, vocab_size, PROBE_SEQUENCES * length, np.int32)
    return Batch(ids, np.zeros_like(ids), np.ones_like(ids), np.full(PROBE_SEQUENCES, length, np.int32))


class Probe:
    """A ``Dense`` in float32 whose graph also gives the largest absolute value in each channel of some inputs.

    Attributes:
        scopes: whose inputs these are, in the order of the graph's outputs after the first.
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
    """A ``Dense`` in 8-bit integers: inputs uint8, kernels as ``kernel_dtype``, sums int32, the product float32."""

    def __init__(self, peaks: Mapping[str, np.ndarray], act: str, kernel_dtype: str) -> None:
        """
        Args:
            peaks: largest absolute value of each input channel, float ``[in]``, by scope; no others are smoothed.
            act: activation before ``.../output/dense``, a key of ``model.config.HIDDEN_ACTS``.
            kernel_dtype: ``int8``, or ``uint8`` for processors without VNNI.
        """
        self._peaks = peaks
        self._least = LEAST.get(act)
        self._zero = 128 if kernel_dtype == "uint8" else 0
        self._kernel_dtype = np.dtype(kernel_dtype)

    def __call__(
        self, graph: Graph, x: str, scope: str, kernel: np.ndarray, bias: np.ndarray
    ) -> tuple[str, np.ndarray]:
        if scope in self._peaks:
            factors = smoothing_factors(self._peaks[scope], kernel)
            x = graph.op("Mul", x, graph.tensor(1 / factors))
            kernel = kernel * factors[:, None]
        rounded, scales = round_kernel(kernel)
        last = graph.tensor(np.array([-1]))
        is_activation = scope.endswith("/output/dense") and "/attention/" not in scope
        if is_activation and self._least is not None:
            # Nothing is less than this, so all of uint8 is for what is above, and the bias makes up for the shift.
            shift = np.float32(-self._least)
            x = graph.op("Add", x, graph.tensor(shift))
            bias = bias - shift * (rounded * scales).sum(axis=0, dtype=np.float32)
            peak, steps, zero = graph.op("ReduceMax", x, last, keepdims=1), 255, 0
        else:
            peak, steps, zero = graph.op("ReduceMax", graph.op("Abs", x), last, keepdims=1), 127, 128
        step = np.float32(1 / steps)
        # A token of zeros only must not divide by zero.
        peak = graph.op("Max", peak, graph.tensor(np.float32(1e-20)))
        token_steps = graph.op("Mul", graph.op("Reshape", peak, last), graph.tensor(step))
        zeros = graph.op("Expand", graph.tensor(np.array([zero], np.uint8)), graph.op("Shape", token_steps))
        product = graph.op(
            "MatMulIntegerToFloat",
            graph.op("QuantizeLinear", x, token_steps, zeros, axis=0),
            graph.tensor((rounded + self._zero).astype(self._kernel_dtype)),
            graph.tensor(step),
            graph.tensor(scales),
            graph.tensor(np.uint8(zero)),
            graph.tensor(np.full(len(scales), self._zero, self._kernel_dtype)),
            domain=MICROSOFT,
        )
        return graph.op("Mul", product, peak), bias


def smoothing_factors(peaks: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """What to divide each input channel by, float32 ``[in]``, mean 1 on the logarithmic scale."""
    inputs = np.log(np.maximum(peaks.astype(np.float64), 1e-6))
    outputs = np.log(np.maximum(np.abs(kernel).max(axis=1).astype(np.float64), 1e-6))
    factors = SMOOTHING * inputs - (1 - SMOOTHING) * outputs
    result: np.ndarray = np.exp(factors - factors.mean()).astype(np.float32)
    return result


def round_kernel(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from -127 to 127, float32 ``[in, out]``, and the scale of each output, float32 ``[out]``."""
    scales = np.abs(kernel).max(axis=0) / np.float32(127)
    scales[scales == 0] = 1
    return np.rint(kernel / scales), scales.astype(np.float32)


def kernel_dtype(machine: str, flags: frozenset[str]) -> str:
    """Which integers the processor multiplies with uint8 without saturating on the way.

    Before VNNI, x86 adds two products of uint8 and int8 in 16 bits, which is too small; of two uint8 in 32 bits.

    Args:
        machine: as ``platform.machine()`` names it.
        flags: features of the processor as in ``/proc/cpuinfo``.
    """
    is_x86 = machine.lower() in ("x86_64", "amd64", "i386", "i686")
    return "uint8" if is_x86 and not flags & VNNI_FEATURES else "int8"
