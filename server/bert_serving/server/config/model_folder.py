"""Applies the settings of a sentence-transformers folder to the configuration.

The folder decides about pooling, length, normalization and prompts. An option that the user gave wins, and a warning
names what the folder asked for.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import msgspec

from ..errors import ConfigError
from ..model.adapter import other_base
from ..model.config import ModelConfig
from ..model.pipeline import SentencePipeline
from ..model.pooling import MODE_OF, PoolingStrategy, worker_modes
from ..model.sentence_transformers import read_pipeline
from ..model.vector_options import VectorOptions, apply_options, split_tail
from .folder_length import take_length
from .served_head import apply_head
from .server_config import ServerConfig
from .token_outputs import apply_token_folder, take_folder_heads

#: Pooling modes that every engine computes.
_ENGINE_MODES = {
    "mean": PoolingStrategy.REDUCE_MEAN,
    "max": PoolingStrategy.REDUCE_MAX,
    "cls": PoolingStrategy.CLS_TOKEN,
    "lasttoken": PoolingStrategy.SEP_TOKEN,
}
#: Pooling modes that the worker computes from token vectors.
_WORKER_MODES = {mode: strategy for strategy, mode in MODE_OF.items()}


def apply_model_folder(config: ServerConfig, log: logging.Logger) -> tuple[ServerConfig, ModelConfig]:
    """Returns the configuration with the settings of its model folder, and the sizes and files of the model.

    Raises:
        ModelError: the folder describes vectors that this server does not compute.
        ConfigError: ``-normalize``, ``-dimensions`` or ``-prompt_name`` does not fit, or an option contradicts
            ``-task`` or the folder.
    """
    if (named := other_base(config.model_dir, config.base)) is not None:
        log.warning("-base %s is set; the adapter %s names %s as its base model", config.base, config.model_dir, named)
    if config.task != "embed":
        config, model = apply_head(config, log)
        return _take_prompt(config), model
    folder = read_pipeline(config.settings_dir)
    if folder is not None and not folder.has_dense:
        config, model = apply_token_folder(config, folder, log)
        return _take_prompt(config), model
    if folder is None:
        pipeline = SentencePipeline(config.model_dir, pooling=worker_modes(config.pooling_strategy))
        config = replace(config, pipeline=pipeline)
        model = config.read_model()
        _log_defaults(config, log)
    else:
        config = _take_pooling(config, folder, log)
        model = config.read_model()
        config = take_folder_heads(config, model, log)
        config = _take_settings(config, folder, model.max_tokens, log)
    return _finish(_take_prompt(config)), model


def _log_defaults(config: ServerConfig, log: logging.Logger) -> None:
    """Logs the defaults of 1.10 that count for a folder without ``modules.json``, unless the user gave other values."""
    defaults = {
        "pooling_layer": f"-pooling_layer {' '.join(map(str, config.pooling_layer))}",
        "max_seq_len": f"-max_seq_len {config.max_seq_len}",
    }
    kept = [flag for name, flag in defaults.items() if name not in config.given]
    if kept:
        log.info(
            "%s has no modules.json, so the defaults of 1.10 count: %s; a sentence-embedding model needs "
            "-pooling_layer -1 -max_seq_len NONE, and often -normalize on",
            config.model_dir,
            " ".join(kept),
        )


def _take_pooling(config: ServerConfig, folder: SentencePipeline, log: logging.Logger) -> ServerConfig:
    wanted, layers = strategy_of(folder.pooling), (-1,)
    strategy = config.pooling_strategy if "pooling_strategy" in config.given else wanted
    layer = config.pooling_layer if "pooling_layer" in config.given else layers
    if strategy == wanted and layer == layers:
        modes = () if wanted in _ENGINE_MODES.values() else folder.pooling
        pipeline = msgspec.structs.replace(folder, pooling=modes)
    else:
        left_out = folder.module_names
        log.warning(
            "pooling %s of layer %s is set; the folder wants %s of layer -1%s",
            strategy,
            ", ".join(map(str, layer)),
            " and ".join(folder.pooling),
            f" and then {', '.join(left_out)}, which are left out" if left_out else "",
        )
        pipeline = msgspec.structs.replace(folder, pooling=worker_modes(strategy), modules=())
    return replace(config, pipeline=pipeline, pooling_strategy=strategy, pooling_layer=layer)


def _take_settings(config: ServerConfig, folder: SentencePipeline, positions: int, log: logging.Logger) -> ServerConfig:
    config = take_length(config, folder, positions, log)
    changes: dict[str, Any] = {}
    if folder.lower_case and not config.do_lower_case:
        log.warning("-cased_tokenization is set; the folder wants lower-cased texts (do_lower_case)")
        changes["pipeline"] = msgspec.structs.replace(_pipeline(config), lower_case=False)
    if config.normalize == "off" and folder.is_normalized:
        log.warning("-normalize off is set; the folder wants unit vectors (Normalize)")
    return replace(config, **changes)


def _take_prompt(config: ServerConfig) -> ServerConfig:
    pipeline = _pipeline(config)
    if config.prompt_name is None:
        return replace(config, prompt_name=pipeline.default_prompt_name)
    if config.prompt_name not in pipeline.prompts:
        known = ", ".join(pipeline.prompts) or "none"
        raise ConfigError(f"-prompt_name {config.prompt_name}: the model folder has the prompts {known}")
    return config


def _finish(config: ServerConfig) -> ServerConfig:
    """Applies ``-dimensions`` and ``-normalize``."""
    pipeline = _pipeline(config)
    is_token_level = config.pooling_strategy == PoolingStrategy.NONE
    if is_token_level and (config.normalize == "on" or config.dimensions is not None):
        raise ConfigError("-normalize and -dimensions need one vector per text, not -pooling_strategy NONE")
    normalize = {"on": True, "off": False}.get(config.normalize)
    body, tail = split_tail(pipeline.modules)
    tail = apply_options(tail, VectorOptions(normalize, config.dimensions))
    return replace(config, pipeline=msgspec.structs.replace(pipeline, modules=(*body, *tail)))


def strategy_of(modes: tuple[str, ...]) -> PoolingStrategy:
    """Returns the strategy with the meaning of these pooling modes."""
    if len(modes) > 1:
        return PoolingStrategy.CONCATENATED
    return (_ENGINE_MODES | _WORKER_MODES)[modes[0]]


def _pipeline(config: ServerConfig) -> SentencePipeline:
    assert config.pipeline is not None
    return config.pipeline
