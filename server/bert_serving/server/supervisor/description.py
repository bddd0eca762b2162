"""Describes what a server serves in words: for the log of the start and for ``-check``."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..config.memory import default_memory
from ..config.models import public_name
from ..config.server_config import ServerConfig
from ..ipc.start_steps import StartSteps
from ..log import get_logger
from ..model.config import ModelConfig
from ..model.pooling import PoolingStrategy
from ..model.sentence_transformers import MODULES_FILE
from ..version import __version__
from .placement import WorkerPlacement

_POOLING = {
    PoolingStrategy.NONE: "one vector for each token",
    PoolingStrategy.REDUCE_MEAN: "mean of the tokens",
    PoolingStrategy.REDUCE_MAX: "maximum of the tokens",
    PoolingStrategy.REDUCE_MEAN_MAX: "mean and maximum of the tokens",
    PoolingStrategy.CLS_TOKEN: "first token",
    PoolingStrategy.SEP_TOKEN: "last token",
    PoolingStrategy.CLS_POOLED: "pooler of the model",
    PoolingStrategy.WEIGHTED_MEAN: "mean of the tokens, weighted by position",
    PoolingStrategy.MEAN_SQRT_LEN: "sum of the tokens by the root of their number",
    PoolingStrategy.SPLADE: "weights of the tokens of the vocabulary",
    PoolingStrategy.COLBERT: "a vector for each token",
}


def describe_model(config: ServerConfig, model: ModelConfig) -> dict[str, str]:
    """Returns the model and its output in words, by subject."""
    pipeline = config.pipeline
    assert pipeline is not None
    kind = "Google checkpoint" if model.checkpoint_format == "tf1" else "Hugging Face folder"
    if (Path(config.settings_dir) / MODULES_FILE).is_file():
        kind = "sentence-transformers folder"
    if model.adapter is not None:
        kind = f"adapter of rank {model.adapter.rank}; base model: {Path(model.checkpoint).parent}, a {kind}"
    layers = ", ".join(map(str, config.pooling_layer))
    strategy = f"{_POOLING.get(config.pooling_strategy, '')}, {config.pooling_strategy.name}"
    if pipeline.pooling:
        strategy = " and ".join(pipeline.pooling)
    modules = ", ".join(pipeline.module_names)
    per = "token" if config.pooling_strategy == PoolingStrategy.NONE else "text"
    vectors = f"{config.vector_size(model)} dimensions per {per}{', length 1' if pipeline.is_normalized else ''}"
    if not pipeline.has_dense:
        vectors = "no dense ones"
    output = {"vectors": vectors + (f", compared by {pipeline.similarity}" if pipeline.similarity else "")}
    if pipeline.has_token_heads:
        output["outputs"] = ", ".join(pipeline.outputs)
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
        "weights": model.checkpoint + (f", merged with {model.adapter.weights}" if model.adapter else ""),
        "longest text": f"{config.max_seq_len or model.max_tokens} tokens",
        "prompt": repr(pipeline.prompts[config.prompt_name]) if config.prompt_name is not None else "none",
        "pooling": f"{strategy} of layer {layers}{', then ' + modules if modules else ''}",
        **output,
    }


def log_version(log: logging.Logger) -> None:
    """Logs the versions of the server and of Python."""
    log.info("bert-serving-server %s on Python %s", __version__, sys.version.split()[0])


def log_start(
    config: ServerConfig, model: ModelConfig, placements: Iterable[WorkerPlacement], log: logging.Logger
) -> None:
    """Logs model, devices and memory, when the options and the model are known to fit."""
    described = describe_model(config, model)
    for subject in ("model", "encoder", "pooling", "vectors", "outputs", "labels"):
        if subject in described:
            log.info("%s: %s", subject, described[subject])
    log.info("longest text: %s, longer ones are truncated; prompt: %s", described["longest text"], described["prompt"])
    workers = list(dict.fromkeys(each.describe() for each in placements))
    log.info("workers: %d, %s", config.num_worker, "; ".join(workers) or "machines that join compute")
    weights = sum(os.path.getsize(path) for path in model.weight_files)
    limits = [config.queue_memory or default_memory(), config.result_memory or default_memory()]
    cache = f", and {_size(config.cache_mb * 2**20)} of vectors of earlier texts" if config.cache_mb else ""
    log.info(
        "memory: weights of %s, at most %s of requests and %s of results%s", *map(_size, [weights, *limits]), cache
    )


def log_space(config: ServerConfig, model: ModelConfig, log: logging.Logger) -> None:
    """Logs with what vectors, or scores, of a model may be compared."""
    kind = "vectors" if config.task == "embed" else "scores"
    log.info("vector space: %s; %s of other spaces are not comparable", config.default_space(model), kind)


def log_drift(configs: Sequence[ServerConfig], log: logging.Logger) -> None:
    """Logs with what texts of each model are compared. Machines that join compare none."""
    for config in configs:
        if config.has_text_vectors:
            drift = f"texts are compared with {config.drift_reference}" if config.drift_reference else "not observed"
            name = f" of model {public_name(config)}" if len(configs) > 1 else ""
            log.info("drift%s: %s", name, f"{drift} (-drift_reference)")


def log_ready(config: ServerConfig, is_first: bool, steps: StartSteps) -> None:
    """Logs that the server is ready; at the first time with addresses to open, a line to try, and the steps."""
    if not is_first:
        get_logger("VENTILATOR", *config.log_settings).info("all processes are back, ready to serve request!")
        return
    log = get_logger("SUPERVISOR", *config.log_settings)
    steps.done("processes")
    log.debug("%s", steps)
    if config.http_port is not None:
        address = f"http://{_host(config.host)}:{config.http_port}"
        log.info("API page: %s/docs  dashboard: %s/dashboard", address, address)
    if config.auth_keys is None:
        log.info("""try: python -c "from bert_serving.client import BertClient; print(%s)\"""", _call(config))
    get_logger("VENTILATOR", *config.log_settings).info("all set, ready to serve request!")


def _call(config: ServerConfig) -> str:
    """Returns a Python expression that uses the server from this machine."""
    host = _host(config.host)
    named = [f"ip='{host}'"] if host != "localhost" else []
    named += [f"port={config.port}"] if config.port != 5555 else []
    named += [f"port_out={config.port_out}"] if config.port_out != 5556 else []
    calls = {
        "embed": "encode(['hello world'])",
        "classify": "classify(['hello world'])",
        "rerank": "rerank('hello', ['hello world', 'good day'])",
    }
    if config.outputs and "dense" not in config.outputs:
        calls["embed"] = f"encode(['hello world'], outputs={list(config.outputs)})"
    return f"BertClient({', '.join(named)}).{calls[config.task]}"


def _host(host: str) -> str:
    """Returns the host for an address that this machine can open."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return "localhost" if host == "*" else host
    if address.is_unspecified or str(address) == "127.0.0.1":
        return "localhost"
    return f"[{host.strip('[]')}]" if address.version == 6 else host


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
