"""Derives the specification of an engine from the options."""

from __future__ import annotations

from typing import Any

from ..config.server_config import ServerConfig
from ..engines.base import EngineSpec
from ..model.config import ModelConfig


def engine_spec(config: ServerConfig, model: ModelConfig, options: dict[str, Any]) -> EngineSpec:
    """Returns the specification of the engine, with the dtype that the supervisor has chosen.

    Args:
        options: those of the process; ``prepared`` has what the prepare process reported, see ``prepare.run``.
    """
    return EngineSpec(
        model=model,
        cache_dir=options["cache_dir"],
        # The worker pools what engines do not know, and computes other outputs than dense ones, from token vectors.
        pooling_strategy="NONE" if config.pipeline and config.pipeline.needs_tokens else config.pooling_strategy.name,
        pooling_layers=config.pooling_layer,
        dtype=options["dtype"],
        output_dtype=config.output_dtype,
        use_position_embeddings=not config.no_position_embeddings,
        deterministic=config.deterministic,
        xla=config.xla,
        max_seq_len=config.max_seq_len,
        model_digest=options.get("prepared", {}).get("model_digest", ""),
    )
