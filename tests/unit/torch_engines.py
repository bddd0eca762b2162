"""Makes engines of PyTorch for tests. Import it after the check for the library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bert_serving.server.engines.base import (
    Device,
    EngineSpec,
)
from bert_serving.server.engines.torch import device as torch_device
from bert_serving.server.engines.torch import engine as engine_module
from oracle import MODEL

Make = Callable[..., engine_module.TorchEngine]
CPU = torch.device("cpu")
ONEDNN = "dense layers by oneDNN, prepacked weights"


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
