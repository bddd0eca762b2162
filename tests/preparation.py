"""Prepares models in the process of the tests, which imports TensorFlow once for all of them."""

from __future__ import annotations

import logging
from pathlib import Path

from bert_serving.server.config.command_line import get_args_parser
from bert_serving.server.config.server_config import ServerConfig
from bert_serving.server.supervisor.preflight import plan
from bert_serving.server.supervisor.prepared_model import PreparedModel
from bert_serving.server.worker.engine_spec import engine_spec
from bert_serving.server.worker.prepare import prepare_model


def prepare(*args: str, model_dir: Path, cache: Path) -> set[str]:
    """Prepares a model as a server with these arguments does.

    Returns:
        The names of the entries in the cache. A server that starts with the arguments and ``-graph_tmp_dir`` adds none.
    """
    argv = ["-model_dir", str(model_dir), "-graph_tmp_dir", str(cache), "-cpu", *args]
    prepared = PreparedModel(logging.getLogger(__name__))
    config, model, placements = plan(
        ServerConfig.from_args(get_args_parser().parse_args(argv)), prepared, logging.getLogger(__name__)
    )
    prepared.close()
    spec = engine_spec(config, model, {"cache_dir": str(cache), "dtype": placements[0].dtype})
    prepare_model(spec, placements[0].engine, config, prepared.sources, lambda _: None)
    return entries(cache)


def entries(cache: Path) -> set[str]:
    """Returns the names of the entries in a cache."""
    return {path.parent.name for path in cache.glob("*/files.json")}
