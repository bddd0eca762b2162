"""Prepares the model before any worker starts: reads the weights once, and leaves what engines load in the cache."""

from __future__ import annotations

from ..engines import load
from ..ipc.process_context import ProcessContext
from .engine_spec import engine_spec


def run(link: ProcessContext) -> None:
    """The process that prepares; it is done when it ends well. Its errors become the reason why the start failed."""
    link.start_heartbeat()
    link.mark_progress(busy=True)
    spec = engine_spec(link.config, link.options)
    link.log.info("model config: %s", spec.model.config_path)
    tuned = " (override by the fine-tuned model)" if spec.model.is_tuned else ""
    link.log.info("checkpoint%s: %s", tuned, spec.model.checkpoint)
    load(link.options["engine"]).prepare(spec, link.log.info)
