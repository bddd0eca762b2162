"""Prepares the model before the workers start: reads the weights, and writes the files of the engines to the cache."""

from __future__ import annotations

from ..engines import load
from ..ipc.process_context import ProcessContext
from .engine_spec import engine_spec


def run(process: ProcessContext) -> None:
    """Runs the preparation process. The supervisor reports its errors as the reason of a failed start."""
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.options)
    process.log.info("model config: %s", spec.model.config_path)
    tuned = " (override by the fine-tuned model)" if spec.model.is_tuned else ""
    process.log.info("checkpoint%s: %s", tuned, spec.model.checkpoint)
    load(process.options["engine"]).prepare(spec, process.log.info)
