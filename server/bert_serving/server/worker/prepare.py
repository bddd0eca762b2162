"""Prepares the model before the workers start: reads the weights, and writes the files of the engines to the cache."""

from __future__ import annotations

import json

from ..engines import load
from ..ipc.commands import READY
from ..ipc.process_context import ProcessContext
from ..model.cache import Cache, manifest
from ..model.config import ModelConfig
from ..model.errors import WeightError
from ..model.pipeline import SentencePipeline
from .engine_spec import engine_spec
from .head_weights import prepare_head_weights


def run(process: ProcessContext) -> None:
    """Runs the preparation process. The supervisor reports its errors as the reason of a failed start.

    The process reports the path ``head`` of the weights of the modules after the pooling, and ``entries``: path →
    ``cache.manifest`` of each entry of the cache that workers open. It ends at the next command.

    Raises:
        WeightError: a file of the model has changed since the supervisor computed ``sources``.
    """
    control = process.connect_control()
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.model, process.options)
    model, pipeline, sources = spec.model, process.config.pipeline, process.options["sources"]
    process.log.info("model config: %s", model.config_path)
    tuned = " (override by the fine-tuned model)" if model.is_tuned else ""
    process.log.info("checkpoint%s: %s", tuned, model.checkpoint)
    cache = spec.cache()
    _require_unchanged(cache, model, pipeline, sources)
    load(process.options["engine"]).prepare(spec, process.log.info)
    head = prepare_head_weights(pipeline, process.config.pooled_size(model), cache) if pipeline else None
    _require_unchanged(cache, model, pipeline, sources)
    report = {
        "head": None if head is None else str(head),
        "entries": {path: manifest(path) for path in dict.fromkeys(spec.opened)},
    }
    control.send_multipart([READY, json.dumps(report).encode()])
    control.recv_multipart()


def _require_unchanged(cache: Cache, model: ModelConfig, pipeline: SentencePipeline | None, sources: list[str]) -> None:
    if cache.source_digests(model, pipeline) != sources:
        raise WeightError(
            f"a file with weights in {model.model_dir} changed while the server started; start again when it "
            "is complete"
        )
