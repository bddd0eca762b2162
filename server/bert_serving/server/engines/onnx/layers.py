"""Adds dense layers and activations to an ONNX graph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .graph import MICROSOFT, Dense, Graph


def product(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    dense: Dense,
    x: str,
    scope: str,
    names: tuple[str, ...] = (),
    rows: str = "t",
) -> tuple[str, str]:
    """Adds a dense layer without its bias.

    Args:
        names: scopes of layers that are computed at once, one after the other along the outputs; by default ``scope``.
        rows: as that of ``Dense``.

    Returns:
        the name of the product, and that of the bias, which is still to be added; empty if there is none.
    """
    names = names or (scope,)
    kernel = _join([weights[f"{name}/kernel"] for name in names])
    has_bias = f"{names[0]}/bias" in weights
    bias = _join([weights[f"{name}/bias"] for name in names]) if has_bias else np.zeros(kernel.shape[1], np.float32)
    found, rest = dense(graph, x, scope, kernel, bias, rows)
    return found, graph.tensor(rest, f"{scope}/bias") if has_bias or rest.any() else ""


def linear(
    graph: Graph,
    weights: Mapping[str, np.ndarray],
    dense: Dense,
    x: str,
    scope: str,
    names: tuple[str, ...] = (),
    rows: str = "t",
) -> str:
    """Adds a dense layer; see ``product``."""
    found, bias = product(graph, weights, dense, x, scope, names, rows)
    return str(graph.op("Add", found, bias)) if bias else found


def activate(graph: Graph, act: str, x: str, bias: str = "") -> str:
    """Adds the activation of ``x + bias``, by the names of ``model.config_values.HIDDEN_ACTS``."""
    if act == "gelu_new":
        return str(graph.op("FastGelu", *([x, bias] if bias else [x]), domain=MICROSOFT))
    if bias:
        x = graph.op("Add", x, bias)
    if act == "gelu":  # ``BiasGelu`` takes longer than both
        return str(graph.op("Gelu", x, domain=MICROSOFT))
    if act == "silu":
        return str(graph.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0))
    return str(graph.op({"relu": "Relu", "tanh": "Tanh"}[act], x))


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
