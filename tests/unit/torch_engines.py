"""Makes engines of PyTorch for tests. Import it after the check for the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bert_serving.server.engines.base import (
    Device,
    EngineSpec,
)
from bert_serving.server.engines.torch import device as torch_device
from bert_serving.server.engines.torch import engine as engine_module
from bert_serving.server.engines.torch import prepacked
from oracle import MODEL

Make = Callable[..., engine_module.TorchEngine]
CPU = torch.device("cpu")
ONEDNN = "dense layers by oneDNN, prepacked weights"
#: Shapes as those of an encoder, one that needs padding, and two layers of one shape.
SHAPES = {"a": (96, 32), "b": (32, 64), "c": (130, 33), "d": (96, 32)}


def engine_maker(cache_dir: str) -> Make:
    """Returns engines of the tiny model by the fields of their spec, each created once."""
    made: dict[EngineSpec, engine_module.TorchEngine] = {}

    def of(**fields: object) -> engine_module.TorchEngine:
        spec = EngineSpec(**{"model": MODEL, "cache_dir": cache_dir, **fields})  # type: ignore[arg-type]
        if spec not in made:
            engine_module.prepare(spec, lambda _: None)
            # create() rejects emulated bf16, which is slower but gives the same vectors.
            made[spec] = engine_module.TorchEngine(spec, Device(threads=1))
        return made[spec]

    return of


def by_definition(query: Any, key: Any, value: Any, ends: Any, longest: int, window: int = 0) -> Any:
    """Computes the result of the kernel for packed sequences."""
    lengths = ends.diff().tolist()
    assert max(lengths) == longest
    parts = torch.stack([query, key, value], 1).split(lengths)
    return torch.cat([torch_device._plain_attention(part, window) for part in parts])


def make_weights(dtype: Any = torch.float32) -> dict[str, Any]:
    """Returns plain weights of ``SHAPES``, and a bias."""
    generator = torch.Generator().manual_seed(0)
    named = {
        f"encoder/layer_0/{name}/weight": torch.randn(shape, generator=generator) for name, shape in SHAPES.items()
    }
    return {name: weight.to(dtype) for name, weight in named.items()} | {"encoder/layer_0/a/bias": torch.zeros(96)}


def is_private(folder: Path, reason: str) -> bool:
    """Returns whether weights are not mapped for a reason, and products are right."""
    weights = make_weights()
    opened, note = prepacked.open_prepacked(weights, folder)
    expected = prepacked.prepack_weights(weights)
    equal = [prepacked._equal_products(expected[scope], opened[scope], weights[f"{scope}/weight"]) for scope in opened]
    assert all(equal)
    assert list(opened) == list(expected)
    return note.startswith("prepacked weights of this worker alone (") and reason in note
