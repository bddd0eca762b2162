"""Plans all models of a server, and lists their processes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..config.models import further_models
from ..config.server_config import ServerConfig
from ..engines.base import EngineError
from ..errors import ServingError, StartError
from ..ipc.endpoints import Addresses
from ..model.config import ModelConfig
from ..model.errors import ModelError
from .child import Child
from .core_shares import share_cores
from .cpu_topology import read_topology
from .placement import WorkerPlacement
from .preflight import make_children, make_workers, plan, read_drift
from .prepared_model import PreparedModel


@dataclass(frozen=True)
class PlannedModel:
    """A model and its workers. ``number`` is its index among all models."""

    number: int
    config: ServerConfig
    model: ModelConfig
    placements: list[WorkerPlacement]
    prepared: PreparedModel

    def to_options(self) -> dict[str, Any]:
        """Returns what ventilator, sink and HTTP server need to know of a further model."""
        options = {"model": asdict(self.model), "tokenizer": self.prepared.tokenizer, "drift": None}
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
    """
    config = share_threads(config)
    further = further_models(config)
    first, *parts = share_cores([config, *further], log)
    planned = [PlannedModel(0, *plan(config, prepared, log, is_stopping, first), prepared)]
    for number, (each, cores) in enumerate(zip(further, parts, strict=True), 1):
        log.info("model %s:", each.name)
        files = prepared.for_another_model()
        try:
            planned.append(PlannedModel(number, *plan(each, files, log, is_stopping, cores), files))
        except (ServingError, ModelError, EngineError) as error:
            raise StartError(f"-model {each.name}: {error}") from error
    return planned


def share_threads(config: ServerConfig) -> ServerConfig:
    """Returns the configuration with threads for each worker, if those of several models share the processor.

    With ``-num_worker auto`` :func:`share_cores` decides.
    """
    if not config.model or config.threads is not None:
        return config
    counts = [each.num_worker for each in (config, *further_models(config))]
    if "auto" in counts:
        return config
    workers = sum(map(int, counts))
    return replace(config, threads=max(1, read_topology().num_threads // max(1, workers)))


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
        ConfigError: as :func:`read_drift`.
    """
    first, *further = planned
    drift = read_drift(first.config, first.model, warn)
    models = [each.to_options() for each in further]
    of_first = first.config, addresses, first.placements, first.model, first.prepared
    children = make_children(*of_first, access, http_keys, drift, models)
    for each in further:
        extra = {"model_number": each.number}
        children |= make_workers(
            each.config, addresses, each.placements, each.model, each.prepared, extra, f"{each.config.name}-"
        )
    return children
