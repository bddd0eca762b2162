"""Prepares the model before any worker starts: reads the weights once, and leaves what engines load in the cache."""

from __future__ import annotations

from typing import Any

from ..child_main import Link
from ..config.server_config import ServerConfig
from ..engines import load
from ..engines.base import EngineSpec


def engine_spec(config: ServerConfig, options: dict[str, Any]) -> EngineSpec:
    """What the engine computes, from the options and the supervisor's choice of engine and dtype."""
    model = config.read_model()
    return EngineSpec(
        model=model,
        cache_dir=options["cache_dir"],
        pooling_strategy=config.pooling_strategy.name,
        pooling_layers=config.pooling_layer,
        dtype=options["dtype"],
        output_dtype="float16" if config.fp16 else "float32",
        use_position_embeddings=not config.no_position_embeddings,
        xla=config.xla,
        max_seq_len=config.max_seq_len,
    )


def run(link: Link) -> None:
    """The process that prepares; it is done when it ends well. Its errors become the reason why the start failed."""
    link.start_heart()
    link.progress(busy=True)
    spec = engine_spec(link.config, link.options)
    link.log.info("model config: %s", spec.model.config_path)
    tuned = " (override by the fine-tuned model)" if spec.model.is_tuned else ""
    link.log.info("checkpoint%s: %s", tuned, spec.model.checkpoint)
    load(link.options["engine"]).prepare(spec, link.log.info)
