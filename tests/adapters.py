"""Writes adapters (LoRA folders of PEFT) for tests, and merges them by the formula."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PREFIX = "base_model.model."
#: The configuration that PEFT writes, without the keys that are null.
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.1,
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "megatron_core": "megatron.core",
    "qalora_group_size": 16,
    "peft_version": "0.21.2",
    "rank_pattern": {},
    "alpha_pattern": {},
    "target_parameters": None,
    "use_dora": False,
}


def write_adapter(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> Path:
    """Writes the folder of an adapter whose tensors have names without the prefix of PEFT."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = sorted({name.partition(".lora_")[0] for name in tensors if ".lora_" in name})
    values = CONFIG | {"target_modules": targets} | config
    (folder / "adapter_config.json").write_text(json.dumps(values), "utf-8")
    save_file({PREFIX + name: value for name, value in tensors.items()}, str(folder / "adapter_model.safetensors"))
    return folder


def factors(shapes: Mapping[str, tuple[int, ...]], layers: Iterable[str], rank: int = 4, seed: int = 0) -> Any:
    """Returns random A and B of some layers.

    Args:
        shapes: shape of the weight of each layer, ``[out, in]``.
    """
    random, tensors = np.random.default_rng(seed), {}
    for layer in layers:
        outputs, inputs = shapes[layer]
        tensors[f"{layer}.lora_A.weight"] = random.normal(scale=0.3, size=(rank, inputs)).astype(np.float32)
        tensors[f"{layer}.lora_B.weight"] = random.normal(scale=0.3, size=(outputs, rank)).astype(np.float32)
    return tensors


def merge(tensors: Mapping[str, np.ndarray], adapter: Mapping[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """Returns the tensors of a model with ``W + scale * B @ A`` for each layer of an adapter."""
    merged = dict(tensors)
    for name in adapter:
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            merged[f"{layer}.weight"] = merged[f"{layer}.weight"] + scale * (
                adapter[f"{layer}.lora_B.weight"] @ adapter[name]
            )
    return merged
