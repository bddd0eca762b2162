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
    pipeline, pooling = config.pipeline, config.pooling_strategy.name
    if pipeline is not None and pipeline.pooling:
        pooling = "NONE"  # the worker pools what engines do not know, from token vectors
    elif pipeline is not None and not pipeline.has_dense:
        pooling = "REDUCE_MEAN"  # of which the worker takes the vectors of tokens alone, also of masked ones
    return EngineSpec(
        model=model,
        cache_dir=options["cache_dir"],
        pooling_strategy=pooling,
        pooling_layers=config.pooling_layer,
        dtype=options["dtype"],
        output_dtype=config.output_dtype,
        use_position_embeddings=not config.no_position_embeddings,
        deterministic=config.deterministic,
        xla=config.xla,
        max_seq_len=config.max_seq_len,
        cpu_threads=tuple(options.get("cpu_threads", ())),
        model_digest=options.get("prepared", {}).get("model_digest", ""),
    )
