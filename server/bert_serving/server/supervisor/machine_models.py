"""Decides for which models of a front a machine computes: those for which it has folders."""

from __future__ import annotations

import logging

from ..config.models import further_models
from ..config.server_config import ServerConfig
from ..engines.nvml import list_gpus
from ..errors import ConfigError
from ..ipc.joining import FrontTerms
from .terms import machine_config


def choose_models(own: ServerConfig, front: FrontTerms, log: logging.Logger) -> list[tuple[int, ServerConfig]]:
    """Returns the models of a machine: their numbers at the front, and their configurations.

    Args:
        own: options of the machine. Its ``model_dir`` without a name is the folder of the front's first model.

    Raises:
        ConfigError: the front has no model with a name, one has two folders, or options of the front are unknown.
    """
    names, found = [each.name for each in front.models], {}
    for each in (own, *further_models(own)):
        if each.name and each.name not in names:
            remedy = (
                f"its models are {', '.join(names)}" if names[0] else "name the folder of its model with -model_dir"
            )
            raise ConfigError(f"-model {each.name}: the front has no model with this name; {remedy}")
        number = names.index(each.name) if each.name else 0
        if number in found:
            raise ConfigError(
                f"-model_dir and -model {names[0]} are both a folder of the first model of the front: name one of them"
            )
        found[number] = machine_config(count_workers(each), front.models[number])
    if missing := [name for number, name in enumerate(names) if number not in found]:
        log.info("this machine has no folder of %s, so other workers compute for it", ", ".join(missing))
    return sorted(found.items())


def count_workers(config: ServerConfig) -> ServerConfig:
    """Returns the configuration with one worker for each GPU, unless ``-num_worker`` is given."""
    if "num_worker" in config.given or config.cpu:
        return config
    count = len(config.device_map) or len(list_gpus())
    return config.with_(num_worker=count) if count else config
