"""Plans all models of a server, and lists their processes."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from bert_serving.client.command_parser import describe_error

from ..config.models import further_models
from ..config.server_config import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError, StartError
from ..ipc.endpoints import Addresses
from ..model.config import ModelConfig
from ..model.errors import ModelError
from ..security.curve import read_server_keys
from .child import Child
from .core_shares import share_cores
from .cpu_topology import read_topology
from .description import log_drift, log_version
from .placement import WorkerPlacement
from .preflight import make_children, make_workers, plan, read_drift
from .prepared_model import PreparedModel
from .terms import front_terms, model_terms


@dataclass(frozen=True)
class PlannedModel:
    """A model and its workers. ``number`` is its index among all models."""

    number: int
    config: ServerConfig
    model: ModelConfig
    placements: list[WorkerPlacement]
    prepared: PreparedModel

    def to_options(self, warn: Callable[[str], None]) -> dict[str, Any]:
        """Returns what ventilator, sink and HTTP server need to know of a further model.

        Raises:
            ConfigError: as :func:`read_drift`.
        """
        drift = read_drift(self.config, self.model, lambda text: warn(f"model {self.config.name}: {text}"))
        options = {"model": asdict(self.model), "tokenizer": self.prepared.tokenizer, "drift": drift}
        return {"config": self.config.to_json(), "options": options}


def plan_models(
    config: ServerConfig, prepared: PreparedModel, log: logging.Logger, is_stopping: Callable[[], bool]
) -> list[PlannedModel]:
    """Reads all models, the first one first, and decides where their workers run.

    Args:
        prepared: holds the files of all models.
        is_stopping: as for :func:`plan`.

    Raises:
        ModelError, ConfigError, StartError, EngineUnavailable: as :func:`plan`; that of a further model has its name.
        StartError: also if a file of a model cannot be read.
    """
    planned = plan_all(list(enumerate([config, *further_models(config)])), prepared, log, is_stopping)
    log_drift([each.config for each in planned], log)
    return planned


def plan_all(
    models: Sequence[tuple[int, ServerConfig]],
    prepared: PreparedModel,
    log: logging.Logger,
    is_stopping: Callable[[], bool],
) -> list[PlannedModel]:
    """Does so for models with these numbers, one or more; see :func:`plan_models`."""
    log_version(log)
    configs = share_threads([config for _, config in models])
    planned: list[PlannedModel] = []
    for (number, _), config, cores in zip(models, configs, share_cores(configs, log), strict=True):
        files = prepared.for_another_model() if planned else prepared
        if planned:
            log.info("model %s:", config.name)
        try:
            planned.append(PlannedModel(number, *plan(config, files, log, is_stopping, cores), files))
        except (ServingError, ModelError, EngineError) as error:
            if not number:
                raise
            raise StartError(f"-model {config.name}: {error}") from error
        except OSError as error:
            model = f"-model {config.name}: " if number else ""
            raise StartError(f"{model}{describe_error(error)}") from error
    return planned


def share_threads(configs: list[ServerConfig]) -> list[ServerConfig]:
    """Returns the configurations with threads for each worker, if those of several models share the processor.

    With ``-num_worker auto`` :func:`share_cores` decides.
    """
    counts = [each.num_worker for each in configs]
    if len(configs) == 1 or "auto" in counts:
        return configs
    threads = max(1, read_topology().num_threads // max(1, sum(map(int, counts))))
    return [replace(each, threads=threads) if each.threads is None else each for each in configs]


def placements_of(planned: list[PlannedModel]) -> list[WorkerPlacement]:
    """Returns the placements of the workers of all models."""
    return [placement for each in planned for placement in each.placements]


def make_all_children(
    planned: list[PlannedModel],
    addresses: Addresses,
    access: dict[str, Any],
    http_keys: dict[str, str],
    warn: Callable[[str], None],
) -> dict[str, Child]:
    """Returns the child processes of all models by name; none is started. See :func:`make_children`.

    Raises:
        ConfigError: as :func:`read_drift`, and if ``-join_keys`` has no usable key of this server.
    """
    first, *further = planned
    drift = read_drift(first.config, first.model, warn)
    models = [each.to_options(warn) for each in further]
    of_first = first.config, addresses, first.placements, first.model, first.prepared
    children = make_children(*of_first, access, http_keys, drift, models, join_options(planned))
    for each in further:
        children |= make_model_workers(each, addresses, each.config.name)
    return children


def make_model_workers(
    each: PlannedModel, addresses: Addresses, name: str, options: dict[str, Any] | None = None
) -> dict[str, Child]:
    """Returns the processes of one model, which have its name unless it is the first one; see :func:`make_workers`."""
    extra, label = dict(options or {}), ""
    if each.number:
        extra["model_number"], label = each.number, f"{name}-"
    return make_workers(each.config, addresses, each.placements, each.model, each.prepared, extra, label)


def join_options(planned: Sequence[PlannedModel]) -> dict[str, Any]:
    """Returns the options of ventilator and sink for machines that join.

    Raises:
        ConfigError: ``-join_keys`` has no usable key of this server.
    """
    config = planned[0].config
    if config.join_port is None:
        return {}
    folder = None
    if config.join_keys is not None:
        folder = os.path.abspath(config.join_keys)
        read_server_keys(folder, "-join_keys")
    first, *further = (
        model_terms(each.config, each.model, each.prepared.sources[0], each.placements) for each in planned
    )
    terms = front_terms(config, first, further)
    return {"join_access": folder, "join_terms": msgspec.to_builtins(terms)}
