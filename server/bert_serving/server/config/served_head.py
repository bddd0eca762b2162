"""Applies ``-task classify`` and ``-task rerank`` to the configuration: the scores of the head in place of vectors."""

from __future__ import annotations

import logging
from dataclasses import replace

from ..errors import ConfigError
from ..model.config import ModelConfig
from ..model.heads import read_head
from ..model.pooling import PoolingStrategy
from ..model.sentence_transformers import read_scorer
from .folder_length import take_length
from .server_config import ServerConfig

_POOLING = {"cls": PoolingStrategy.CLS_TOKEN, "mean": PoolingStrategy.REDUCE_MEAN}
#: Options that change vectors and would change scores, or would have no effect on them.
_OF_VECTORS = ("pooling_strategy", "pooling_layer", "normalize", "dimensions", "mask_cls_sep", "fixed_embed_length")

#: Characters of the labels in the log.
_MAX_LABELS = 500


def apply_head(config: ServerConfig, log: logging.Logger) -> tuple[ServerConfig, ModelConfig]:
    """Returns the configuration of a server of scores, and the sizes and files of its model.

    Raises:
        ModelError: the model has no head that the task needs.
        ConfigError: an option is one for vectors.
    """
    named = next((name for name in _OF_VECTORS if name in config.given), None)
    if named is not None:
        raise ConfigError(
            f"-{named} is for vectors, and -task {config.task} gives scores of the model's head, which decides itself: "
            f"remove -{named}, or set -task embed"
        )
    folder = read_scorer(config.settings_dir, is_tuned=config.tuned_model_dir is not None)
    config = replace(config, pipeline=folder)
    model = config.read_model()
    head = read_head(model, config.task, config.settings_dir)
    config = take_length(config, folder, model.max_tokens, log)
    pipeline = head.extend(folder)
    labels = ", ".join(head.labels)
    if len(labels) > _MAX_LABELS:
        labels = f"{labels[:_MAX_LABELS]}... ({len(head.labels)} of them)"
    log.info(
        "task %s: labels %s, problem_type %s, activation %s",
        config.task,
        labels,
        head.problem_type,
        pipeline.activation,
    )
    config = replace(
        config, pipeline=pipeline, pooling_strategy=_POOLING[head.pooling], pooling_layer=(-1,), normalize="auto"
    )
    return config, model
