"""Prints what a server would serve: ``bert-serving-start -check``. Reads no weights and starts no process."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from ..config.options import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError
from ..model.config import ModelConfig
from ..model.errors import ModelError
from ..model.pooling import PoolingStrategy
from ..model.sentence_transformers import MODULES_FILE
from ..supervisor.packages import require_packages
from ..supervisor.placement import plan_workers
from ..supervisor.preflight import read_model
from ..supervisor.supervisor import EXIT_OK, EXIT_START_FAILED
from ..tokenization.factory import make_tokenizer


class _Collector(logging.Handler):
    """Collects messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def check(config: ServerConfig) -> int:
    """Prints what would be served, and what is ignored or a default. Returns the exit code: 0 or 3."""
    log, notes = logging.Logger("check"), _Collector()
    log.addHandler(notes)
    try:
        config, model = read_model(config, log)
        require_packages(config, model)
        tokenizer = make_tokenizer(config, model)
        notes.setLevel(logging.WARNING)  # the line about the workers has the devices
        plans = plan_workers(config, log, needs=model.features)
    except (ServingError, ModelError, EngineError, ValueError, OSError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return EXIT_START_FAILED
    lines = _describe(config, model)
    lines["tokenizer"] = f"{tokenizer.description}, from {model.vocab_path}"
    workers = dict.fromkeys(f"engine {plan.engine}, {plan.dtype}, on {plan.device}" for plan in plans)
    lines["workers"] = f"{len(plans)}: {'; '.join(workers)}" if plans else "0, machines that join compute"
    for name, text in lines.items():
        print(f"{name:>12}: {text}")
    for message in [*notes.messages, *tokenizer.warnings]:
        print(f"{'note':>12}: {message}")
    return EXIT_OK


def _describe(config: ServerConfig, model: ModelConfig) -> dict[str, str]:
    pipeline = config.pipeline
    assert pipeline is not None
    kind = "Google checkpoint" if model.checkpoint_format == "tf1" else "Hugging Face folder"
    if (Path(config.model_dir) / MODULES_FILE).is_file():
        kind = "sentence-transformers folder"
    layers = ", ".join(map(str, config.pooling_layer))
    strategy = " and ".join(pipeline.pooling) if pipeline.pooling else config.pooling_strategy.name
    modules = ", ".join(pipeline.module_names)
    per = "token" if config.pooling_strategy == PoolingStrategy.NONE else "text"
    vectors = f"{config.vector_size(model)} dimensions per {per}{', length 1' if pipeline.is_normalized else ''}"
    output = {"vectors": vectors + (f", compared by {pipeline.similarity}" if pipeline.similarity else "")}
    if config.task != "embed":
        output = {
            "labels": ", ".join(pipeline.labels),
            "scores": f"problem_type {pipeline.problem_type}, activation {pipeline.activation}",
        }
    return {
        "task": config.task,
        "model": f"{config.model_dir} ({kind})",
        "encoder": f"{model.family.upper()}, {model.num_hidden_layers} layers of {model.hidden_size}, "
        f"vocabulary {model.vocab_size}",
        "weights": model.checkpoint,
        "longest text": f"{config.max_seq_len or model.max_tokens} tokens",
        "prompt": repr(pipeline.prompts[config.prompt_name]) if config.prompt_name is not None else "none",
        "pooling": f"{strategy} of layer {layers}{', then ' + modules if modules else ''}",
        **output,
    }
