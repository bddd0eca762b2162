"""Checks options against each other."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..errors import ConfigError
from ..model.pooling import PoolingStrategy
from ..security.curve import is_loopback

if TYPE_CHECKING:
    from .server_config import ServerConfig


def named_ports(config: ServerConfig) -> dict[str, tuple[str, int]]:
    """Returns host and number of each port that the server binds, by the name of the option."""
    ports = {
        "port": (config.host, config.port),
        "port_out": (config.host, config.port_out),
        "http_port": (config.host, config.http_port),
        "join_port": (config.join_host, config.join_port),
        "join_port_out": (config.join_host, config.result_join_port),
    }
    return {name: (host, number) for name, (host, number) in ports.items() if number is not None}


def reject_contradictions(config: ServerConfig) -> None:
    """Checks that the options of a server fit together.

    Raises:
        ConfigError: two options contradict each other, or one lacks another; the message names the remedy.
    """
    if config.fp16 and config.dtype not in ("fp32", "auto", "fp16"):
        raise ConfigError(f"-fp16 and -dtype {config.dtype} contradict each other: set only one of them")
    if config.verbose and config.log_level not in ("info", "debug"):
        raise ConfigError(f"-verbose is -log_level debug, but -log_level is {config.log_level}: set only one of them")
    if config.quantization_ranges and config.task != "embed":
        raise ConfigError(
            f"-quantization_ranges is for vectors, but -task {config.task} gives scores: set only one of them"
        )
    if config.quantization_ranges and config.pooling_strategy == PoolingStrategy.NONE:
        raise ConfigError(
            "-quantization_ranges needs one vector per text, but -pooling_strategy NONE computes one per token: set "
            "only one of them"
        )
    if config.drift_reference and config.pooling_strategy == PoolingStrategy.NONE:
        raise ConfigError(
            "-drift_reference needs one vector per text, but -pooling_strategy NONE computes one per token: set only "
            "one of them"
        )
    if config.http_keys and config.http_token_file:
        raise ConfigError("-http_keys and -http_token_file exclude each other: write the token into the file of keys")
    if config.http_keys and config.http_port is None and config.auth_keys is None:
        raise ConfigError(
            "-http_keys needs -http_port, whose requests have keys, or -auth_keys for the keys of clients"
        )
    if config.http_jobs:
        _check_jobs(config)
    if config.model:
        _check_models(config)
    if config.idle_unload and config.num_worker == 0 and not config.model and not config.name:
        raise ConfigError("-idle_unload frees the memory of workers of this server, which -num_worker 0 lacks: omit it")
    _check_ports(config)
    if config.join_port is None:
        _reject_join_options(config)
    else:
        _check_joining(config)


def _check_jobs(config: ServerConfig) -> None:
    if config.http_port is None:
        raise ConfigError("-http_jobs needs -http_port: clients create batch jobs over HTTP")
    if config.model:
        return  # the requests of a job may be for another model
    if config.task != "embed":
        raise ConfigError(f"-http_jobs is for vectors, but -task {config.task} gives scores: set only one of them")
    if config.pooling_strategy == PoolingStrategy.NONE:
        raise ConfigError(
            "-http_jobs needs one vector per text, but -pooling_strategy NONE computes one per token: set only one of "
            "them"
        )


def _check_models(config: ServerConfig) -> None:
    if 0 < config.cache_mb <= len(config.model):
        number = len(config.model) + 1
        raise ConfigError(
            f"-cache_mb {config.cache_mb} is less than 1 MiB for each of {number} models: set {number} or more, or 0"
        )


def _check_ports(config: ServerConfig) -> None:
    used: dict[int, str] = {}
    for name, (_, number) in named_ports(config).items():
        if number in used:
            raise ConfigError(f"-{name} and -{used[number]} are both {number}: set different ports")
        used[number] = name


def _reject_join_options(config: ServerConfig) -> None:
    if config.num_worker == 0:
        raise ConfigError("-num_worker 0 needs -join_port, so that machines can join and compute")
    for name in ("join_port_out", "join_keys"):
        if getattr(config, name) is not None:
            raise ConfigError(f"-{name} needs -join_port: without it no machine can join")


def _check_joining(config: ServerConfig) -> None:
    if config.result_join_port > 65535:  # type: ignore[operator]
        raise ConfigError("-join_port 65535 has no port after it: set -join_port_out")
    if config.num_worker == 0 and config.dtype == "auto":
        raise ConfigError(
            "-dtype auto depends on the devices of this server, which has none with -num_worker 0: set -dtype to the "
            "precision in which all machines compute"
        )
    if config.num_worker == 0 and config.engine == "measure":
        raise ConfigError(
            "-engine measure times engines for the workers of this server, which has none with -num_worker 0: give it "
            "to bert-serving-join"
        )
    if not is_loopback(config.join_host) and config.join_keys is None:
        raise ConfigError(
            f"-join_host {config.join_host} is open to other machines, so it needs -join_keys: make keys with "
            "bert-serving-keygen KEYS NAME"
        )
    if config.join_timeout < 1:
        raise ConfigError(f"-join_timeout {config.join_timeout:.15g} is too short: machines report once a second")
    folders = (config.join_keys, config.auth_keys)
    if all(folders) and len({os.path.realpath(str(folder)) for folder in folders}) == 1:
        raise ConfigError(
            f"-join_keys and -auth_keys are both {config.join_keys}: use two folders, so that a client's key does not "
            "admit a machine"
        )
