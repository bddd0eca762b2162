"""Selects the engine for the CPU by measurement: ``-engine measure``, and stored measurements for ``-engine auto``."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec

from ..config.server_config import ServerConfig
from ..engines.base import Device
from ..engines.cpu_info import describe_processor
from ..engines.measurement import Candidate, Measurement, library_version
from ..model.cache import Cache, CacheError, default_cache_dir
from ..model.config import ModelConfig
from ..model.digest import KnownDigests, model_digest
from ..model.pooling import PoolingStrategy
from ..version import __version__
from ..worker.measure import MAX_TOKENS
from .measuring import EngineTimer, Stopped
from .placement import ChooseEngine

_KIND, _FILE = "measurement", "measurement.json"


def make_choice(
    config: ServerConfig,
    model: ModelConfig,
    digest: str,
    log: logging.Logger,
    is_stopping: Callable[[], bool] = lambda: False,
) -> ChooseEngine | None:
    """Returns the function that selects the engine; None if the options or an empty store leave no choice.

    Args:
        digest: that of the model.
        is_stopping: returns whether the server is asked to stop.
    """
    if config.engine not in ("auto", "measure") or not (config.engine == "measure" or _has_stored(config)):
        return None

    def choose(candidates: Sequence[Candidate], device: Device) -> Candidate | None:
        cache = Cache(config.graph_tmp_dir or "")
        key = _cache_key(config, model, digest, candidates, device)
        path = cache.find(_KIND, key)
        measurement = None if path is None else _read(path, candidates, log)
        if path is not None and measurement is not None and measurement.fastest is not None:
            log.info("%s; measured on %s, kept in %s", measurement.describe(), measurement.date, path)
            return measurement.fastest.candidate
        if config.engine == "auto":
            return None
        if len(candidates) == 1:
            log.info("-engine measure: only engine %s with dtype %s can compute this model here",
                     candidates[0].engine, candidates[0].dtype)  # fmt: skip
            return candidates[0]
        try:
            measurement = EngineTimer(config, model, log, is_stopping).measure(candidates, device)
        except Stopped:
            return None
        log.info("%s", measurement.describe())
        _keep(cache, key, measurement, log)
        return None if measurement.fastest is None else measurement.fastest.candidate

    return choose


def stored_choice(config: ServerConfig, model: ModelConfig, log: logging.Logger) -> ChooseEngine | None:
    """Returns the function that ``-check`` uses: it reads no weights, and measures nothing."""
    if config.engine not in ("auto", "measure"):
        return None

    def choose(candidates: Sequence[Candidate], device: Device) -> Candidate | None:
        if _has_stored(config):
            root = Path(Cache(config.graph_tmp_dir or "").root)
            try:
                digest = model_digest(model, KnownDigests(root / "digests.json"))
            except LookupError:  # a model that was never prepared was never measured
                digest = ""
            lookup = make_choice(config.with_(engine="auto"), model, digest, log)
            if lookup is not None and (found := lookup(candidates, device)) is not None:
                return found
        if config.engine == "measure" and len(candidates) > 1:
            log.warning("-engine measure: the start times %s, and takes the fastest", ", ".join(map(str, candidates)))
        return None

    return choose


def _has_stored(config: ServerConfig) -> bool:
    """Returns whether the cache folder has any measurement; looks at names of folders only."""
    folder = Path(config.graph_tmp_dir or default_cache_dir())
    return any(folder.glob(f"{_KIND}-*")) or any(folder.glob(f"bert-serving-*/{_KIND}-*"))


def _cache_key(
    config: ServerConfig, model: ModelConfig, digest: str, candidates: Sequence[Candidate], device: Device
) -> dict[str, object]:
    """Returns all that a measurement is valid for."""
    layers = model.num_hidden_layers
    is_pooled = config.pooling_strategy == PoolingStrategy.CLS_POOLED
    return {
        "model": digest,
        "processor": describe_processor(),
        "threads": device.threads,
        "candidates": sorted([each.engine, each.dtype, library_version(each.engine)] for each in candidates),
        "layers": layers if is_pooled else max(layer % layers for layer in config.pooling_layer) + 1,
        "longest": min(config.max_seq_len or model.max_tokens, MAX_TOKENS),
        "xla": config.xla,
        "version": __version__,
    }


def _keep(cache: Cache, key: dict[str, object], measurement: Measurement, log: logging.Logger) -> None:
    def write(folder: Path) -> None:
        (folder / _FILE).write_text(json.dumps(asdict(measurement), indent=1), "utf-8")

    try:
        path = cache.entry(_KIND, key, write)
    except CacheError as error:
        log.warning("the measurement is not kept: %s", error)
    else:
        log.info("the measurement is kept in %s; remove the folder to measure again", path)


def _read(path: Path, candidates: Sequence[Candidate], log: logging.Logger) -> Measurement | None:
    """Returns a stored measurement; None if the file is damaged."""
    try:
        found = msgspec.json.decode((path / _FILE).read_bytes(), type=Measurement)
    except (OSError, ValueError) as error:
        log.warning("the measurement in %s is damaged (%s) and is ignored; remove the folder", path, error)
        return None
    return found if {each.candidate for each in found.results} == set(candidates) else None
