"""Prints what a server would serve: ``bert-serving-start -check``. Reads no weights and starts no process."""

from __future__ import annotations

import logging
import sys

from ..config.options import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError
from ..model.errors import ModelError
from ..supervisor.description import describe_model
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
    lines = describe_model(config, model)
    lines["tokenizer"] = f"{tokenizer.description}, from {model.vocab_path}"
    workers = dict.fromkeys(f"engine {plan.engine}, {plan.dtype}, on {plan.device}" for plan in plans)
    lines["workers"] = f"{len(plans)}: {'; '.join(workers)}" if plans else "0, machines that join compute"
    for name, text in lines.items():
        print(f"{name:>12}: {text}")
    for message in [*notes.messages, *tokenizer.warnings]:
        print(f"{'note':>12}: {message}")
    return EXIT_OK
