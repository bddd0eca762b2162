"""Finds a prepared model in the cache without a process that prepares it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from ..engines import NAMES
from ..engines.base import EngineError
from ..log import get_logger
from ..model.config import ModelConfig
from ..model.errors import ModelError
from ..worker.engine_spec import engine_spec
from ..worker.prepare import log_files, prepare_model
from .child import Child


def find_verified(prepare: Child) -> dict[str, Any] | None:
    """Returns the report of a preparation process, see ``prepare.run``, if nothing must be read or built for it.

    Engines outside the package prepare in a process of their own: what they do is unknown.

    Args:
        prepare: the process, which has not started.

    Returns:
        The report; None if the process must run, also to report an error.
    """
    options, config = prepare.options, prepare.config
    if options["engine"] not in NAMES:
        return None
    log = get_logger(prepare.context, *config.log_settings)
    model = ModelConfig.from_dict(options["model"])
    with contextlib.suppress(ModelError, EngineError, OSError, ValueError):
        spec = replace(engine_spec(config, model, options), only_verified=True)
        report = prepare_model(spec, options["engine"], config, options["sources"], log.info)
        log_files(model, log)
        log.info("the cache has the prepared model: %s, %s", options["engine"], options["dtype"])
        return report
    return None
