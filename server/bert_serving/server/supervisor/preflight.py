"""Checks options and model before the start, and lists the child processes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import zmq

from ..config.memory import available_memory
from ..config.model_folder import apply_model_folder
from ..config.server_config import ServerConfig
from ..errors import ConfigError, StartError
from ..ipc.descriptors import RESERVE, descriptor_limit
from ..ipc.endpoints import Addresses
from ..model.cache import default_cache_dir
from ..model.config import ModelConfig
from ..model.ranges import FILE_NAME, read_ranges
from ..model.vector_space import digest_of
from ..monitoring.drift import RELEVANT_OPTIONS, Reference
from ..security.curve import is_loopback, read_server_keys, warn_if_open
from .child import Child
from .cpu_topology import Topology, read_topology
from .description import log_space, log_start
from .engine_choice import make_choice
from .packages import require_packages
from .placement import WorkerPlacement, blas_threads, cpu_threads, plan_workers
from .prepared_model import PreparedModel
from .share_options import job_options, share_options
from .tokenizers import count, resolve
from .vector_space import output_spaces, vector_content

#: Descriptors that a process needs without clients, and the number of clients below which the limit is a warning.
OWN_DESCRIPTORS, FEW_CLIENTS = 192, 1000
_NO_GPU = {"CUDA_VISIBLE_DEVICES": "-1"}
#: Processes without an engine multiply small matrices, if any. With more threads these wait for each other and take the
#: cores of workers.
_NO_ENGINE = {**_NO_GPU, "OMP_NUM_THREADS": "1", **blas_threads(1)}


def log_descriptor_limit(log: logging.Logger) -> None:
    """Logs how many clients the limit of open files allows: each has one connection to each of two processes."""
    limit = descriptor_limit(is_hard=True)
    num_clients = max(0, limit - RESERVE - OWN_DESCRIPTORS)
    level = logging.WARNING if num_clients < FEW_CLIENTS else logging.INFO
    log.log(level, "%d open files for each process (ulimit -Hn) allow %d clients at a time", limit, num_clients)


def read_model(config: ServerConfig, log: logging.Logger) -> tuple[ServerConfig, ModelConfig]:
    """Returns the configuration with the settings of the model folder, and the sizes and files of the model.

    Raises:
        ModelError: the folder contains no supported model.
        ConfigError: an option contradicts the folder.
        StartError: an option exceeds a limit of the model.
    """
    config, model = apply_model_folder(config, log)
    if model.own_code is not None:
        log.warning(
            "the code of the model (auto_map %s) is not run: this server computes %s itself",
            model.own_code,
            model.family,
        )
    check_fit(config, model)
    return config, model


def plan(
    config: ServerConfig,
    prepared: PreparedModel,
    log: logging.Logger,
    is_stopping: Callable[[], bool] = lambda: False,
    cores: Topology | None = None,
) -> tuple[ServerConfig, ModelConfig, list[WorkerPlacement]]:
    """Reads the model, and decides where the workers run.

    Args:
        is_stopping: returns whether the server is asked to stop, so that nothing more is measured.
        cores: those of the model; None for all.

    Returns:
        The configuration with the settings of the model folder and the digest of the vectors, sizes and files of the
        model, and the placements.

    Raises:
        ModelError, ConfigError, StartError: as :func:`read_model` and :func:`require_packages`.
        EngineUnavailable: no installed engine supports the model and the options.
        StartError: also if all engines fail while they are measured.
    """
    config, model = read_model(resolve(config), log)
    require_packages(config, model)
    served = prepared.read(config, model)
    choose = make_choice(config, model, prepared.sources[0], log, is_stopping)
    find_cores = read_topology if cores is None else lambda: cores
    placements = plan_workers(config, log, needs=model.features, choose=choose, find_cores=find_cores)
    config = replace(config, num_worker=len(placements))
    log_start(config, model, placements, log)
    content = vector_content(config, served, placements)
    config = config.with_(vector_content=content, vector_digest=digest_of(content))
    config = config.with_(output_spaces=output_spaces(config))
    config = config.with_(ranges=find_ranges(config, model, log.warning))
    log_space(config, model, log)
    return config, model, placements


def find_ranges(config: ServerConfig, model: ModelConfig, warn: Callable[[str], None]) -> dict[str, list[list[float]]]:
    """Returns the ranges in the file of ``-quantization_ranges``, or of the model folder; empty without a file.

    Args:
        config: has the digest of its vectors.

    Raises:
        ConfigError: the file cannot be read, or its ranges have another size than the vectors.
    """
    path = ranges_path(config)
    if path is None:
        return {}
    ranges = read_ranges(path)
    space, size = config.vector_spaces(model).default, config.vector_size(model)
    if space not in ranges:
        warn(
            f"the ranges of {path} are those of the vector spaces {', '.join(ranges) or 'none'}, but this server has "
            f"{space}: requests for int8 and uint8 are refused; run bert-serving-calibrate again with this server"
        )
    elif len(ranges[space][0]) != size:
        raise ConfigError(
            f"the ranges of {path} have {len(ranges[space][0])} numbers, but the vectors have {size}: run "
            "bert-serving-calibrate again with this server"
        )
    return ranges


def ranges_path(config: ServerConfig) -> str | None:
    """Returns the file of ``-quantization_ranges``, or that of the model folder; None without a file."""
    if config.quantization_ranges is not None:
        return config.quantization_ranges
    path = os.path.join(config.model_dir, FILE_NAME)
    return path if config.has_text_vectors and os.path.lexists(path) else None


def read_drift(config: ServerConfig, model: ModelConfig, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Returns the content of ``-drift_reference`` as JSON values; None without the option.

    Args:
        config: without the digest of its vectors, their space is not compared.

    Raises:
        ConfigError: the file cannot be read, or its vectors have another size than those of the model.
    """
    if config.drift_reference is None:
        return None
    reference = Reference.load(config.drift_reference)
    size = config.vector_size(model)
    if len(reference.mean) != size:
        raise ConfigError(
            f"-drift_reference {config.drift_reference} has vectors of {len(reference.mean)} numbers, but this "
            f"server returns {size}: make a reference with this model and these options"
        )
    now = config.public() | ({"vector_space": config.vector_spaces(model).default} if config.vector_digest else {})
    for name in (name for name in RELEVANT_OPTIONS if name in now and reference.options.get(name) != now[name]):
        was = reference.options.get(name)
        warn(f"-drift_reference was made with {name} {was}, but this server has {now[name]}, which shows as drift")
    return json.loads(reference.to_json())  # type: ignore[no-any-return]


def make_access(config: ServerConfig, warn: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the arguments of :class:`CurveAuth` and the keys of the HTTP server, which connects as a client.

    Raises:
        ConfigError: ``-auth_keys`` has no usable server key, or HTTP would be open to clients without a key.
    """
    has_token = config.http_token_file or config.http_keys
    if config.auth_keys and config.http_port and not has_token and not is_loopback(config.host):
        raise ConfigError(
            f"-auth_keys allows known clients only, but -http_port with -host {config.host} is open to all without a "
            f"token: add -http_token_file or -http_keys, or -host 127.0.0.1"
        )
    warn_if_open(config.host, config.auth_keys, warn)
    if config.auth_keys is None:
        return {"folder": None}, {}
    folder = os.path.abspath(config.auth_keys)
    server = read_server_keys(folder)[0].decode()
    public, secret = (key.decode() for key in zmq.curve_keypair())
    # The server's own key is allowed too, so that bert-serving-terminate can use it.
    access = {"folder": folder, "extra": [server, public]}
    return access, {"server_key": server, "public_key": public, "secret_key": secret}


def make_children(
    config: ServerConfig,
    addresses: Addresses,
    placements: list[WorkerPlacement],
    model: ModelConfig,
    prepared: PreparedModel,
    access: dict[str, Any],
    http_keys: dict[str, str],
    drift: dict[str, Any] | None,
    further: Sequence[dict[str, Any]] = (),
    join: dict[str, Any] | None = None,
) -> dict[str, Child]:
    """Returns the child processes by name, without the workers of further models; none is started.

    Args:
        further: what all of them, but workers, need to know of further models.
        join: options of ventilator and sink for machines that join.
    """
    children: dict[str, Child] = {}

    def add(role: str, name: str, options: dict[str, Any], env: dict[str, str]) -> None:
        options = {**options, "model": asdict(model), "tokenizer": prepared.tokenizer}
        children[name] = Child(role, name, name.upper(), config, addresses, options, env)

    models = {"models": list(further)} if further else {}
    shared = {"access": access, "drift": drift} | models | (join or {})
    for_ventilator, for_http = share_options(config)
    add("ventilator", "ventilator", shared | for_ventilator, _NO_ENGINE)
    add("sink", "sink", shared, _NO_ENGINE)
    for index in range(count(config)):
        add("tokenizer", f"tokenizer-{index}", models, _NO_ENGINE)
    children |= make_workers(config, addresses, placements, model, prepared, {})
    if config.http_port:
        add("http", "http", {"keys": http_keys} | for_http | models, _NO_ENGINE)
    if config.http_jobs:
        add("jobs", "jobs", {"keys": http_keys, "shares": job_options(for_http)} | models, _NO_ENGINE)
    return children


def make_workers(
    config: ServerConfig,
    addresses: Addresses,
    placements: list[WorkerPlacement],
    model: ModelConfig,
    prepared: PreparedModel,
    extra: dict[str, Any],
    label: str = "",
) -> dict[str, Child]:
    """Returns the processes that prepare the model, and the workers, by name; none is started.

    Args:
        extra: further options of these processes.
        label: part of their names; empty for those of the first model.
    """
    children: dict[str, Child] = {}
    cache_dir = config.graph_tmp_dir or default_cache_dir()

    def add(role: str, name: str, options: dict[str, Any], env: dict[str, str], context: str) -> None:
        options = {**options, "cache_dir": cache_dir, "model": asdict(model), "tokenizer": prepared.tokenizer}
        children[name] = Child(role, name, context, config, addresses, options, env)

    for engine, dtype in dict.fromkeys((placement.engine, placement.dtype) for placement in placements):
        threads = cpu_threads(placements, engine, dtype)
        options = {"engine": engine, "dtype": dtype, "cpu_threads": threads, "sources": prepared.sources, **extra}
        add(
            "prepare", f"prepare-{label}{engine}-{dtype}", options, {**_NO_GPU, "TF_CPP_MIN_LOG_LEVEL": "3"}, "GRAPHOPT"
        )
    for index, placement in enumerate(placements):
        name = f"worker-{label}{index}"
        env = placement.environment()
        if placement.device.kind == "gpu":  # heads of tokens run on the CPU, whose cores all workers share
            env |= blas_threads(max(1, read_topology().num_usable // len(placements)))
        options = {**placement.options(), "cpu_threads": cpu_threads(placements, placement.engine, placement.dtype)}
        add("worker", name, {**options, **extra}, env, name.upper())
    return children


def check_fit(config: ServerConfig, model: ModelConfig) -> None:
    """Checks options against the sizes of the model.

    Raises:
        StartError: the message names the option, the model's limit and the remedy.
    """
    if config.max_seq_len is not None and config.max_seq_len > model.max_tokens:
        raise StartError(
            f"-max_seq_len {config.max_seq_len} is more than the {model.max_tokens} positions of the "
            f"model in {model.model_dir}; use at most {model.max_tokens}, or NONE"
        )
    if config.no_position_embeddings and not model.architecture.has_positions:
        raise StartError(
            f"-no_position_embeddings: the model in {model.model_dir} has no table of positions; remove the option"
        )
    if config.cache_mb * 2**20 > (memory := available_memory()):
        raise StartError(
            f"-cache_mb {config.cache_mb} is more than the {memory // 2**20} MiB of this machine or container: set less"
        )
    pooled = config.pooled_size(model)
    whole = pooled if config.pipeline is None else config.pipeline.widest(pooled)
    if config.dimensions is not None and config.dimensions > whole:
        raise StartError(f"-dimensions {config.dimensions} is more than the {whole} dimensions of the vectors")
    layers = model.num_hidden_layers
    for layer in config.pooling_layer:
        if not -layers <= layer < layers:
            raise StartError(f"-pooling_layer {layer}: the model has {layers} layers, so it goes from -{layers} to -1")
