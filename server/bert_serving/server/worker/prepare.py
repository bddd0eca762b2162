"""Prepares the model before any worker starts: reads the weights once, and leaves what engines load in the cache."""

from __future__ import annotations

from ..engines import load
from ..ipc.process_context import ProcessContext
from .engine_spec import engine_spec


def run(process: ProcessContext) -> None:
    """The process that prepares; it is done when it ends well. Its errors become the reason why the start failed."""
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.options)
    process.log.info("model config: %s", spec.model.config_path)
    tuned = " (override by the fine-tuned model)" if spec.model.is_tuned else ""
    process.log.info("checkpoint%s: %s", tuned, spec.model.checkpoint)
    load(process.options["engine"]).prepare(spec, process.log.info)
