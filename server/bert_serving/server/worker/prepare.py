"""Prepares the model before the workers start: reads the weights, and writes the files of the engines to the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config.server_config import ServerConfig
from ..engines import load
from ..engines.base import EngineSpec
from ..ipc.commands import READY
from ..ipc.process_context import ProcessContext
from ..model.cache import Cache, manifest
from ..model.config import ModelConfig
from ..model.errors import ReaderMissing, WeightError
from ..model.pipeline import SentencePipeline
from ..model.unserved import tensor_names, unserved_tensors
from .engine_spec import engine_spec
from .head_weights import prepare_head_weights
from .token_head_weights import prepare_token_heads

_KIND, _FILE = "tensor-names", "names.json"


def run(process: ProcessContext) -> None:
    """Runs the preparation process. The supervisor reports its errors as the reason of a failed start.

    The process reports the paths ``head`` of the weights of the modules after the pooling, and ``token_heads`` of those
    of the heads, ``entries``: path → ``cache.manifest`` of each entry of the cache that workers open, and the names of
    tensors that are not served. It ends at the next command.

    Raises:
        WeightError: a file of the model has changed since the supervisor computed ``sources``.
    """
    control = process.connect_control()
    process.start_heartbeat()
    process.mark_progress(busy=True)
    spec = engine_spec(process.config, process.model, process.options)
    log_files(spec.model, process.log)
    report = prepare_model(
        spec, process.options["engine"], process.config, process.options["sources"], process.log.info
    )
    process.log_steps("model")
    control.send_multipart([READY, json.dumps(report).encode()])
    control.recv_multipart()


def log_files(model: ModelConfig, log: logging.Logger) -> None:
    """Logs the files of the model."""
    log.info("model config: %s", model.config_path)
    log.info("checkpoint%s: %s", " (override by the fine-tuned model)" if model.is_tuned else "", model.checkpoint)
    if model.adapter is not None:
        log.info("adapter, merged into the checkpoint: %s", model.adapter.weights)


def prepare_model(
    spec: EngineSpec, engine: str, config: ServerConfig, sources: list[str], log: Callable[[str], None]
) -> dict[str, Any]:
    """Writes all entries of the cache that a server needs.

    Args:
        engine: name of the engine.
        sources: ``Cache.source_digests`` of the model.

    Returns:
        The report of the preparation process, see :func:`run`.

    Raises:
        WeightError: a file of the model has changed since ``sources`` were computed.
    """
    model, pipeline, cache = spec.model, config.pipeline, spec.cache()
    _require_unchanged(cache, model, pipeline, sources)
    load(engine).prepare(spec, log)
    names = _tensor_names(cache, model, sources[0]) if spec.opened else []  # else the engine reads no weights
    head = prepare_head_weights(pipeline, config.pooled_size(model), cache, model) if pipeline else None
    token_heads = prepare_token_heads(pipeline, model, cache) if pipeline else None
    _require_unchanged(cache, model, pipeline, sources)
    return {
        "head": None if head is None else str(head),
        "token_heads": None if token_heads is None else str(token_heads),
        "unserved": unserved_tensors(names, model, pipeline) if names else [],
        "entries": {path: manifest(path) for path in dict.fromkeys(spec.opened)},
    }


def _tensor_names(cache: Cache, model: ModelConfig, digest: str) -> list[str]:
    """Returns ``tensor_names`` of a model. The cache has them, because some formats need a large library.

    Args:
        digest: that of the model.
    """

    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(tensor_names(model)), "utf-8")

    try:
        entry = cache.entry(_KIND, {"model": digest}, write)
    except ReaderMissing:
        return []  # it was installed when the engine read the weights
    names: list[str] = json.loads((entry / _FILE).read_text("utf-8"))
    return names


def _require_unchanged(cache: Cache, model: ModelConfig, pipeline: SentencePipeline | None, sources: list[str]) -> None:
    if cache.source_digests(model, pipeline) != sources:
        raise WeightError(
            f"a file with weights in {model.model_dir} changed while the server started; start again when it "
            "is complete"
        )
