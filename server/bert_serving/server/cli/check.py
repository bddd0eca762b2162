"""Prints what a server would serve: ``bert-serving-start -check``. Reads no weights and starts no process."""

from __future__ import annotations

import logging
import sys

from bert_serving.client.command_parser import describe_error, print_output

from ..config.models import further_models, public_name
from ..config.server_config import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError
from ..model.config import ModelConfig
from ..model.errors import ModelError, ReaderMissing
from ..model.pooling import PoolingStrategy
from ..model.unserved import describe_unserved, quick_tensor_names, unserved_tensors
from ..model.weights import check_weights
from ..supervisor.core_shares import share_cores
from ..supervisor.cpu_topology import Topology
from ..supervisor.description import describe_model
from ..supervisor.engine_choice import stored_choice
from ..supervisor.models import share_threads
from ..supervisor.option_files import check_files_of_model, check_files_of_server
from ..supervisor.packages import require_packages
from ..supervisor.placement import plan_workers
from ..supervisor.preflight import read_model
from ..supervisor.supervisor import EXIT_OK, EXIT_START_FAILED
from ..tokenization.factory import make_tokenizer
from ..worker.head_weights import check_head_weights
from ..worker.token_head_weights import check_token_heads

#: Engines that read the weights of the encoder.
_READ_WEIGHTS = {"onnx", "tensorflow", "torch"}


class _Collector(logging.Handler):
    """Collects messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def check(config: ServerConfig) -> int:
    """Prints what would be served, and what is ignored or a default. Returns the exit code: 0 or 3."""
    configs, problem_of = share_threads([config, *further_models(config)]), ""
    config, *further = configs
    rows = [("name", public_name(config))] if further else []
    try:
        problems = check_files_of_server(config)
        first, *parts = share_cores(configs, logging.Logger("check"))
        rows += _check_model(config, first)
        for each, cores in zip(further, parts, strict=True):
            problem_of = f"-model {each.name}: "
            rows += [("", ""), ("name", each.name), *_check_model(each, cores)]
    except (ServingError, ModelError, EngineError, ValueError, OSError) as error:
        print(f"refused: {problem_of}{describe_error(error)}", file=sys.stderr)
        return EXIT_START_FAILED
    rows += [("note", problem) for problem in problems]
    print_output("\n".join(f"{name:>12}: {text}" if name else "" for name, text in rows))
    return EXIT_OK


def _check_model(config: ServerConfig, cores: Topology) -> list[tuple[str, str]]:
    """Returns the lines about one model, for workers on its cores.

    Raises:
        ServingError, ModelError, EngineError, ValueError, OSError: the start would refuse it.
    """
    log, notes = logging.Logger("check"), _Collector()
    log.addHandler(notes)
    config, model = read_model(config, log)
    require_packages(config, model)
    tokenizer = make_tokenizer(config, model)
    notes.setLevel(logging.WARNING)  # the line about the workers has the devices
    choose = stored_choice(config, model, log)
    plans = plan_workers(config, log, needs=model.features, choose=choose, find_cores=lambda: cores)
    if {plan.engine for plan in plans} & _READ_WEIGHTS:
        _check_tensors(config, model)
    _note_unserved(config, model, log)
    check_files_of_model(config, model, log.warning)
    lines = describe_model(config, model)
    lines["tokenizer"] = f"{tokenizer.description}, from {model.vocab_path}"
    workers = dict.fromkeys(plan.describe() for plan in plans)
    lines["workers"] = f"{len(plans)}: {'; '.join(workers)}" if plans else "0, machines that join compute"
    return [*lines.items(), *(("note", message) for message in [*notes.messages, *tokenizer.warnings])]


def _check_tensors(config: ServerConfig, model: ModelConfig) -> None:
    """Checks names, shapes and types of the tensors in files of safetensors, which takes milliseconds.

    Raises:
        WeightError: the start would refuse the weights.
    """
    pipeline = config.pipeline
    assert pipeline is not None
    needs_pooler, layers = config.pooling_strategy == PoolingStrategy.CLS_POOLED, model.num_hidden_layers
    try:
        if model.is_quick_to_open:
            needed = layers if needs_pooler else 1 + max(layer % layers for layer in config.pooling_layer)
            check_weights(model, needed, needs_pooler)
        is_quick = model.adapter is None or model.is_quick_to_open
        if is_quick and all(".safetensors" in path.name for path in pipeline.weight_files):
            check_head_weights(pipeline, config.pooled_size(model), model)
            check_token_heads(pipeline, model)
    except ReaderMissing:
        return  # a prepared model in the cache needs no reader


def _note_unserved(config: ServerConfig, model: ModelConfig, log: logging.Logger) -> None:
    """Logs which tensors are not served; of a format that needs a large library, the class that the folder names."""
    names = quick_tensor_names(model)
    if names is None:
        if model.head_class is not None and config.task == "embed":
            log.warning("%s names %s: a head in the weights is not served", model.config_path, model.head_class)
    elif unserved := unserved_tensors(names, model, config.pipeline):
        log.warning("%s", describe_unserved(unserved, model, config.task, config.pipeline))
